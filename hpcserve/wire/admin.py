"""The administrative calls: one struct for each verb's arguments, one for each answer.

They travel as msgpack *maps* in the ``body`` of a CALL and its ANSWER; unknown fields are refused.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from hpcserve.wire.messages import BatchesRun, DeviceUse


class Admin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the administrative structs: a msgpack map."""


class Publish(Admin, frozen=True, kw_only=True):
    """``publish``: take the servable in directory ``path``, which the daemon must be able to read.

    ``visible_to``: who sees it, all its versions: ``public``, ``private`` (nobody but its owner), or rules such as
    ``user:NAME``. Empty: whoever did before, and of a new name whom the site says.
    """

    path: str
    aliases: tuple[str, ...] = ()
    visible_to: tuple[str, ...] = ()


class Published(Admin, frozen=True, kw_only=True):
    """``new`` is False when the same content was there already."""

    name: str
    version: str
    methods: tuple[str, ...]
    new: bool
    visible_to: tuple[str, ...] = ("public",)


class Share(Admin, frozen=True, kw_only=True):
    """``share``: say who sees a servable, as ``publish`` does."""

    servable: str
    visible_to: tuple[str, ...]


class Shared(Admin, frozen=True, kw_only=True):
    """Who sees it now."""

    servable: str
    visible_to: tuple[str, ...]


class Deploy(Admin, frozen=True, kw_only=True):
    """``deploy``: serve ``servable`` (``name``, ``name@version`` or ``name@alias``) at ``endpoint``.

    ``objective_ms``: what a request should take at its replica; ``max_batch_size``: most samples of a batch.
    ``max_queue_bytes`` and ``max_queue_s``: how much may wait for a replica, and how long; more is refused.
    ``kill_cancelled_s``: a replica is killed when nobody has waited for so long for what it runs.
    With ``max_replicas`` the number of replicas follows the demand: ``replicas`` at least, ``hot_replicas`` while it is
    in use and for ``idle_s`` after that.
    """

    servable: str
    endpoint: str | None = None
    replicas: int = 1
    objective_ms: float | None = None
    max_batch_size: int | None = None
    max_queue_bytes: int | None = None
    max_queue_s: float | None = None
    kill_cancelled_s: float | None = None
    max_replicas: int | None = None
    hot_replicas: int | None = None
    idle_s: float | None = None


class Deployed(Admin, frozen=True, kw_only=True):
    """What is served now, and where. ``unset``: what was wanted of the deployment before and is not any more."""

    deployment: str
    endpoint: str
    version: str
    replicas: int
    unset: dict[str, float] = {}


class Undeploy(Admin, frozen=True, kw_only=True):
    """``undeploy``: stop serving at ``endpoint``."""

    endpoint: str


class Undeployed(Admin, frozen=True, kw_only=True):
    """What is not served any more."""

    endpoint: str


class AskStatus(Admin, frozen=True, kw_only=True):
    """``status``: everything there is to see."""


class ReplicaView(Admin, frozen=True, kw_only=True):
    """One replica. ``waiting`` and ``answered`` count requests; ``learned`` is what it knows of its batches.

    ``devices``: the GPUs that it sees, where its node has NVIDIA's driver and its Python nvidia-ml-py. ``phases``: how
    long each phase of its start took, in seconds; names of :data:`hpcserve.types.PHASES`. It is made of ``ranks`` MPI
    ranks on ``nodes`` nodes, which take ``slots`` of its pilot's. ``cause``: what it waits for, or does without.
    """

    replica: str
    version: str
    state: str
    pilot: str
    pid: int | None
    waiting: int
    answered: int
    connected: bool
    learned: tuple[BatchesRun, ...] = ()
    phases: dict[str, float] = {}
    devices: tuple[DeviceUse, ...] = ()
    ranks: int = 1
    nodes: int = 1
    slots: int = 1
    cause: str = ""


class DeploymentView(Admin, frozen=True, kw_only=True):
    """One deployment. ``wanted`` is the number of replicas; ``error`` and ``traceback`` say why one ended last.

    With ``max_replicas`` that number follows the demand, from ``min_replicas`` on. ``plan`` says in words what is to
    come, and why.

    ``refused`` requests had no room in its queue, ``expired`` ones did not run before their deadline; ``wait_s`` is
    what the last in the queue is expected to wait. With ``image`` it runs in containers of that file, which had
    ``image_sha256`` when the version was published. Without an ``owner`` it is nobody's.
    """

    deployment: str
    endpoints: tuple[str, ...]
    version: str
    methods: tuple[str, ...]
    wanted: int
    objective_ms: float | None
    max_batch_size: int | None
    max_queue_bytes: int | None
    max_queue_s: float | None
    state: str
    error: str
    traceback: str
    queued: int
    queued_bytes: int
    refused: int
    expired: int
    wait_s: float | None
    restarts: int
    replicas: tuple[ReplicaView, ...]
    kill_cancelled_s: float | None = None
    min_replicas: int = 0
    max_replicas: int | None = None
    hot_replicas: int | None = None
    idle_s: float | None = None
    plan: str = ""
    image: str = ""
    image_sha256: str = ""
    owner: str = ""


class LossView(Admin, frozen=True, kw_only=True):
    """A replica that ended unasked, at ``at_s`` seconds since 1970; ``kind`` is its cause in one term.

    ``drained``: it had finished what it ran.
    """

    replica: str
    deployment: str
    pilot: str
    kind: str
    cause: str
    at_s: float
    drained: bool = False


class PilotView(Admin, frozen=True, kw_only=True):
    """One pilot job. ``job`` is the scheduler's own id.

    ``waits_for`` says why it does not run, ``starts_in_s`` when the scheduler guesses that it will; ``restarts``: how
    often it was requeued. ``phases``: as of a replica. Of its ``slots`` so many are ``used``.
    """

    pilot: str
    state: str
    job: str
    host: str
    pid: int | None
    replicas: int
    slots: int
    walltime_left_s: float | None
    waits_for: str = ""
    starts_in_s: float | None = None
    restarts: int = 0
    phases: dict[str, float] = {}
    used: int = 0


class ServableView(Admin, frozen=True, kw_only=True):
    """One published version. ``owner`` of the name (empty: nobody), and to whom it is visible."""

    name: str
    version: str
    aliases: tuple[str, ...]
    methods: tuple[str, ...]
    owner: str = ""
    visible_to: tuple[str, ...] = ("public",)


class Status(Admin, frozen=True, kw_only=True):
    """The daemon as a whole. ``processes``: name to pid. ``trouble``: why no pilot is submitted or cancelled.

    ``staged_results`` lie in files, which take ``staged_bytes``, as of a minute ago or less; of them
    ``undelivered_results`` were not delivered, and take ``undelivered_bytes``, the oldest since
    ``undelivered_since_s``, seconds since 1970. ``staged_free_bytes``: on their disk; None: nobody knows.
    """

    service: str
    site: str
    host: str
    software: str
    epoch: int
    uptime_s: float
    processes: dict[str, int]
    sessions: int
    requests: int
    answered: int
    failed: int
    refused: int
    requeued: int
    held_bytes: int
    recovering: bool
    servables: tuple[ServableView, ...]
    deployments: tuple[DeploymentView, ...]
    pilots: tuple[PilotView, ...]
    losses: tuple[LossView, ...] = ()
    trouble: str = ""
    staged_results: int = 0
    staged_bytes: int = 0
    undelivered_results: int = 0
    undelivered_bytes: int = 0
    undelivered_since_s: float | None = None
    staged_free_bytes: int | None = None


class WhoAmI(Admin, frozen=True, kw_only=True):
    """``whoami``: who the service takes the caller for."""


class Me(Admin, frozen=True, kw_only=True):
    """The caller. ``groups``: None, if they cannot be asked for. ``may``: what the site's lists allow.

    ``account``: the one of the site that the caller's identity is mapped to, if any. ``groups_count``: whether groups
    are asked for, which they are not while no rule names one; then they are ``groups_age_s`` old at most.
    """

    name: str
    id: str
    domain: str
    groups: tuple[str, ...] | None
    key: str
    may: tuple[str, ...]
    account: str = ""
    groups_count: bool = True
    groups_age_s: float = 0.0


class Describe(Admin, frozen=True, kw_only=True):
    """``describe``: the methods of ``endpoint`` with their inputs and outputs."""

    endpoint: str


class Described(Admin, frozen=True, kw_only=True):
    """``manifest`` is the servable's manifest as JSON."""

    endpoint: str
    deployment: str
    version: str
    manifest: dict[str, Any]


class AskLogs(Admin, frozen=True, kw_only=True):
    """``logs``: the last ``lines`` lines of a deployment's replicas, a replica, a pilot or a daemon process.

    With ``after``, all that follows these marks, by the log's name; of a log without one, everything.
    """

    name: str
    lines: int = 100
    after: dict[str, str] | None = None


class LogText(Admin, frozen=True, kw_only=True):
    """A piece of one log. ``mark`` is where it ends; ``more``: there is more already."""

    name: str
    text: str
    mark: str = ""
    more: bool = False


class Logs(Admin, frozen=True, kw_only=True):
    """The logs that were asked for."""

    logs: tuple[LogText, ...]


class Down(Admin, frozen=True, kw_only=True):
    """``down``: take the daemon down, and say what becomes of its pilots.

    ``cancel``: they end first. ``keep``: they go on, for the next daemon. ``drain``: they get no more work, finish what
    they run, and end; then the daemon does.
    """

    pilots: Literal["cancel", "keep", "drain"] = "cancel"


class GoingDown(Admin, frozen=True, kw_only=True):
    """``pid`` is the supervisor's: it ends when everything else has. ``kept``: pilots that go on, each with its job.

    ``trouble``: why others may go on, too; empty: nothing is known to be in the way of their end.
    """

    pid: int
    host: str
    kept: dict[str, str] = {}
    trouble: str = ""


class Delivered(Admin, frozen=True, kw_only=True):
    """``delivered``: the caller has the staged results in these files, ``paths`` on the site; they may be removed."""

    paths: tuple[str, ...]


class Noted(Admin, frozen=True, kw_only=True):
    """``known`` of the paths are files of the caller's."""

    known: int


class Deliver(Admin, frozen=True, kw_only=True):
    """``deliver``: bring the caller's staged results, ``paths`` on the site, to ``to``: ``globus://COLLECTION/PATH``.

    A path that ends with a slash is a directory. With ``keep_login`` the caller agrees that the service keeps a login,
    encrypted, until all of the caller's have arrived.
    """

    paths: tuple[str, ...]
    to: str
    keep_login: bool = False


class AskDestination(Admin, frozen=True, kw_only=True):
    """``destination``: whether a result of the caller's can come to ``to``, said as in ``deliver``."""

    to: str


class Destination(Admin, frozen=True, kw_only=True):
    """Nothing that can be seen is in its way; else the answer is an error. Who may write there shows only then."""


class AskTransfers(Admin, frozen=True, kw_only=True):
    """``transfers``: these, or all of the caller's; of ``everybody``, for administrators."""

    ids: tuple[str, ...] = ()
    everybody: bool = False


class TransferView(Admin, frozen=True, kw_only=True):
    """One file on its way to ``to``. Times are seconds since 1970.

    ``state``: ``waiting``, ``prepared``, ``offered`` (to its owner, see AskSubmission), ``active``, ``inactive``,
    ``cancelling``, ``succeeded``, ``failed`` or ``cancelled``; ``why``: what it waits for, or why it failed. ``login``:
    the login that it waits for, as the detail of the error ``login_required``. Files may share a Globus task: ``task``
    and what follows say what that has done, of how much. ``until_s``: for so long it is borne that something is wrong;
    None: nothing is, or it is not known.
    """

    id: str
    owner: str
    path: str
    to: str
    state: str
    size_bytes: int
    asked_s: float
    ended_s: float | None = None
    why: str = ""
    login: dict[str, Any] | None = None
    task: str = ""
    task_bytes: int = 0
    task_bytes_in_all: int = 0
    task_files: int = 0
    task_files_in_all: int = 0
    bytes_per_s: float = 0.0
    until_s: float | None = None


class TransferList(Admin, frozen=True, kw_only=True):
    """In the order in which they were asked for."""

    transfers: tuple[TransferView, ...]


class AskHttps(Admin, frozen=True, kw_only=True):
    """``https``: where a staged result of the caller's, ``path`` on the site, can be fetched by HTTPS.

    Without one: whether the caller's login does to have results brought; else the error ``login_required`` tells which.
    """

    path: str = ""


class ByHttps(Admin, frozen=True, kw_only=True):
    """A GET of ``url`` with the bearer's ``token``, which is the caller's own for that collection, and for so long."""

    url: str
    token: str
    expires_in_s: float


class AskSubmission(Admin, frozen=True, kw_only=True):
    """``submission``: the caller is about to submit a transfer that is ``offered``, with a login of his own.

    ``look``: not yet; what he would is shown, without its submission id, and nothing is handed out.
    """

    id: str
    look: bool = False


class Submission(Admin, frozen=True, kw_only=True):
    """What the caller's own task is to be. It verifies checksums; its label is ``hpcserve SUBMISSION``.

    ``submission`` is empty where it was asked for to ``look`` at.

    Whoever does not submit it ``within_s`` seconds asks again first. ``login``: what Transfer has wanted of the
    service's, as the detail of the error ``login_required``; ``why``: in its words. ``consents``: collections on which
    Transfer must be let act, besides those that this tells of.
    """

    submission: str
    source: str
    target: str
    items: tuple[tuple[str, str], ...]
    deadline_s: float
    within_s: float
    login: dict[str, Any]
    why: str
    consents: tuple[str, ...] = ()


class Submitted(Admin, frozen=True, kw_only=True):
    """``submitted``: the caller has submitted a transfer that was ``offered``, with this submission id as this task.

    The error ``conflict`` says that this is too late: the task is not followed, and the caller cancels it.
    """

    id: str
    submission: str
    task: str


class NotSubmitted(Admin, frozen=True, kw_only=True):
    """``not-submitted``: Globus refuses this submission to the caller, too, and will; ``stale``: for its id alone."""

    id: str
    submission: str
    why: str
    stale: bool = False


class CancelTransfer(Admin, frozen=True, kw_only=True):
    """``cancel-transfer``: what has not arrived yet shall not."""

    id: str
