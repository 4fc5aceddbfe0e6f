"""Gives back what it is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcserve import Tensor, method

Array = np.ndarray[Any, Any]


class Echo:
    """The identity, for numbers, bytes and JSON."""

    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"x": Tensor("float32", [-1])}, batchable=True)
    def echo(self, x: Array) -> Array:
        """The numbers ``x: float32[any]``."""
        return x

    @method(inputs={"blob": Tensor("uint8", [-1])}, outputs={"blob": Tensor("uint8", [-1])})
    def blob(self, blob: Array) -> Array:
        """The bytes ``blob: uint8[any]``."""
        return blob

    @method(inputs={"value": Tensor("JSON")}, outputs={"value": Tensor("JSON")})
    def value(self, value: object, *, parameters: dict[str, object]) -> dict[str, object]:
        """The JSON ``value``; with the parameter ``wrap``, below that name."""
        return {"value": {str(parameters["wrap"]): value} if "wrap" in parameters else value}
