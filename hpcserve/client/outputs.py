"""What a call returns: the outputs by name, and where they were computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcserve.client.sending import SentFile
    from hpcserve.client.staged import StagedFile


class Outputs(dict[str, Any]):
    """The outputs of one request, by name: numpy arrays, or Python values where the dtype is JSON.

    Of a call with ``reply="staged"`` they are left in their file: see :class:`hpcserve.client.staged.StagedArray`.

    Attributes:
        replica: The id of the replica that ran it.
        version: The sha256 that names the servable's version.
        run_s: How long the servable computed, in seconds.
        image: The sha256 of the container image that it was computed in; empty: it was in none.
        staged: The file that the result came in; None: it came in its message.
        sent: Where the result was brought to; None: it came here.
    """

    def __init__(
        self,
        tensors: dict[str, Any],
        *,
        replica: str,
        version: str,
        run_s: float,
        image: str,
        staged: StagedFile | None = None,
        sent: SentFile | None = None,
    ) -> None:
        super().__init__(tensors)
        self.replica = replica
        self.version = version
        self.run_s = run_s
        self.image = image
        self.staged = staged
        self.sent = sent
