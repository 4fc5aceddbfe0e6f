"""The layout of a staged result: an HDF5 file with a data set for each output.

========================  ==================================================================================
of the file               what it holds
========================  ==================================================================================
``hpcserve_format``       1
``servable``              the servable's name
``version``               the sha256 that names its version
``image``                 the sha256 of the container image that it ran in, or empty
``method``, ``request``   what was called: the method, and the request's session and number, ``HEX/N``
``replica``, ``time``     who wrote it, and when: ISO 8601, UTC
========================  ==================================================================================

A data set has the attributes ``sha256`` (of the tensor's bytes in C order), ``dtype`` and ``shape`` as on the wire.
What HDF5 has no type for lies there otherwise: ``bfloat16`` and the like as unsigned integers of their size; ``BYTES``
and ``JSON`` as the octets that travel in their frames.
"""

from __future__ import annotations

from hpcserve.wire.dtype_names import BYTES, JSON, ML_DTYPES

FORMAT = 1
SUFFIX = ".h5"
MARK = ".service"
"""A file in the directory of staged results, which holds the key of the service that writes there."""
PARTIAL = ".partial"
"""The end of the name of a file that is being written; it begins with a dot."""


def dataset_of(name: str) -> str:
    """The path of an output's data set; in an HDF5 path a slash and a lone dot mean something else."""
    plain = name.replace("%", "%25").replace("/", "%2F")
    return f"/{plain.replace('.', '%2E') if not plain.strip('.') else plain}"


def stored_as(dtype: str) -> str | None:
    """The dtype that stands in the file for one that HDF5 does not know; None: it stands for itself."""
    if dtype in (BYTES, JSON):
        return "uint8"
    size = ML_DTYPES.get(dtype)
    return None if size is None else f"uint{8 * size}"
