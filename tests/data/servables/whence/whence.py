"""Tells what its interpreter was given: the variables that a test asks for, and where it is."""

import os
import sys

from hpcserve import Tensor, method


@method(inputs={"names": Tensor("JSON")}, outputs={"told": Tensor("JSON")})
def tell(names):
    return {"prefix": sys.prefix, **{name: os.environ.get(name) for name in names}}
