"""The image of one replica on all nodes that it takes: whether it has come there, and from where it is to be run."""

from __future__ import annotations

from collections.abc import Sequence

from hpcserve.errors import ManifestError
from hpcserve.pilot.stages import Stages


class OwnImage:
    """What one replica waits for. It has nothing to wait for where no image is copied.

    Args:
        images: Who brings images to nodes.
        manifest: The replica's servable's, as JSON.
        nodes: Where it will run.
        now: On the agent's clock.

    Raises:
        ManifestError: The manifest is not one.
    """

    def __init__(self, images: Stages, manifest: str, nodes: Sequence[str], now: float) -> None:
        self._images = images
        self._looked_again = False
        self.sha256 = images.image_of(manifest)
        """Of the image that is copied for it; empty if none is."""
        wishes = (images.want(manifest, node) for node in nodes)
        self._wishes = tuple(wish for wish in wishes if wish is not None)
        self._wanted_s = now
        self.phase: dict[str, float] = {}
        """How long it took, in seconds, once :meth:`path` was asked for, where there is something to wait for."""

    @property
    def settled(self) -> bool:
        """Whether it is known of each node what came of it."""
        return all(wish.told is not None for wish in self._wishes)

    def look_again(self) -> None:
        """Has copies looked for once more that were found long before those of other nodes: they may be gone."""
        if not self._looked_again:
            self._looked_again = True
            self._wishes = tuple(map(self._images.renewed, self._wishes))

    @property
    def cause(self) -> str:
        """What its replica waits for, or does without; empty where neither."""
        waiting = [wish for wish in self._wishes if wish.told is None]
        concerned = waiting or [wish for wish in self._wishes if wish.told_cause]
        if not concerned:
            return ""
        others = ", ".join(wish.node for wish in concerned[1:])
        return concerned[0].told_cause + (f"{', ' if waiting else '; nor on '}{others}" if others else "")

    def path(self, now: float) -> str:
        """The path of its copies, the same on all nodes that have one; empty where none has.

        Raises:
            ManifestError: The image is not the published one.
        """
        told = [wish.told for wish in self._wishes if wish.told is not None]
        for each in told:
            if each.outcome == "refused":
                raise ManifestError(each.why)
        if told:
            self.phase = {"image": now - self._wanted_s}
        return next((each.path for each in told if each.outcome == "staged"), "")
