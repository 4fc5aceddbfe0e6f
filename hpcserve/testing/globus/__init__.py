"""A loopback stand-in for Globus: Auth, Groups and Transfer over HTTPS, for tests and for trying things out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcserve.testing.globus.loopback import LoopbackGlobus

__all__ = ["LoopbackGlobus"]


def __getattr__(name: str) -> Any:
    """When it is wanted, so that what needs the extra can say so by itself."""
    if name != "LoopbackGlobus":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from hpcserve.testing.globus.loopback import LoopbackGlobus
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the stand-in for Globus needs {error.name}, which is not installed; pip install 'hpcserve[globus]'",
            name=error.name,
        ) from error
    return LoopbackGlobus
