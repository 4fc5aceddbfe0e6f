"""A loaded servable: runs its methods and keeps its promises about outputs and errors.

It decides nothing about batches, deadlines or which request comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcserve.core.spelling import nearest
from hpcserve.errors import InvalidInput, ServableError, UnknownMethod
from hpcserve.servable.launched import Launched, is_pending, settled
from hpcserve.servable.manifest import MethodSpec
from hpcserve.servable.outputs import collect, describe
from hpcserve.servable.signature import Signature, check_outputs
from hpcserve.servable.tracebacks import headline, servable_traceback
from hpcserve.servable.yields import Yields

Arrays = Mapping[str, Any]
"""Inputs by name, as :func:`hpcserve.wire.tensor.unpack` gives them: arrays, or the Python value of a JSON."""

Function = Callable[[Arrays, Mapping[str, Any]], object]
"""A method ready to be called with its inputs by name and the request's parameters."""

MAX_KNOWN_SIGNATURES = 4096


@dataclass(frozen=True)
class Method:
    """One method of a loaded servable."""

    spec: MethodSpec
    function: Function


def _nothing() -> None:
    """The teardown of a servable that needs none."""


class Loaded:
    """A servable whose ``setup`` is done.

    Args:
        methods: The methods by name.
        teardown: Frees what ``setup`` took.
        import_s: How long importing the servable's code took, of the time that loading it took; 0: not measured.
    """

    def __init__(
        self, methods: Mapping[str, Method], teardown: Callable[[], object] = _nothing, *, import_s: float = 0.0
    ) -> None:
        self.import_s = import_s
        self._methods = {name: _for_one_answer(name, one) for name, one in methods.items()}
        self._launching = {name: one for name, one in methods.items() if one.spec.launches}
        self._streams = {name: one for name, one in methods.items() if one.spec.stream}
        self._teardown = teardown
        self._right_outputs: set[tuple[str, Signature]] = set()
        self._right_arrays: dict[tuple[str, np.dtype[Any], tuple[int, ...]], str] = {}

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """What each method takes and gives."""
        return {name: method.spec for name, method in self._methods.items()}

    def declared(self, method: str, parameters: Mapping[str, Any], *, stream: bool = False) -> Method:
        """The method that :meth:`run` calls, or :meth:`stream`.

        Raises:
            UnknownMethod: There is no such method.
            InvalidInput: It takes no parameters and some are given, or it is a plain one and a stream is wanted.
        """
        found = (self._streams if stream else self._methods).get(method)
        if found is None:
            if method not in self._methods:
                raise UnknownMethod(f"the servable has no method {method!r}{nearest(method, self._methods)}")
            raise InvalidInput(f"method {method!r} returns one answer: call it by infer() instead of stream()")
        if parameters and not found.spec.parameters:
            raise _no_parameters(method, parameters)
        return found

    def run(self, method: str, inputs: Arrays, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Calls ``method`` and checks what it returns.

        Args:
            method: The method's name.
            inputs: Every declared input by its name; already checked against the declaration.
            parameters: The request's parameters.

        Returns:
            Every declared output by its name, in the declared order, as :func:`hpcserve.wire.tensor.pack`
            takes them.

        Raises:
            UnknownMethod: There is no such method.
            InvalidInput: The method takes no parameters and some are given, or the servable says so.
            ServableError: The servable's code failed; ``remote_traceback`` says where.
            InvalidOutput: It returned what it does not declare.
        """
        found = self.declared(method, parameters)
        return self._collected(method, found.spec, _called(method, found.function, inputs, parameters))

    def stream(self, method: str, inputs: Arrays, parameters: Mapping[str, Any]) -> Yields:
        """Calls ``method``, which yields a stream; its items are checked as :meth:`run` checks what is returned.

        Raises:
            InvalidInput: The method is a plain one, or takes no parameters and some are given.
            UnknownMethod: There is no such method.
            ServableError: The servable's code failed; ``remote_traceback`` says where.
            InvalidOutput: It returned no iterator.
        """
        found = self.declared(method, parameters, stream=True)
        spec, items = found.spec, _called(method, found.function, inputs, parameters)
        return Yields(method, items, lambda item: self._collected(method, spec, item))

    def launch(self, method: str, inputs: Arrays, parameters: Mapping[str, Any]) -> Launched:
        """Calls a ``method`` that launches; what it comes to is checked as :meth:`run` checks what is returned.

        Raises:
            InvalidInput: It takes no parameters and some are given.
            ServableError: The servable's code failed.
        """
        found = self._launching[method]
        if parameters and not found.spec.parameters:
            raise _no_parameters(method, parameters)
        spec, answer = found.spec, _called(method, found.function, inputs, parameters)

        def is_done() -> object:
            return not is_pending(answer) or _called(method, lambda *_: answer.done(), {}, {})

        def result() -> dict[str, Any]:
            return self._collected(method, spec, _called(method, lambda *_: settled(answer), {}, {}))

        return Launched(is_done, result)

    def take_part(self, method: str, inputs: Arrays, parameters: Mapping[str, Any]) -> None:
        """Calls ``method`` as a rank whose answer nobody wants: whatever it returns, it is not looked at.

        Raises:
            InvalidInput: The servable says so.
            ServableError: The servable's code failed; ``remote_traceback`` says where.
        """
        _called(method, self._methods[method].function, inputs, parameters)

    def take_part_in_stream(self, method: str, inputs: Arrays, parameters: Mapping[str, Any]) -> Yields:
        """The same for a ``method`` that yields a stream: its items are empty.

        Raises:
            InvalidInput: The servable says so.
            ServableError: The servable's code failed; ``remote_traceback`` says where.
            InvalidOutput: It returned no iterator.
        """
        return Yields(method, _called(method, self._streams[method].function, inputs, parameters), lambda _item: {})

    def _collected(self, method: str, spec: MethodSpec, answer: object) -> dict[str, Any]:
        """The outputs in what a method returned or yielded, checked."""
        if type(answer) is np.ndarray:
            name = self._right_arrays.get((method, answer.dtype, answer.shape))
            if name is not None:
                return {name: answer}
        with_outputs = collect(method, spec, answer)
        self._check(method, spec, with_outputs)
        self._remember(method, with_outputs, answer)
        return with_outputs

    def teardown(self) -> None:
        """Calls the servable's own ``teardown``.

        Raises:
            ServableError: It failed.
        """
        try:
            self._teardown()
        except BaseException as error:
            raise ServableError(
                f"teardown failed: {headline(error)}", remote_traceback=servable_traceback(error)
            ) from error

    def _check(self, method: str, spec: MethodSpec, outputs: dict[str, Any]) -> None:
        signature = tuple(describe(tensor, outputs[tensor.name]) for tensor in spec.outputs if tensor.name in outputs)
        if (method, signature) in self._right_outputs:
            return
        check_outputs(method, spec, signature)
        if len(self._right_outputs) >= MAX_KNOWN_SIGNATURES:
            self._right_outputs.clear()
        self._right_outputs.add((method, signature))

    def _remember(self, method: str, outputs: dict[str, Any], answer: object) -> None:
        """An array that was right as it was, whatever its elements: the next like it needs no second look."""
        name, output = next(iter(outputs.items()), ("", None))
        if output is answer and type(answer) is np.ndarray and not answer.dtype.hasobject:
            if len(self._right_arrays) >= MAX_KNOWN_SIGNATURES:
                self._right_arrays.clear()
            self._right_arrays[method, answer.dtype, answer.shape] = name


def _for_one_answer(name: str, method: Method) -> Method:
    """A method as it meets those who want one answer, and wait for it."""
    if method.spec.launches:
        function = method.function
        return Method(method.spec, lambda inputs, parameters: settled(function(inputs, parameters)))
    return _refusing(name, method) if method.spec.stream else method


def _refusing(name: str, method: Method) -> Method:
    """A method that yields a stream."""

    def refuse(_inputs: Arrays, _parameters: Mapping[str, Any]) -> object:
        raise InvalidInput(f"method {name!r} yields a stream: call it by stream() instead of infer()")

    return Method(method.spec, refuse)


def _no_parameters(method: str, parameters: Mapping[str, Any]) -> InvalidInput:
    names = ", ".join(repr(each) for each in sorted(map(str, parameters)))
    return InvalidInput(f"method {method!r} takes no parameters; given: {names}")


def _called(method: str, function: Function, inputs: Arrays, parameters: Mapping[str, Any]) -> Any:
    """Calls the servable's code. ``sys.exit()`` in there is an error of that request, not the replica's end.

    So is a KeyboardInterrupt: a replica ignores SIGINT, hence the servable raised it.
    """
    try:
        return function(inputs, parameters)
    except (InvalidInput, ServableError):
        raise
    except BaseException as error:
        raise ServableError(
            f"method {method!r} failed: {headline(error)}", remote_traceback=servable_traceback(error)
        ) from error
