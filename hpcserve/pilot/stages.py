"""Brings images to the nodes of a pilot before replicas start from them: when, and what follows if it fails.

The copying is done by processes of its own (:mod:`hpcserve.pilot.stage`), one for each node or a group of them, since
the agent never waits for a file. Which nodes go together is decided in :mod:`hpcserve.core.imagecopies`.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpcserve.cluster.hostlist import named
from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.seam import Launcher
from hpcserve.core.imagecopies import groups
from hpcserve.pilot.nodecopies import FRESH_S
from hpcserve.pilot.stageplan import STAGE_MODULE, Plan, Told, encode_plan
from hpcserve.pilot.stageprocess import StageProcess
from hpcserve.pilot.watch import Watch
from hpcserve.servable.manifest import from_json
from hpcserve.wire.launch import NO_TOPOLOGY_FILE, ContainerRules

_log = logging.getLogger(__name__)

_LEAST_S = 120.0
_LEAST_BYTES_PER_S = 10e6  # of a busy file system
_KILL_S = 10.0
_LOST = "the node is lost"
_MOST_TRIES = 2  # for several nodes together; then each by itself
SURE_S = FRESH_S / 2
"""So long after it was found a copy is known to be there, and stays until a container that starts then has it open."""
CLEAN_S = 5.0
"""So long the end of a pilot waits until its copies are removed."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image as it was published."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(slots=True, eq=False)
class Wish:
    """Somebody waits for an image on a node; ``told`` when it is there, or will not be."""

    node: str
    image: _Image
    told: Told | None = None
    told_s: float = 0.0
    """When, on the agent's clock."""

    @property
    def told_cause(self) -> str:
        """What is to be said of a replica that waits for it, or does without."""
        if self.told is None:
            return f"its image {self.image.path} is being copied to {self.node}"
        if self.told.outcome == "shared":
            return f"its image is read from {self.image.path}: no copy of it is on {self.node}: {self.told.why}"
        return ""


@dataclass(slots=True, eq=False)
class _Run:
    """A process that brings an image to some nodes."""

    image: _Image
    nodes: tuple[str, ...]
    process: StageProcess
    due_s: float
    told: dict[str, Told]
    given_up: str = ""


class Stages:
    """The images of one agent's pilot.

    Args:
        rules: Where copies are kept.
        pilot: What its marks at copies are called: no other pilot's are called so.
        launcher: How processes are started on other nodes.
        own: The agent's own node.
        watch: The agent's.
        clock: Monotonic seconds.
        changed: Called when somebody's wish is told.
        environment: Of the processes.
    """

    def __init__(
        self,
        rules: ContainerRules,
        *,
        pilot: str,
        launcher: Launcher,
        own: str,
        watch: Watch,
        clock: Callable[[], float],
        changed: Callable[[], None],
        environment: Mapping[str, str],
    ) -> None:
        self._rules = rules
        self._pilot = pilot
        self._launcher = launcher
        self._own = own
        self._watch = watch
        self._clock = clock
        self._changed = changed
        self._environment = environment
        self._wishes: list[Wish] = []
        self._runs: list[_Run] = []
        self._found: dict[tuple[str, str], Wish] = {}
        self._without: set[tuple[str, str]] = set()
        self._tries: dict[str, int] = {}
        self._used: dict[str, None] = {}
        self._alone = ""

    @property
    def empty(self) -> bool:
        """Whether no process is left."""
        return not self._runs

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return min((run.due_s for run in self._runs), default=None)

    def image_of(self, manifest: str) -> str:
        """The sha256 of the image that is copied for a servable; empty if none is.

        Raises:
            ManifestError: The manifest is not one.
        """
        image = self._image(manifest)
        return image.sha256 if image is not None else ""

    def want(self, manifest: str, node: str) -> Wish | None:
        """The image of a servable is wanted on a node; None where it has none, or none is copied.

        A copy that was there a while ago is looked for again: another pilot may have removed it.

        Raises:
            ManifestError: The manifest is not one.
        """
        image = self._image(manifest)
        if image is None:
            return None
        self._used[image.sha256] = None
        return self._wish(image, node)

    def renewed(self, wish: Wish) -> Wish:
        """The wish itself, or another one if its copy was found so long ago that it may be gone."""
        is_old = wish.told is not None and wish.told.outcome == "staged" and not self._is_sure(wish.told_s)
        return self._wish(wish.image, wish.node) if is_old else wish

    def tick(self, nodes: Sequence[str], using: Collection[str]) -> None:
        """Starts what is missing, and notes what has ended.

        Args:
            nodes: Those that can be used.
            using: The sha256 of images that replicas of this agent run from, or wait for.
        """
        for run in tuple(self._runs):
            self._look(run, nodes)
        for wish in self._wishes:
            if wish.node not in nodes:
                self._tell(wish, _shared(wish.node, _LOST))
        self._wishes = [wish for wish in self._wishes if wish.told is None]
        for image in dict.fromkeys(wish.image for wish in self._wishes):
            self._start_for(image, nodes, using)

    def stop(self) -> None:
        """Ends all processes; nobody gets a copy any more."""
        for wish in self._wishes:
            wish.told = _shared(wish.node, "the pilot ends")
        self._wishes.clear()
        for run in self._runs:
            self._give_up(run, "the pilot ends")

    def clean(self, nodes: Sequence[str]) -> None:
        """Begins to remove the copies from which this pilot's replicas ran, unless the site keeps them.

        Args:
            nodes: Where something can still be started, beside the agent's own.
        """
        used = tuple(self._used)
        if not used or self._rules.stage_keep:
            return
        _log.info("removing the copies of %d images on %d nodes", len(used), len(nodes))
        nothing = _Image("", "", 0)
        others = tuple(node for node in nodes if node != self._own)
        for group in ((self._own,), others) if others else ((self._own,),):
            plan = Plan(
                pilot=self._pilot,
                nodes=group,
                remove=used,
                directory=self._rules.stage_dir,
                limit_bytes=self._rules.stage_bytes,
            )
            self._spawn(nothing, group, plan, CLEAN_S)

    def _wish(self, image: _Image, node: str) -> Wish:
        found = self._found.get((image.sha256, node))
        if found is not None and self._is_sure(found.told_s):
            return found
        wish = Wish(node, image)
        self._wishes.append(wish)
        return wish

    def _is_sure(self, told_s: float) -> bool:
        """Whether a copy is still there that was there at that time."""
        return self._clock() - told_s <= SURE_S

    def _image(self, manifest: str) -> _Image | None:
        if not self._rules.stage_dir or self._rules.runtime != "apptainer":
            return None
        environment = from_json(manifest).environment
        published = environment.published
        if environment.kind != "container" or published is None:
            return None
        return _Image(str(environment.image), published.sha256, published.size_bytes)

    def _start_for(self, image: _Image, nodes: Sequence[str], using: Iterable[str]) -> None:
        under_way = {node for run in self._runs if run.image == image for node in run.nodes}
        wanted = {wish.node for wish in self._wishes if wish.image == image} - under_way
        if not wanted:
            return
        tries = self._tries.get(image.sha256, 0)
        together = self._launcher.elsewhere and not self._alone and tries < _MOST_TRIES
        busy = {node for run in self._runs for node in run.nodes}
        for group in groups(wanted, nodes, together=together):
            if busy.isdisjoint(group):
                self._start(image, group, using)
                busy.update(group)

    def _start(self, image: _Image, group: tuple[str, ...], using: Iterable[str]) -> None:
        plan = Plan(
            pilot=self._pilot,
            nodes=group,
            image=image.path,
            sha256=image.sha256,
            size_bytes=image.size_bytes,
            using=tuple(sorted({*using, image.sha256})),
            directory=self._rules.stage_dir,
            limit_bytes=self._rules.stage_bytes,
        )
        if any((image.sha256, node) not in self._found for node in group):  # else it is looked for again
            _log.info("image %s is copied to %s", image.path, ", ".join(group))
        try:
            self._spawn(image, group, plan, _LEAST_S + image.size_bytes / _LEAST_BYTES_PER_S)
        except OSError as error:
            for node in group:
                self._hear(image, _shared(node, f"its copying cannot be started: {error}"))

    def _spawn(self, image: _Image, group: tuple[str, ...], plan: Plan, within_s: float) -> None:
        argv: tuple[str, ...] = (sys.executable, "-m", STAGE_MODULE, encode_plan(plan))
        environment = self._environment
        if len(group) > 1:
            environment = {**NO_TOPOLOGY_FILE, **environment}
            argv = self._launcher.group(argv, group, 1)
        elif group[0] != self._own:
            argv = self._launcher.command(argv, group[0])
        told: dict[str, Told] = {}

        def hear(each: Told) -> None:
            told[each.node] = each
            if image.sha256:
                self._hear(image, each)

        process = StageProcess(argv, environment, watch=self._watch, told=hear)
        self._runs.append(_Run(image, group, process, self._clock() + within_s, told))

    def _hear(self, image: _Image, told: Told) -> None:
        """What became of an image on a node."""
        if told.alone and not self._alone:
            self._alone = told.alone
            _log.warning("each node reads images from the shared file system by itself: %s", told.alone)
        for sha256 in told.removed:
            _log.info("node %s: the copy of %s was removed to make room", told.node, sha256)
            self._found.pop((sha256, told.node), None)
        copy = (image.sha256, told.node)
        if told.outcome == "staged":
            if copy not in self._found:
                _log.info("image %s is on %s: %s", image.path, told.node, told.path)
            self._found[copy] = Wish(told.node, image, told, self._clock())
            self._without.discard(copy)
        else:
            if copy not in self._without:
                _log.warning("image %s is not copied to %s: %s", image.path, told.node, told.why)
            self._found.pop(copy, None)
            self._without.add(copy)
        for wish in self._wishes:
            if (wish.image, wish.node) == (image, told.node) and wish.told is None:
                self._tell(wish, told)

    def _tell(self, wish: Wish, told: Told) -> None:
        wish.told, wish.told_s = told, self._clock()
        self._changed()

    def _look(self, run: _Run, nodes: Sequence[str]) -> None:
        """Whether a run has ended, or has to."""
        code = run.process.end()
        if code is not None:
            self._end(run, code)
        elif self._clock() >= run.due_s:
            self._give_up(run, "it took too long")
        elif run.image.sha256 and not run.given_up and not set(run.nodes).issubset(nodes):
            self._give_up(run, "one of its nodes is lost")

    def _give_up(self, run: _Run, why: str) -> None:
        """A launcher has its processes ended on SIGTERM; if it does not, it is killed."""
        run.process.signal(signal.SIGKILL if run.given_up else signal.SIGTERM)
        run.given_up = run.given_up or why
        run.due_s = self._clock() + _KILL_S

    def _end(self, run: _Run, code: int) -> None:
        self._runs.remove(run)
        silent = [node for node in run.nodes if node not in run.told]
        if not silent or not run.image.sha256:
            return
        why = run.given_up or f"its copying ended with {exit_in_words(code)}"
        if len(run.nodes) == 1:
            self._hear(run.image, _shared(silent[0], why))
            return
        self._tries[run.image.sha256] = self._tries.get(run.image.sha256, 0) + 1
        _log.warning("image %s did not come to %s: %s; again", run.image.path, ", ".join(silent), why)
        # Those that are left begin without these: the launcher would refuse all of them at once.
        end = self._launcher.ended(code, run.process.complaints.decode(errors="replace"))
        for node in named(silent, end.lost_nodes):
            self._hear(run.image, _shared(node, _LOST))


def _shared(node: str, why: str) -> Told:
    return Told(node=node, outcome="shared", why=why)
