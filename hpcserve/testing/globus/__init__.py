"""A loopback stand-in for Globus: Auth, Groups and Transfer over HTTPS, for tests and for trying things out.

It needs the extra ``hpcserve[globus]``.
"""

from hpcserve.testing.globus.loopback import LoopbackGlobus

__all__ = ["LoopbackGlobus"]
