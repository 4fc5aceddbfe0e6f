"""Servables: what their authors write, and how a replica loads and runs them."""

from hpcserve.servable.api import Context, Tensor, method

__all__ = ["Context", "Tensor", "method"]
