"""What a servable's author writes: ``Tensor`` declarations and the ``method`` decorator.

The decorator records a declaration and changes nothing else, so a decorated function can be called and
tested as before. What the declarations mean at run time is decided by :mod:`hpcserve.servable.loaders`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, TypeVar

from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.manifest import Batching, MethodSpec, TensorDecl

_MARK = "__hpcserve_method__"

F = TypeVar("F", bound=Callable[..., object])


def _never() -> bool:
    return False


def _no_communicator() -> Any:
    raise ServableError("there is no communicator here: the servable runs outside of a replica")


@dataclass(frozen=True)
class Context:
    """Where a servable runs; handed to its ``setup``.

    Attributes:
        directory: The servable's files, read-only.
        servable: The servable's name.
        version: The sha256 of its content; empty where it runs unpublished.
        deployment: The deployment that this replica belongs to; empty where there is none.
        replica: The replica's id; empty where there is none.
        rank: Which of the replica's MPI processes this is, from 0.
        size: How many there are.
        watch: What :attr:`cancelled` asks.
        communicator: What :attr:`comm` asks.
    """

    directory: Path
    servable: str = ""
    version: str = ""
    deployment: str = ""
    replica: str = ""
    rank: int = 0
    size: int = 1
    watch: Callable[[], bool] = field(default=_never, repr=False, compare=False)
    communicator: Callable[[], Any] = field(default=_no_communicator, repr=False, compare=False)

    @property
    def comm(self) -> Any:
        """The communicator of the replica's ranks, an ``mpi4py.MPI.Intracomm`` of the servable's own.

        A method that has an argument ``comm`` gets it too. After a call that raised on all ranks it is another one.

        Raises:
            ServableError: mpi4py is not there.
        """
        return self.communicator()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more for what the method computes now: it may stop, by raising anything.

        To be asked now and then by a method that takes long. In a batch it is true when nobody waits for any of its
        requests. In a thread of the servable's own it is what the replica's thread was told last. Of several ranks only
        rank 0 is told: it tells the others, or they would wait for it for ever.
        """
        return self.watch()


class Tensor:
    """Declares an input or output.

    Args:
        dtype: A name of :data:`hpcserve.wire.tensor.NAMES`, such as ``"float32"``, ``"BYTES"`` or ``"JSON"``.
        shape: The length of each axis; -1 for any.
        name: Its name, where the declarations are given as a list.
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, dtype: str, shape: Sequence[int] = (), *, name: str = "") -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        self.name = name

    def __repr__(self) -> str:
        return f"Tensor({self.dtype!r}, {list(self.shape)}" + (f", name={self.name!r})" if self.name else ")")


Tensors = Mapping[str, Tensor] | Sequence[Tensor]
"""Declarations by name, or a list of named ones."""


class SampleError(Exception):
    """Raised by a batchable method: one sample is at fault, and the others are not.

    Args:
        index: Its place along the first axis of the inputs that the method was called with.
        message: What is wrong with it, for the caller.
    """

    def __init__(self, index: SupportsIndex, message: str) -> None:
        super().__init__(message)
        self.index = operator.index(index)


class Pending(Protocol):
    """What a method with ``launches = True`` returns: its call computes on, elsewhere. A ``Future`` is one."""

    def done(self) -> bool:
        """Whether :meth:`result` need not wait. Asked again and again: it takes no time."""

    def result(self) -> object:
        """What a plain method returns; waits for it, and raises what went wrong. Asked once."""


def method(
    *,
    inputs: Tensors,
    outputs: Tensors,
    idempotent: bool = True,
    batchable: bool = False,
    batching: Batching | None = None,
    stream: bool = False,
    launches: bool = False,
) -> Callable[[F], F]:
    """Declares a function, or a method of a class, as a method of the servable.

    It is called with its inputs as keyword arguments, and returns a dictionary of its outputs, or the bare
    value where it has exactly one. If it has a keyword-only argument ``parameters``, that is the request's
    dictionary of parameters. An argument ``comm`` that is no input gets :attr:`Context.comm`. A generator function
    makes a stream: each item that it yields is what a plain method returns.

    Args:
        inputs: The declared inputs, by the names of the function's arguments.
        outputs: The declared outputs.
        idempotent: It may run twice if its replica dies while it runs.
        batchable: The first axis of every input and output counts independent samples.
        batching: How the requests of a batchable method may be joined.
        stream: It returns an iterator; true of a generator function without saying so.
        launches: It returns a :class:`Pending` at once: the next call is prepared, and made, while this one computes.

    Raises:
        ManifestError: A declaration is wrong.
    """

    def declare(function: F) -> F:
        where = getattr(function, "__qualname__", repr(function))
        try:
            spec = MethodSpec(
                inputs=_declarations(inputs),
                outputs=_declarations(outputs),
                idempotent=idempotent,
                batchable=batchable,
                parameters=takes_parameters(function),
                batching=batching or Batching(),
                stream=stream or inspect.isgeneratorfunction(function),
                launches=launches,
            )
        except (TypeError, ValueError) as error:
            raise ManifestError(f"@method of {where}: {error}") from error
        setattr(function, _MARK, spec)
        return function

    return declare


def takes_parameters(function: Callable[..., object]) -> bool:
    """Whether ``function`` has a keyword-only argument ``parameters``."""
    found = inspect.signature(function).parameters.get("parameters")
    return found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY


def takes_comm(function: Callable[..., object], spec: MethodSpec) -> bool:
    """Whether ``function`` wants the communicator: it has an argument ``comm`` that is none of its inputs."""
    return "comm" in inspect.signature(function).parameters and all(one.name != "comm" for one in spec.inputs)


def declared_by(function: object) -> MethodSpec | None:
    """What :func:`method` recorded on ``function``; None where it is not decorated."""
    spec = getattr(function, _MARK, None)
    return spec if isinstance(spec, MethodSpec) else None


def _declarations(tensors: Tensors) -> tuple[TensorDecl, ...]:
    named = tensors.items() if isinstance(tensors, Mapping) else [(_own(one).name, one) for one in tensors]
    return tuple(TensorDecl(name=name, dtype=_own(one).dtype, shape=_own(one).shape) for name, one in named)


def _own(tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f'expected a Tensor, got {tensor!r}; write Tensor("float64", [-1, 64])')
    return tensor
