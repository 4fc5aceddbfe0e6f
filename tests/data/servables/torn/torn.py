"""Can be imported when it is published, and not in a replica: there a package is missing."""

import sys

from hpcserve import Tensor, method

if "hpcserve.replica.loop" in sys.modules:
    import a_package_that_nobody_has  # noqa: F401


@method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
def run(n):
    return n
