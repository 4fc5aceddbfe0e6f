"""A loopback stand-in for Globus: Auth, Groups and Transfer over HTTPS, for tests and for trying things out."""

try:
    from hpcserve.testing.globus.loopback import LoopbackGlobus
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the stand-in for Globus needs {error.name}, which is not installed; pip install 'hpcserve[globus]'",
        name=error.name,
    ) from error

__all__ = ["LoopbackGlobus"]
