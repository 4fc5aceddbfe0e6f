"""From the tensors of one request to the tensors, or the error, of its result.

Inputs are checked once for each distinct signature, which is recognised by its bytes in the header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from hpcserve.core.batching import UNBATCHED, Group
from hpcserve.errors import HpcserveError, ServableError, UnknownMethod
from hpcserve.replica.broken import check_device
from hpcserve.replica.joint import Key, check_samples, joined, key_of, parted
from hpcserve.replica.outcome import Outcome, Tensor, failed, returned
from hpcserve.replica.staged import Outlet
from hpcserve.replica.together import of_one_sample, run_together
from hpcserve.servable.api import SampleError
from hpcserve.servable.launched import Launched
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.manifest import Batching, MethodSpec
from hpcserve.servable.signature import check_inputs
from hpcserve.wire.frames import from_raw
from hpcserve.wire.messages import EMPTY_MAP
from hpcserve.wire.tensor import signature, unpack

MAX_KNOWN = 4096
_NO_PARAMETERS = bytes(EMPTY_MAP)


class Items(Protocol):
    """The items of a stream, as :class:`hpcserve.servable.yields.Yields` has them."""

    def next(self) -> dict[str, Any] | None:
        """The outputs of the next item by name; None at the end."""

    def close(self) -> None:
        """Ends the stream before its time."""


class Servable(Protocol):
    """What computes: a :class:`hpcserve.servable.loaded.Loaded`, or all ranks of a replica by the same methods."""

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """What each method takes and gives."""

    def run(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Calls ``method``; returns its outputs by name."""

    def stream(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Items:
        """Calls a ``method`` that yields a stream."""

    def teardown(self) -> None:
        """Frees what it took."""


class _Known(NamedTuple):
    """What is the same for all requests of one signature.

    ``key`` is None where nothing is known of samples; ``group`` is that of the requests without parameters.
    """

    names: tuple[str, ...]
    key: Key | None
    samples: int
    group: Group


class Flight(NamedTuple):
    """A call that was launched: whether it is ``done``, and what it came to: ``land`` waits if it is not.

    ``land`` is called once, with what says whether nobody waits any more; it returns what
    :meth:`Executor.run_together` does.
    """

    done: Callable[[], bool]
    land: Callable[[Callable[[], bool]], tuple[list[Outcome], int]]


class _Batch(NamedTuple):
    """Requests that are computed together: the inputs of each, or why there are none; and its samples."""

    method: str
    parameters: msgspec.Raw
    inputs: list[dict[str, Any] | HpcserveError]
    samples: list[int]
    outlets: Sequence[Outlet | None]

    @property
    def good(self) -> dict[int, dict[str, Any]]:
        """Those that have inputs, by their places."""
        return {index: each for index, each in enumerate(self.inputs) if not isinstance(each, HpcserveError)}


class Executor:
    """Runs the methods of one loaded servable."""

    def __init__(self, loaded: Servable, default_method: str) -> None:
        self._loaded = loaded
        self._specs = loaded.methods
        self._default = default_method
        self._launcher = loaded if isinstance(loaded, Loaded) else None
        self.launching = frozenset(name for name, spec in self._specs.items() if spec.launches and self._launcher)
        """The methods that may be launched: none of several ranks, who meet at each call."""
        self._known: dict[tuple[str, bytes], _Known] = {}

    def method(self, name: str) -> str:
        """The method that a request means which may name none."""
        return name or self._default

    def batching(self, method: str) -> Batching:
        """How the requests of a method may be joined."""
        return self._specs[method].batching

    def group(self, method: str, specs: msgspec.Raw, parameters: msgspec.Raw) -> tuple[Group, int]:
        """What a request shares with those that it may be joined with, None if it runs alone; and its samples."""
        try:
            known = self._declared(method, specs)
        except HpcserveError:
            return UNBATCHED, 1  # what is wrong with it, its run will tell
        group = known.group
        if group is UNBATCHED:
            return UNBATCHED, 1
        given = bytes(parameters)
        return group if given == _NO_PARAMETERS else (method, known.key, given), known.samples

    def check(self, method: str, specs: msgspec.Raw) -> None:
        """Checks names, dtypes and shapes of the tensors of a request that has none yet.

        Raises:
            HpcserveError: The method takes no such tensors.
        """
        self._declared(method, specs)

    def run(
        self,
        method: str,
        specs: msgspec.Raw,
        frames: Sequence[Tensor],
        parameters: msgspec.Raw,
        outlet: Outlet | None = None,
    ) -> Outcome:
        """Calls ``method``; whatever goes wrong becomes the outcome's error. ``outlet``: where its outputs may go.

        Raises:
            DeviceBroken: A GPU is of no use any more. So do all that call the servable.
        """
        try:
            known = self._declared(method, specs)
            inputs = unpack(specs, frames, writable=True, names=known.names)
            outputs = self._loaded.run(method, inputs, _parameters(parameters))
            if known.key is not None:
                check_samples(method, outputs, known.samples)
            return returned(method, outputs, inputs, outlet)
        except (HpcserveError, MemoryError) as error:
            return self._failed_alone(method, specs, error)

    def _failed_alone(self, method: str, specs: msgspec.Raw, error: HpcserveError | MemoryError) -> Outcome:
        if isinstance(error, MemoryError):
            return failed(_no_memory(method, error))
        check_device(error)
        fault = error.__cause__
        if isinstance(fault, SampleError) and not 0 <= fault.index < self._declared(method, specs).samples:
            return failed(error)  # what it names is not there
        return failed(of_one_sample(error))

    def launch(
        self,
        method: str,
        specs: msgspec.Raw,
        frames: Sequence[Tensor],
        parameters: msgspec.Raw,
        outlet: Outlet | None = None,
    ) -> Flight:
        """Begins what :meth:`run` does; whatever goes wrong is told when it lands."""
        try:
            known = self._declared(method, specs)
            inputs = unpack(specs, frames, writable=True, names=known.names)
            launched = self._launch(method, inputs, _parameters(parameters))
        except (HpcserveError, MemoryError) as error:
            outcome = self._failed_alone(method, specs, error)
            return Flight(lambda: True, lambda gave_up: ([outcome], 0))

        def land(_gave_up: Callable[[], bool]) -> tuple[list[Outcome], int]:
            try:
                outputs = launched.result()
                if known.key is not None:
                    check_samples(method, outputs, known.samples)
                return [returned(method, outputs, inputs, outlet)], 0
            except (HpcserveError, MemoryError) as error:
                return [self._failed_alone(method, specs, error)], 0

        return Flight(launched.done, land)

    def is_stream(self, method: str) -> bool:
        """Whether the method yields a stream."""
        spec = self._specs.get(method)
        return spec is not None and spec.stream

    def stream(
        self, method: str, specs: msgspec.Raw, frames: Sequence[Tensor], parameters: msgspec.Raw
    ) -> Items | Outcome:
        """Calls a ``method`` that yields a stream; whatever goes wrong becomes the outcome's error."""
        try:
            inputs = unpack(specs, frames, writable=True, names=self._declared(method, specs).names)
            return self._loaded.stream(method, inputs, _parameters(parameters))
        except HpcserveError as error:
            check_device(error)
            return failed(error)
        except MemoryError as error:
            return failed(_no_memory(method, error))

    def item(self, method: str, items: Items) -> Outcome | None:
        """The next item of a stream, or the error that ends it; None at its end."""
        try:
            outputs = items.next()
            return None if outputs is None else returned(method, outputs, {})  # the generator may change its inputs
        except HpcserveError as error:
            check_device(error)
            return failed(error)
        except MemoryError as error:
            return failed(_no_memory(method, error))

    def run_together(
        self,
        method: str,
        requests: Sequence[tuple[msgspec.Raw, Sequence[Tensor]]],
        parameters: msgspec.Raw,
        gave_up: Callable[[], bool],
        outlets: Sequence[Outlet | None] = (),
    ) -> tuple[list[Outcome], int]:
        """Calls ``method`` once for several requests of one group, or more often if that fails.

        ``gave_up`` says whether nobody waits for them any more; ``outlets``: where the outputs of each may go.

        Returns:
            The outcome of each; and the fewest samples for which there was no memory, or 0.
        """
        return self._settled(self._batch(method, requests, parameters, outlets), gave_up)

    def launch_together(
        self,
        method: str,
        requests: Sequence[tuple[msgspec.Raw, Sequence[Tensor]]],
        parameters: msgspec.Raw,
        outlets: Sequence[Outlet | None] = (),
    ) -> Flight:
        """Begins what :meth:`run_together` does. If it fails, its parts are run one after the other as it lands."""
        batch = self._batch(method, requests, parameters, outlets)
        together = list(batch.good.values())
        first: Launched | HpcserveError | None = None
        try:
            if together:
                inputs = joined(self._specs[method], together)
                first = self._launch(method, inputs, _parameters(parameters))
        except HpcserveError as error:
            first = error
        except MemoryError as error:
            first = _no_memory(method, error)
            first.__cause__ = error
        done = first.done if isinstance(first, Launched) else lambda: True
        return Flight(done, lambda gave_up: self._settled(batch, gave_up, first))

    def _launch(self, method: str, inputs: Mapping[str, Any], parameters: dict[str, Any]) -> Launched:
        assert self._launcher is not None, "the method is one of those that may be launched"
        return self._launcher.launch(method, inputs, parameters)

    def _batch(
        self,
        method: str,
        requests: Sequence[tuple[msgspec.Raw, Sequence[Tensor]]],
        parameters: msgspec.Raw,
        outlets: Sequence[Outlet | None],
    ) -> _Batch:
        samples = [self._declared(method, specs).samples for specs, _ in requests]
        inputs = [self._unpacked(method, specs, frames) for specs, frames in requests]
        return _Batch(method, parameters, inputs, samples, outlets or [None] * len(requests))

    def _settled(
        self, batch: _Batch, gave_up: Callable[[], bool], first: Launched | HpcserveError | None = None
    ) -> tuple[list[Outcome], int]:
        """What a batch comes to, of which the ``first`` run, if there is one, was launched or could not be."""
        method, spec, begun = batch.method, self._specs[batch.method], [first] if first is not None else []

        def run(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
            try:
                outputs = _waited_for(begun.pop()) if begun else self._outputs(batch, requests)
                return parted(method, spec, outputs, requests)
            except MemoryError as error:
                raise _no_memory(method, error) from error

        good = batch.good
        results, too_many = run_together(list(good.values()), run, [batch.samples[index] for index in good], gave_up)
        found = dict(zip(good, results, strict=True))
        each_with_its_own = enumerate(zip(batch.inputs, batch.outlets, strict=True))
        return [
            _outcome_of(method, found.get(index, own), outlet) for index, (own, outlet) in each_with_its_own
        ], too_many

    def _outputs(self, batch: _Batch, requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        inputs = joined(self._specs[batch.method], requests)
        return self._loaded.run(batch.method, inputs, _parameters(batch.parameters))

    def _unpacked(self, method: str, specs: msgspec.Raw, frames: Sequence[Tensor]) -> dict[str, Any] | HpcserveError:
        try:
            return unpack(specs, frames, names=self._declared(method, specs).names)
        except HpcserveError as error:
            return error
        except MemoryError as error:
            return _no_memory(method, error)

    def _declared(self, method: str, specs: msgspec.Raw) -> _Known:
        """What is known of a signature, after the check of names, dtypes and shapes."""
        key = (method, bytes(specs))
        known = self._known.get(key)
        if known is None:
            spec = self._specs.get(method)
            if spec is None:
                told = ", ".join(sorted(self._specs))
                raise UnknownMethod(f"the servable has no method {method!r}; it has: {told}")
            described = signature(specs)
            names = check_inputs(method, spec, described)
            kind, samples = key_of(spec, names, described) if spec.batchable else (None, 1)
            # A batch that fails is run again in parts.
            may_join = spec.batchable and spec.idempotent
            known = _Known(names, kind, samples, (method, kind, _NO_PARAMETERS) if may_join else UNBATCHED)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = known
        return known


def _waited_for(first: Launched | HpcserveError) -> dict[str, Any]:
    if isinstance(first, HpcserveError):
        raise first
    return first.result()


def _outcome_of(method: str, result: dict[str, Any] | HpcserveError, outlet: Outlet | None) -> Outcome:
    if isinstance(result, HpcserveError):
        return failed(result)
    try:
        return returned(method, result, {}, outlet)
    except HpcserveError as error:
        return failed(error)
    except MemoryError as error:
        return failed(_no_memory(method, error))


def _no_memory(method: str, error: MemoryError) -> ServableError:
    return ServableError(f"method {method!r}: out of memory: {error}")


def _parameters(parameters: msgspec.Raw) -> dict[str, Any]:
    """The request's own dictionary of parameters: a method may change it."""
    return {} if bytes(parameters) == _NO_PARAMETERS else from_raw(parameters, dict[str, Any])
