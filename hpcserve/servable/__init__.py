"""Servables: what their authors write, and how a replica loads and runs them."""

from hpcserve.servable.api import Context, SampleError, Tensor, method
from hpcserve.servable.manifest import Batching

__all__ = ["Batching", "Context", "SampleError", "Tensor", "method"]
