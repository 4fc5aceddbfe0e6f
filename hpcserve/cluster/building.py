"""Builds images with Apptainer: a servable's own, and those of hpcserve's own on which it can stand.

Nothing is built twice: an image tells by a label what it was made of, packages are kept by what was asked for, and
images of our own by their definition files and what was asked for. Of several that want the same one makes it, and the
others wait.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import msgspec

from hpcserve.cluster import build_run
from hpcserve.cluster.build_places import alone, not_written, scratch
from hpcserve.cluster.definition import LABEL, Content, definition
from hpcserve.cluster.gather import gather_into, gather_prefix, is_gathered
from hpcserve.cluster.images import Images, Interpreter
from hpcserve.cluster.layers import BOTTOM, Layer, layers
from hpcserve.cluster.packages import requirements
from hpcserve.cluster.wholeness import is_whole, note
from hpcserve.errors import ConfigError, ManifestError

TIMEOUT_S = 3600.0
BLOCK_BYTES = 1 << 20
_PYTHON = "python3"
"""The interpreter of the images that are made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an image is to be.

    Attributes:
        image: Its path.
        base: The path of the image below.
        python: What the interpreter is called there.
        requirements: The packages, as pip understands them; hpcserve's own are added.
        files: Files and directories, and where they are to be inside.
        post: Commands of the shell that run inside at the end.
        ranks: Whether replicas of several ranks are to run in it: they need mpi4py, which the base may have.
    """

    image: Path
    base: Path
    python: str
    requirements: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]
    post: tuple[str, ...]
    ranks: bool = False


class Builder:
    """Builds images.

    Args:
        images: Looks at them.
        command: Apptainer's.
        cache: Where packages and the standard image are kept.
        environment: Of Apptainer.
        tell: Called with each step, in words.
    """

    def __init__(
        self,
        images: Images,
        *,
        command: str,
        cache: Path,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self._images = images
        self._command = command
        self._cache = cache
        self._environment = dict(environment)
        self._tell = tell

    def build(self, plan: Plan) -> bool:
        """Makes the image; False where it is there already, made of the same.

        Raises:
            ManifestError: The base cannot be used, a file is missing, or a command fails.
            ConfigError: Packages cannot be had, or files not be written.
            StorageFull: There is no room.
        """
        if plan.image.is_dir():
            raise ManifestError(f"environment.image: {plan.image} is a directory; give the path of a file")
        with self._alone(plan.image):
            return self._build(plan)

    def _build(self, plan: Plan) -> bool:
        base = self._images.file(str(plan.base))
        found = self._images.python(str(plan.base), plan.python)
        ours = requirements(ranks=plan.ranks and "mpi4py" not in found.packages)
        wanted = tuple(sorted({*plan.requirements, *ours}))
        version = f"{found.python[0]}.{found.python[1]} {found.machine}"
        content = Content(
            base=base.sha256,
            python=version,
            requirements=wanted,
            files=tuple((_digest(source), target) for source, target in plan.files),
            post=plan.post,
        )
        if self._is_whole(plan.image) and self._label(plan.image) == content.key:
            return False
        packages = self._packages(wanted, plan.base, plan.python, found)
        with scratch(self._cache) as place:
            # Names of our own: a definition file has no way to write a space in a path.
            (place / "packages").symlink_to(packages)
            copies = [(f"{place}/packages/*", f"{found.purelib}/")]
            for number, (source, target) in enumerate(plan.files):
                copies.append((_linked(place / str(number), source), target))
            (place / "base.sif").symlink_to(plan.base)
            text = definition(str(place / "base.sif"), key=content.key, copies=copies, post=plan.post)
            (place / "image.def").write_text(text)
            self._apptainer(plan.image, place / "image.def")
        return True

    def standard(self, mirror: str, wanted: Sequence[str]) -> Path:
        """The image with Debian's own Python and what is put over it; made where it is not there yet.

        Args:
            mirror: The URL of a Debian mirror; empty: the one that apt uses here.
            wanted: What is put over it: see :func:`hpcserve.cluster.layers.layers`.

        Raises:
            ManifestError: It cannot be made.
            ConfigError: There is no mirror, or packages cannot be had.
        """
        texts = [_shipped(name) for name in BOTTOM]
        below: Path | None = None
        for index, name in enumerate(BOTTOM):
            key = hashlib.sha256("\n".join(texts[: index + 1]).encode()).hexdigest()[:12]
            image = self._own(name.removesuffix(".def"), key)
            with self._alone(image):
                if not self._is_whole(image):
                    argument = f"mirror={mirror or apt_mirror()}" if below is None else f"base={below}"
                    self._make(image, name, argument)
            below = image
        assert below is not None, "there are two"
        for layer in layers(wanted):
            key = layer.key(key, _shipped(layer.definition))
            image = self._own(layer.name, key)
            with self._alone(image):
                if not self._is_whole(image):
                    self._put_over(below, layer, image)
            below = image
        return below

    def _put_over(self, below: Path, layer: Layer, image: Path) -> None:
        found = self._images.python(str(below), _PYTHON)
        with scratch(self._cache) as place:
            (place / "base.sif").symlink_to(below)
            (place / "packages").symlink_to(self._packages(layer.packages, below, _PYTHON, found))
            arguments = [f"base={place}/base.sif", f"packages={place}/packages", f"purelib={found.purelib}"]
            if layer.prefix:
                (place / "prefix").symlink_to(self._prefix(layer.prefix, found))
                arguments.append(f"prefix={place}/prefix")
            self._make(image, layer.definition, *arguments)

    def _own(self, name: str, key: str) -> Path:
        """The path of an image of our own."""
        return self._cache / "images" / f"{name}-{key}.sif"

    def _make(self, image: Path, name: str, *arguments: str) -> None:
        """An image of a definition file that we ship."""
        options = [word for argument in arguments for word in ("--build-arg", argument)]
        with scratch(self._cache) as place:
            (place / name).write_text(_shipped(name))
            self._apptainer(image, place / name, *options)

    def _packages(self, wanted: Sequence[str], base: Path, python: str, found: Interpreter) -> Path:
        target = self._place(wanted, found)
        compiled = partial(self._images.compile, str(base), python)
        with self._alone(target):
            gather_into(target, wanted, found.python, found.machine, found.libc, compiled=compiled)
        return target

    def _prefix(self, wanted: str, found: Interpreter) -> Path:
        target = self._place([wanted], found, what="prefix")
        with self._alone(target):
            gather_prefix(target, wanted, found.python, found.machine, found.libc)
        return target

    def _place(self, wanted: Sequence[str], found: Interpreter, *, what: str = "packages") -> Path:
        """Where packages are that were gathered for an image's Python; tells when they are yet to be."""
        version = f"{found.python[0]}.{found.python[1]}"
        said = "\n".join([*wanted, version, found.machine, found.libc])
        target = self._cache / what / hashlib.sha256(said.encode()).hexdigest()[:16]
        if not (is_gathered(target, wanted) if what == "packages" else target.is_dir()):
            self._tell(f"gathering packages for Python {version}: {', '.join(wanted)}")
        return target

    def _label(self, image: Path) -> str:
        """What an image was made of; empty where it does not say."""
        argv = [self._command, "inspect", "--json", "--labels", str(image)]
        done = subprocess.run(argv, env=self._environment, capture_output=True, timeout=TIMEOUT_S, check=False)
        try:
            said = msgspec.json.decode(done.stdout)["data"]["attributes"]["labels"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            return ""
        return str(said.get(LABEL, ""))

    def _apptainer(self, image: Path, definition_file: Path, *options: str) -> None:
        self._tell(f"building {image}")
        build_run.build(self._command, image, definition_file, options, environment=self._environment, tell=self._tell)
        try:
            note(self._cache, image)
        except OSError as error:
            raise not_written(str(self._cache), error) from error

    def _is_whole(self, image: Path) -> bool:
        """Whether it is there, and as it was made if it was made here; tells where it is not."""
        if not image.exists():
            return False
        try:
            whole = is_whole(self._cache, image)
        except OSError as error:
            raise ManifestError(f"image {image}: {error.strerror}; remove it and build it again") from error
        if not whole:
            self._tell(f"{image} is not what was built any more: it is built anew")
        return whole

    def _alone(self, made: Path) -> AbstractContextManager[None]:
        return alone(self._cache, made, self._tell)


def _shipped(name: str) -> str:
    """The text of a definition file."""
    return files("hpcserve.containers").joinpath(name).read_text()


def apt_mirror() -> str:
    """The URL of the Debian mirror that this machine's apt uses.

    Raises:
        ConfigError: There is none.
    """
    argv = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout
    except OSError:
        said = ""
    for line in said.splitlines():
        label, _, mirror = line.partition(" ")
        if label == "Debian":
            return mirror
    raise ConfigError(
        "no Debian mirror is known here, from which the standard image could be made; name one by --mirror URL, or an "
        "image of your own by environment.build.base"
    )


def _linked(directory: Path, source: Path) -> str:
    """Where a link to a file lies under the file's own name, alone: a target may be the directory to put it into."""
    directory.mkdir()
    (directory / source.name).symlink_to(source)
    return f"{directory}/{re.sub(r'[^A-Za-z0-9._-]+', '*', source.name)}"


def _digest(source: Path) -> str:
    """Of a file, or of all that is below a directory: names, modes, where links lead, and what is in the files."""
    if not source.exists():
        raise ManifestError(f"environment.build.files: there is no {source}")
    digest = hashlib.sha256()
    below = [source, *sorted(source.rglob("*"))] if source.is_dir() else [source]
    for each in below:
        # What the manifest names is copied itself, where it is a link; links below it stay links.
        linked = each != source and each.is_symlink()
        mode = (each.lstat() if linked else each.stat()).st_mode
        digest.update(f"{each.relative_to(source)}\0{mode:o}\0".encode(errors="surrogateescape"))
        if linked:
            digest.update(os.fsencode(each.readlink()) + b"\0")
        elif stat.S_ISREG(mode):
            digest.update(_digest_of_file(each))
    return digest.hexdigest()


def _digest_of_file(file: Path) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as content:
        while block := content.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()
