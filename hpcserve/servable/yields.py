"""The items of a method that yields a stream: whatever goes wrong among them becomes an error of the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hpcserve.errors import InvalidInput, InvalidOutput, ServableError
from hpcserve.servable.tracebacks import headline, servable_traceback


class Yields:
    """The items, one by one.

    Args:
        method: The method's name, for messages.
        items: What it returned.
        collected: Makes the outputs by name of an item, or raises InvalidOutput.

    Raises:
        InvalidOutput: It returned no iterator.
    """

    def __init__(self, method: str, items: object, collected: Callable[[object], dict[str, Any]]) -> None:
        if not isinstance(items, Iterator):
            raise InvalidOutput(
                f"method {method!r} is declared stream = true and returned a {type(items).__name__}; return an "
                "iterator, or make it a generator function"
            )
        self._method = method
        self._items = items
        self._collected = collected

    def next(self) -> dict[str, Any] | None:
        """The outputs of the next item by name; None at the end.

        Raises:
            InvalidInput: The servable says so.
            ServableError: The servable's code failed; ``remote_traceback`` says where.
            InvalidOutput: It yielded what it does not declare.
        """
        try:
            item = next(self._items)
        except StopIteration:
            return None
        except (InvalidInput, ServableError):
            raise
        except BaseException as error:  # sys.exit() in there is an error of that request, not the replica's end
            raise self._failed(error, "failed") from error
        return self._collected(item)

    def close(self) -> None:
        """Ends the generator before its time: what it has in ``finally`` runs.

        Raises:
            ServableError: That failed.
        """
        close = getattr(self._items, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException as error:
            raise self._failed(error, "failed when its stream was closed") from error

    def _failed(self, error: BaseException, how: str) -> ServableError:
        told = f"method {self._method!r} {how}: {headline(error)}"
        return ServableError(told, remote_traceback=servable_traceback(error))
