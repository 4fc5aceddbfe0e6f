"""The manifest: what a servable is called, how it is loaded, and what its methods take and give.

On disk it is ``servable.toml`` (read by :mod:`hpcserve.registry.manifest_file`); on its way to a replica
it is JSON. This module holds the rules that need no file: known fields, names, dtypes, shapes. Whether
the files exist and what the loader makes of them is decided elsewhere.
"""

from __future__ import annotations

import keyword
import math
import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from hpcserve import tables
from hpcserve.core.spelling import nearest
from hpcserve.errors import ManifestError, UnknownMethod
from hpcserve.wire.dtype_names import BYTES, JSON, MAX_AXES, NAMES

_SERVABLE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TARGET = re.compile(r"/[^\s:]*")
# What a module command could take for an option, and old ones hand to a shell, is none.
_MODULE = re.compile(r"[\w.+/@][\w.+/@:=,~-]*", re.ASCII)
_PROGRAM = re.compile(r"\w[\w.+-]*", re.ASCII)
_DEVICE = re.compile(r"[a-z]+(:\d+)?", re.ASCII)
_DIRECTORIES = {"venv": "virtual environment", "conda": "conda environment"}

LAYERS = ("python", "mpich", "openmpi", "torch")
"""The images of hpcserve's own on which a servable's can stand: Debian's Python, and what can be put over it."""
_LAYER = re.compile(r"([a-z]+)((?:[<>=!~]=?[\w.+*]+)(?:,[<>=!~]=?[\w.+*]+)*)?", re.ASCII)

T = TypeVar("T")


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the manifest's structs."""


class TensorDecl(Declaration, frozen=True):
    """One input or output: ``dtype`` is a name of :data:`hpcserve.wire.tensor.NAMES`.

    An axis of ``-1`` may have any length; ``shape = []`` is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        check_identifier("a tensor's name", self.name)
        if self.dtype not in NAMES:
            raise ValueError(f"unknown dtype {self.dtype!r}{nearest(self.dtype, NAMES)}")
        if any(length < -1 for length in self.shape):
            raise ValueError(f"shape {list(self.shape)}: an axis is -1 (any length), 0 or more")
        if len(self.shape) > MAX_AXES:
            raise ValueError(f"shape of {len(self.shape)} axes: at most {MAX_AXES} are allowed")
        if self.dtype == JSON and self.shape:
            raise ValueError(f"shape {list(self.shape)}: a JSON value has shape []")


class Batching(Declaration, frozen=True):
    """How the requests of a batchable method may be joined.

    ``max_batch_size``: most samples of a batch; 1 turns joining off. ``max_wait_ms``: how long a batch that is not full
    may wait for more. ``preferred_batch_sizes``: sizes that the model is fast at. ``pad``: for inputs whose axes after
    the first may differ from request to request, the value that fills them up. ``cut``: for an output the padded input
    whose lengths its own axes of any length have, in order; they are cut back to those that the request's input had.
    """

    max_batch_size: Annotated[int, msgspec.Meta(ge=1)] = 256
    max_wait_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    preferred_batch_sizes: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = ()
    pad: dict[str, float] = {}
    cut: dict[str, str] = {}


class MethodSpec(Declaration, frozen=True):
    """What one method takes and gives.

    ``idempotent``: it may run twice if its replica dies. ``batchable``: the first axis of every input and
    output counts samples that may be computed together. ``parameters``: it takes the request's parameters.
    ``stream``: it yields items, each with all the outputs. ``launches``: it returns what computes on, a
    :class:`~hpcserve.servable.api.Pending`. The rest is for batchable methods: see :class:`Batching`.
    """

    inputs: tuple[TensorDecl, ...]
    outputs: tuple[TensorDecl, ...]
    idempotent: bool = True
    batchable: bool = False
    parameters: bool = False
    batching: Batching = Batching()
    stream: bool = False
    launches: bool = False

    def __post_init__(self) -> None:
        for noun, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"two {noun}s are called {twice!r}")
        if any(tensor.name == "parameters" for tensor in self.inputs):
            raise ValueError("an input cannot be called 'parameters': that is the request's own dictionary")
        if self.launches and self.stream:
            raise ValueError("launches: a method that yields a stream computes each item when it is asked for it")
        if self.batchable and self.stream:
            raise ValueError("batchable: a method that yields a stream is called for one request at a time")
        if self.batchable:
            self._check_batchable()
        elif self.batching != Batching():
            raise ValueError("batching: has a meaning only with batchable = true")

    def _check_batchable(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError("batchable: needs at least one input and one output")
        for tensor in (*self.inputs, *self.outputs):
            if tensor.shape[:1] != (-1,):
                raise ValueError(f"batchable: the first axis of {tensor.name!r} must be -1, the number of samples")
        inputs = {tensor.name: tensor for tensor in self.inputs}
        outputs = {tensor.name: tensor for tensor in self.outputs}
        for name, value in self.batching.pad.items():
            if -1 not in _ragged(inputs, name, "pad"):
                raise ValueError(f"pad: no axis of input {name!r} after the first has any length: nothing to pad")
            if not _holds(inputs[name].dtype, self.batching.pad[name]):
                raise ValueError(f"pad: input {name!r} is {inputs[name].dtype}, which does not hold {value}")
        for name, like in self.batching.cut.items():
            if like not in self.batching.pad:
                raise ValueError(f"cut: output {name!r} is cut like {like!r}, which is not among the inputs of pad")
            if _ragged(outputs, name, "cut").count(-1) != _ragged(inputs, like, "cut").count(-1):
                raise ValueError(f"cut: {name!r} and {like!r} have different numbers of axes of any length")


def _holds(dtype: str, value: float) -> bool:
    """Whether a number can be written in a dtype without becoming another."""
    if dtype == "bool":
        return value in (0, 1)
    bits = re.fullmatch(r"(u?)int(\d+)", dtype)
    if bits is None:
        return dtype != BYTES
    low, high = (0, 1 << int(bits[2])) if bits[1] else (-(1 << int(bits[2]) - 1), 1 << int(bits[2]) - 1)
    return value == int(value) and low <= value < high if abs(value) < math.inf else False


def _ragged(tensors: dict[str, TensorDecl], name: str, field: str) -> tuple[int, ...]:
    """The axes of a tensor after the first."""
    if name not in tensors:
        raise ValueError(f"{field}: unknown tensor {name!r}{nearest(name, tensors)}")
    return tensors[name].shape[1:]


class Build(Declaration, frozen=True):
    """What ``hpcserve container build`` makes the image of.

    ``base``: the path of the image below, or what it is to have: names of :data:`LAYERS`, each with a version where one
    is wanted; empty: Debian's own Python. ``requirements``: packages, as pip understands them. ``files``: each
    ``SOURCE:/TARGET``, the source relative to the servable's directory. ``post``: commands of the shell that run inside
    at the end, without a network.
    """

    base: str | tuple[str, ...] = ""
    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    post: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [layer_name(each) for each in self.layers]
        if len(set(names)) < len(names) or {"mpich", "openmpi"} <= set(names):
            raise ValueError(f"base {list(self.layers)}: expected each name once, and one MPI")
        for each in self.files:
            source, _, target = each.partition(":")
            if not source or source.startswith("/") or ".." in source.split("/") or not _TARGET.fullmatch(target):
                raise ValueError(
                    f"files: expected SOURCE:/TARGET, the source inside the servable's directory and no space in the "
                    f"target, got {each!r}"
                )
        for line in (*self.requirements, *self.post):
            if not line.strip() or "\n" in line or line.lstrip().startswith(("%", "-")):
                raise ValueError(f"{line!r}: expected one requirement or one command")

    @property
    def layers(self) -> tuple[str, ...]:
        """What is put over Debian's Python, for it to stand on; empty if that is all, or the base is a path."""
        if isinstance(self.base, tuple):
            return self.base
        return () if self.base.startswith("/") or not self.base else (self.base,)


def layer_name(wanted: str) -> str:
    """Which of :data:`LAYERS` is meant by something like ``torch==2.13.0``.

    Raises:
        ValueError: None of them.
    """
    found = _LAYER.fullmatch(wanted)
    if found is None or found[1] not in LAYERS or (found[1] == LAYERS[0] and found[2]):
        raise ValueError(
            f'base {wanted!r}: expected the whole path of an image, or of {", ".join(LAYERS)}, such as "mpich" or '
            '["mpich", "torch==2.13.0"]'
        )
    return found[1]


class Image(Declaration, frozen=True):
    """An image as it was when its servable was published, which fills this in.

    ``python`` is its Python's version. ``packages``: the directory with the packages that it lacks, or empty.
    """

    sha256: str
    size_bytes: int
    mtime_ns: int
    python: str
    packages: str = ""


class WarmUp(Declaration, frozen=True):
    """What a replica computes before it is ready. ``method`` may be left out where a call need not name it.

    ``inputs``: values by name, as JSON. ``file``: an .npz file of the directory, with arrays by name. ``shapes``: of
    inputs that neither has; they are filled with zeros, or at random by the ``seed``. ``batch_sizes``: of a batchable
    method, in which numbers the samples are run too; None: in its preferred batch sizes.
    """

    method: str = ""
    inputs: dict[str, Any] = {}
    file: str | None = None
    shapes: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], ...]] = {}
    fill: Literal["zeros", "random"] = "zeros"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    parameters: dict[str, Any] = {}
    batch_sizes: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] | None = None


class Environment(Declaration, frozen=True):
    """The interpreter that runs the servable.

    ``same``: the daemon's own. ``venv``, ``conda``: that of the virtual environment, or of the conda environment, in
    the directory ``path``. ``module``: ``python`` as it is found once the site's ``modules`` are loaded, in order.
    ``container``: ``python`` of the ``image``.
    """

    kind: Literal["same", "venv", "conda", "module", "container"] = "same"
    path: str | None = None
    modules: tuple[str, ...] = ()
    python: str = "python3"
    image: str | None = None
    build: Build | None = None
    published: Image | None = None

    def __post_init__(self) -> None:
        directory = _DIRECTORIES.get(self.kind)
        if directory and not self.path:
            raise ValueError(f'kind = "{self.kind}" needs a path, that of the {directory}\'s directory')
        if directory and not str(self.path).startswith("/"):
            raise ValueError(f"path {self.path!r} is relative; give the whole path of the {directory}")
        if not directory and self.path is not None:
            raise ValueError(f'path {self.path!r} has no meaning with kind = "{self.kind}"; use "venv" or "conda"')
        if self.kind == "container" and not str(self.image).startswith("/"):
            got = f"got {self.image!r}" if self.image else "and there is none"
            raise ValueError(f'image: kind = "container" needs the whole path of an image\'s file, {got}')
        if self.kind != "container" and (self.image is not None or self.build is not None):
            field = "build" if self.image is None else "image"
            raise ValueError(f'{field}: has no meaning with kind = "{self.kind}"; use kind = "container"')
        if self.kind == "module":
            self._check_modules()
        elif self.modules or (self.python != "python3" and self.kind != "container"):
            field = "modules" if self.modules else "python"
            raise ValueError(f'{field}: has no meaning with kind = "{self.kind}"; use kind = "module"')

    def _check_modules(self) -> None:
        if not self.modules:
            raise ValueError('kind = "module" needs modules, such as modules = ["python/3.11"]')
        for module in self.modules:
            if not _MODULE.fullmatch(module):
                raise ValueError(f"modules: {module!r} is no module's name, such as python/3.11")
        if not (self.python.startswith("/") or _PROGRAM.fullmatch(self.python)):
            raise ValueError(f"python: expected a program's name or its whole path, got {self.python!r}")


class Ranks(Declaration, frozen=True):
    """The MPI processes that one replica is made of, spread evenly over ``nodes``.

    ``data-parallel``: each computes a share of the batch's samples. ``collective``: each gets the whole input and the
    communicator, and what rank 0 returns is the answer. ``gpus_per_rank``: so many whole GPUs are each rank's own; 0:
    it has what its slot has, be it a part of one. ``grace_s``: so many seconds the ranks of a collective servable may
    take to return once one of them has failed; then the group ends.
    """

    size: Annotated[int, msgspec.Meta(ge=1)] = 1
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    compute: Literal["data-parallel", "collective"] = "data-parallel"
    gpus_per_rank: Annotated[int, msgspec.Meta(ge=0)] = 0
    grace_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0

    def __post_init__(self) -> None:
        if self.size % self.nodes:
            raise ValueError(
                f"size {self.size}: expected a multiple of nodes, {self.nodes}: as many ranks on each node"
            )

    @property
    def per_node(self) -> int:
        """How many of them run on each node."""
        return self.size // self.nodes


class Torch(Declaration, frozen=True):
    """How loader ``torch`` runs its model.

    ``device``: as torch names it; ``auto``: a GPU where there is one. ``dtype``: what the model computes in; empty: as
    it is. ``compile``: by ``torch.compile``, or by the backend of this name. ``cuda_graphs``: for each of a method's
    preferred batch sizes the GPU's work is recorded once, and played for every batch of up to so many samples.
    """

    device: str = "auto"
    dtype: Literal["", "float16", "bfloat16", "float32", "float64"] = ""
    compile: bool | str = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f'device {self.device!r}: expected "auto", "cpu", "cuda" or another name of torch')
        if self.cuda_graphs and self.device != "auto" and not self.device.startswith("cuda"):
            raise ValueError(f'cuda_graphs: has no meaning with device = "{self.device}"; use "auto" or "cuda"')


class Manifest(Declaration, frozen=True):
    """A servable. ``entry`` and ``file`` are for its loader: see :mod:`hpcserve.servable.loaders`."""

    name: str
    loader: str
    description: str = ""
    entry: str | None = None
    file: str | None = None
    environment: Environment = Environment()
    methods: dict[str, MethodSpec] = {}
    warmup: tuple[WarmUp, ...] = ()
    ranks: Ranks = Ranks()
    torch: Torch = Torch()

    def __post_init__(self) -> None:
        check_name("a servable's name", self.name)
        if self.loader in ("python", "sklearn") and self.torch != Torch():
            raise ValueError(f'torch: has a meaning only with loader = "torch", not with "{self.loader}"')
        for method in self.methods:
            check_identifier("a method's name", method)


def check_name(what: str, name: str) -> None:
    """The rule for the names of servables, aliases and endpoints.

    Raises:
        ValueError: ``name`` breaks it; the message says ``what`` it was to name.
    """
    if not _SERVABLE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be {what}: use a-z, 0-9, _ and -, a letter first, at most 63 characters")


def check_identifier(what: str, name: str) -> None:
    """The rule for the names of methods and tensors: a public Python identifier of at most 63 characters.

    Raises:
        ValueError: ``name`` breaks it; the message says ``what`` it was to name.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or len(name) > 63:
        raise ValueError(
            f"{name!r} cannot be {what}: use a Python identifier of at most 63 characters, not starting with _"
        )


def method_named(manifest: Manifest, method: str) -> MethodSpec:
    """The declaration of ``method``.

    Raises:
        UnknownMethod: The servable has none of this name; the message has the nearest ones.
    """
    spec = manifest.methods.get(method)
    if spec is None:
        raise UnknownMethod(f"servable {manifest.name!r} has no method {method!r}{nearest(method, manifest.methods)}")
    return spec


def default_method(manifest: Manifest) -> str:
    """The method of a call that names none: the only one, else ``predict``, else ``""`` (there is no default)."""
    if len(manifest.methods) == 1:
        return next(iter(manifest.methods))
    return "predict" if "predict" in manifest.methods else ""


def to_json(manifest: Manifest) -> str:
    """The manifest as the JSON text that travels to a replica."""
    return msgspec.json.encode(manifest).decode()


def from_json(text: str | bytes) -> Manifest:
    """The manifest that :func:`to_json` wrote.

    Raises:
        ManifestError: ``text`` is something else.
    """
    try:
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(f"not a manifest: {error}") from error


def from_table(table: dict[str, Any], source: str = "servable.toml") -> Manifest:
    """The manifest in a parsed TOML table.

    Args:
        table: The whole file.
        source: What to call the file in errors.

    Raises:
        ManifestError: A field is unknown, missing or wrong; the message has the file and the place.
    """
    methods = table.get("methods", {})
    if not isinstance(methods, dict):
        raise ManifestError(f"{source}: methods: expected a table for each method, got {methods!r}")
    head = {key: value for key, value in table.items() if key != "methods"}
    manifest = _convert(head, Manifest, source, "")
    # One by one: msgspec names a dictionary's place `[...]`, without the key.
    specs = {name: _convert(spec, MethodSpec, source, f"methods.{name}") for name, spec in methods.items()}
    try:
        return msgspec.structs.replace(manifest, methods=specs)
    except ValueError as error:
        raise ManifestError(f"{source}: methods: {error}") from error


def _convert(value: object, kind: type[T], source: str, place: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `$")
        inner = inner.rstrip("`").lstrip(".")
        where = ": ".join(part for part in (source, ".".join(p for p in (place, inner) if p)) if part)
        raise ManifestError(f"{where}: {_reworded(text, kind, inner, value)}") from error


def _reworded(text: str, kind: type, inner: str, value: object) -> str:
    """The message of msgspec in the words of the manifest, with the nearest field's name, or what is allowed."""
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        return f"unknown field {unknown[1]!r}{nearest(unknown[1], tables.fields_at(kind, inner))}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if missing:
        return f"field {missing[1]!r} is missing"
    return tables.expected(text[:1].lower() + text[1:], kind, inner, tables.value_at(value, inner))
