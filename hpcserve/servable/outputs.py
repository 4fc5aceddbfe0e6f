"""From what a method returned to the tensors that it declares: names, arrays, dtypes.

Arrays keep their dtype, so that a wrong one is seen; Python numbers and lists take the declared dtype when
that loses nothing. Shapes are checked by :mod:`hpcserve.servable.signature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcserve.core.spelling import nearest
from hpcserve.errors import InvalidInput, InvalidOutput
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.servable.signature import Described, described
from hpcserve.servable.values import byte_strings, numbers
from hpcserve.wire.dtype_names import BYTES, JSON
from hpcserve.wire.dtypes import native_name
from hpcserve.wire.jsonvalue import Json


def collect(method: str, spec: MethodSpec, answer: object) -> dict[str, Any]:
    """The outputs by name, in the declared order, undeclared ones last.

    Args:
        method: The method's name, for messages.
        spec: Its declaration.
        answer: What it returned: a dictionary of outputs, or a bare value if it has exactly one.

    Returns:
        For each output a numpy array (for ``BYTES`` of bytes and text), or, for ``JSON``, a :class:`Json`:
        what :func:`hpcserve.wire.tensor.pack` takes.

    Raises:
        InvalidOutput: ``answer`` is no dictionary where there must be one, has unknown names, or a value
            cannot become an array.
    """
    named = _named(method, spec, answer)
    declared = {tensor.name: tensor for tensor in spec.outputs}
    for name in named:
        if name not in declared:
            raise InvalidOutput(f"method {method!r} returned an unknown output {name!r}{nearest(str(name), declared)}")
    return {name: _converted(method, tensor, named[name]) for name, tensor in declared.items() if name in named}


def describe(tensor: TensorDecl, value: object) -> Described:
    """The name, dtype and shape of one collected output."""
    if tensor.dtype == JSON:
        return tensor.name, JSON, ()
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    dtype = native_name(array.dtype)
    if dtype is None:
        dtype = BYTES if array.dtype.kind in "SUO" else array.dtype.name
    return tensor.name, dtype, array.shape


def _named(method: str, spec: MethodSpec, answer: object) -> Mapping[str, Any]:
    if len(spec.outputs) == 1:
        only = spec.outputs[0]
        by_name = isinstance(answer, Mapping) and (only.dtype != JSON or set(answer) == {only.name})
        return answer if by_name and isinstance(answer, Mapping) else {only.name: answer}
    if isinstance(answer, Mapping):
        return answer
    if answer is None and not spec.outputs:
        return {}
    raise InvalidOutput(
        f"method {method!r} returned a {type(answer).__name__}; return a dictionary of its "
        f"{len(spec.outputs)} outputs: {described(spec.outputs)}"
    )


def _converted(method: str, tensor: TensorDecl, value: object) -> Any:
    if tensor.dtype == JSON:
        return value if isinstance(value, Json) else Json(value)
    try:
        return byte_strings(value) if tensor.dtype == BYTES else numbers(tensor.dtype, value)
    except (TypeError, ValueError, OverflowError, InvalidInput) as error:
        raise InvalidOutput(
            f"method {method!r} returned for output {tensor.name!r} a {type(value).__name__} that cannot be "
            f"{described((tensor,))}: {error}"
        ) from error
