"""The kinds of servables: each loader turns a servable's directory into something that runs."""

from hpcserve.servable.loaders.catalogue import loader_named
from hpcserve.servable.loaders.seam import Loader

__all__ = ["Loader", "loader_named"]
