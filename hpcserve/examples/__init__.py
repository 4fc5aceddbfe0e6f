"""Servables to try hpcserve with.

``pi``, ``echo`` and ``walk`` are complete servable directories; ``digits`` becomes one by
:func:`hpcserve.examples.digits.train.train`, ``surrogate`` by :func:`hpcserve.examples.surrogate.fit.fit`.
"""

from __future__ import annotations

from pathlib import Path

_COMPLETE = ("echo", "pi", "walk")


def path(name: str) -> Path:
    """The directory of the servable ``echo``, ``pi`` or ``walk``, ready to publish.

    Raises:
        ValueError: There is no such example.
    """
    if name not in _COMPLETE:
        raise ValueError(
            f"no complete example {name!r}; there are {', '.join(_COMPLETE)}, and digits and surrogate to be trained"
        )
    return Path(__file__).resolve().parent / name
