"""What the daemon's own processes say to each other, over ``ipc://`` in a directory of mode 0700.

The broker binds; the controller and admission connect. Each is told everything anew when it, or the
broker, comes back, so none keeps a copy that can go stale.
"""

from __future__ import annotations

import msgspec

from hpcserve.types import DeploymentName, EndpointName, Epoch, ReplicaId, SessionId
from hpcserve.wire.messages import EMPTY_MAP, BatchesRun, DeviceUse, ErrorInfo, Message, Tune

# --- broker to both ---------------------------------------------------------------------------------


class BrokerUp(Message, frozen=True, tag="broker-up"):
    """A broker runs, in this epoch, and knows nothing yet. Also the answer to a new connection."""

    epoch: Epoch


class Done(Message, frozen=True, tag="done"):
    """The broker carried out the AdmitKey that had this ``ticket``."""

    ticket: int


# --- to the broker ----------------------------------------------------------------------------------


class Identity(Message, frozen=True):
    """Who calls, as admission found out.

    ``name`` is what people call it: of the list of keys, or Globus's user name. The rest is Globus's: ``id`` of the
    identity, ``domain`` of the session's identity provider, ``groups`` by their ids (None: they could not be asked
    for), ``linked`` identities by their ids, and the SHA-256 of the token, in hex. ``key``: the CURVE key in Z85.
    ``account``: the one of the site that the identity is mapped to, if any. ``linked_names``: the user names of the
    linked identities.
    """

    name: str
    key: str = ""
    id: str = ""
    domain: str = ""
    groups: tuple[str, ...] | None = ()
    linked: tuple[str, ...] = ()
    token_sha256: str = ""
    account: str = ""
    linked_names: tuple[str, ...] = ()


class AdmitKey(Message, frozen=True, tag="admit"):
    """Lets a CURVE key in on the data sockets.

    ``role`` is client, agent or replica; ``subject`` the identity's name, the pilot's id or the replica's. Of a client
    ``identity`` says more. Said again for a key that is in, it changes whose it is. ``lasts_s``: for so long the key is
    in if nothing more is said; None: until it is revoked.
    """

    key: bytes
    role: str
    subject: str
    ticket: int = 0
    identity: Identity | None = None
    lasts_s: float | None = None


class RevokeKey(Message, frozen=True, tag="revoke"):
    """Takes a key out of the table and ends what it had open. ``error``: what its client is told."""

    key: bytes
    error: ErrorInfo | None = None


class AccessRule(Message, frozen=True):
    """Whose a deployment is and whose servable it serves, and which rules say to whom that is visible."""

    owner: str = ""
    servable_owner: str = ""
    visible_to: tuple[str, ...] = ("*",)


class MethodRoute(Message, frozen=True):
    """What the broker must know of a method."""

    idempotent: bool


class DeploymentRoute(Message, frozen=True):
    """A deployment as the broker sees it. ``error`` is set when its replicas cannot start; ``access``: who may call."""

    name: DeploymentName
    methods: dict[str, MethodRoute]
    default_method: str
    replicas: tuple[ReplicaId, ...]
    error: ErrorInfo | None = None
    tune: Tune = Tune()
    max_queue_bytes: int | None = None
    max_queue_s: float | None = None
    access: AccessRule = AccessRule()


class Routes(Message, frozen=True, tag="routes"):
    """The whole routing table. A replica that is not in it is lost: nothing will come from it any more.

    ``crashed`` are those of the lost that died by themselves (design §6: what they ran is suspect), and how each ended.
    ``retiring`` replicas get no new work: they are to end, or it is not their version's turn yet. Those that others can
    do the work of are ``giving_back`` what they have not begun. Those whose pilots end do so at ``ends_at``, by the
    monotonic clock of the host that broker and controller share; rounded, so that the table is not another one at each
    report. They get nothing that they are not expected to finish before.
    """

    endpoints: dict[EndpointName, DeploymentName]
    deployments: tuple[DeploymentRoute, ...]
    crashed: dict[ReplicaId, str] = msgspec.field(default_factory=dict)
    retiring: tuple[ReplicaId, ...] = ()
    giving_back: tuple[ReplicaId, ...] = ()
    ends_at: dict[ReplicaId, float] = msgspec.field(default_factory=dict)


class ToAgentRelay(Message, frozen=True, tag="to-agent"):
    """Orders for the agent of ``pilot``; dropped when it is not connected (it reports when it is)."""

    pilot: str
    body: bytes


class ToClientRelay(Message, frozen=True, tag="to-client"):
    """The answer to a call, for the connection that it came from."""

    connection: bytes
    id: int
    error: ErrorInfo | None = None
    body: msgspec.Raw = EMPTY_MAP


class AskStats(Message, frozen=True, tag="ask-stats"):
    """The controller wants a :class:`Stats`."""

    ticket: int


class DecisionsNoted(Message, frozen=True, tag="decisions-noted"):
    """The controller has seen the decisions up to this ``number``."""

    number: int


class PilotSecrets(Message, frozen=True, tag="pilot-secrets"):
    """All pilots that may enrol: the SHA-256, in hex, of each one's secret. The broker keeps it for admission."""

    sha256: dict[str, str]


class GroupsCount(Message, frozen=True, tag="groups-count"):
    """Whether it matters who is in which group: a rule names one, of the site's or of who sees a servable.

    If not, groups that are not known are no reason to have somebody try again. The broker keeps it for admission, which
    asks for nobody's groups then.
    """

    count: bool


# --- broker to controller ---------------------------------------------------------------------------


class AgentSays(Message, frozen=True, tag="agent-says"):
    """A report from the agent of ``pilot``, as it came."""

    pilot: str
    body: bytes


class Asker(Message, frozen=True):
    """Who asks in which session, and from where: ``peer`` is the address of its connection, where that is known."""

    identity: Identity
    session: SessionId
    peer: str = ""


class ClientCalls(Message, frozen=True, tag="client-calls"):
    """An administrative call, with the name of the caller's admitted identity, and all that is known of it."""

    connection: bytes
    identity: str
    id: int
    verb: str
    body: msgspec.Raw
    asker: Asker


class CallDecided(Message, frozen=True):
    """Whether a session may call an endpoint, and ``by`` which rule. ``request``: the first one that asked."""

    number: int
    asker: Asker
    request: int
    endpoint: str
    allowed: bool
    by: str
    reason: str = ""


class CallsDecided(Message, frozen=True, tag="calls-decided"):
    """Decisions for the audit log, in order. Said again to a controller that is new; ``lost`` older ones are not."""

    decisions: tuple[CallDecided, ...]
    lost: int = 0


class ReplicaHung(Message, frozen=True, tag="replica-hung"):
    """A request is past its deadline and grace; the replica is to be killed."""

    replica: ReplicaId
    overdue_s: float


class ReplicaUnwanted(Message, frozen=True, tag="replica-unwanted"):
    """Nobody has waited for so long for what the replica runs, and its deployment has it killed for that."""

    replica: ReplicaId
    for_s: float


class Away(Message, frozen=True, tag="away"):
    """An agent or a replica has had no connection for so long. ``subject``: the pilot's id, or the replica's.

    Said again while it lasts. An agent that comes back reports; a replica does not tell the controller.
    """

    subject: str
    role: str
    for_s: float


class Lacking(Message, frozen=True, tag="lacking"):
    """Requests wait for a deployment that has no replica. Said again while it lasts."""

    deployment: DeploymentName


class ResultStaged(Message, frozen=True, tag="result-staged"):
    """A result was written to the file ``name`` in the directory of its caller, ``owner``, and is on its way."""

    owner: str
    name: str
    size_bytes: int


class ReplicaIdle(Message, frozen=True, tag="replica-idle"):
    """A retiring replica holds nothing any more."""

    replica: ReplicaId


class ReplicaLoad(Message, frozen=True):
    """A replica in the statistics. ``waiting`` requests are at the replica, not yet answered."""

    replica: ReplicaId
    waiting: int
    answered: int
    connected: bool
    learned: tuple[BatchesRun, ...] = ()
    devices: tuple[DeviceUse, ...] = ()


class DeploymentLoad(Message, frozen=True):
    """A deployment's queue in the statistics. ``wait_s``: what the last in it has to wait, if that is known.

    ``answered``: by all its replicas, those that are dead included; a stream counts with its first item. ``longest_s``:
    from giving a request to a replica until its answer (a stream's first item), of those in the last ten minutes and of
    the last 200 at least; None while nothing was measured. ``came``: all requests that there were, those that were
    refused included. ``service_s``: so long a request keeps one replica busy, as measured while some waited.
    """

    deployment: DeploymentName
    queued: int
    queued_bytes: int = 0
    refused: int = 0
    expired: int = 0
    wait_s: float | None = None
    answered: int = 0
    longest_s: float | None = None
    came: int = 0
    service_s: float | None = None


class Stats(Message, frozen=True, tag="stats"):
    """What the broker has done and holds at this moment. Counts are since ``epoch`` began."""

    ticket: int
    epoch: Epoch
    uptime_s: float
    sessions: int
    requests: int
    answered: int
    failed: int
    refused: int
    requeued: int
    held_bytes: int
    recovering: bool
    replicas: tuple[ReplicaLoad, ...]
    deployments: tuple[DeploymentLoad, ...]


# --- controller to admission and back, through the broker -------------------------------------------------


class AskToken(Message, frozen=True, tag="ask-token"):
    """Which token has this SHA-256, in hex? The controller gets one for Transfer by it, on behalf of its owner."""

    ticket: int
    token_sha256: str


class TokenIs(Message, frozen=True, tag="token-is"):
    """Admission's answer. Empty: nobody who is in came with such a token. It is in memory alone."""

    ticket: int
    token: str = ""


# --- admission to controller and back, through the broker ----------------------------------------------


class EnrolAsk(Message, frozen=True, tag="enrol-ask"):
    """An agent wants in: is this its incarnation's secret, and does its pilot run on that host?"""

    ticket: int
    key: bytes
    pilot: str
    incarnation: str
    secret: str
    host: str


class EnrolVerdict(Message, frozen=True, tag="enrol-verdict"):
    """The controller's answer; without an error the key has been admitted."""

    ticket: int
    error: ErrorInfo | None = None


ToBroker = (
    AdmitKey
    | RevokeKey
    | Routes
    | ToAgentRelay
    | ToClientRelay
    | AskStats
    | EnrolAsk
    | EnrolVerdict
    | PilotSecrets
    | GroupsCount
    | DecisionsNoted
    | AskToken
    | TokenIs
)
ToController = (
    BrokerUp
    | Done
    | AgentSays
    | ClientCalls
    | CallsDecided
    | ReplicaHung
    | ReplicaUnwanted
    | Away
    | Lacking
    | ReplicaIdle
    | ResultStaged
    | Stats
    | EnrolAsk
    | TokenIs
)
ToAdmission = BrokerUp | Done | EnrolVerdict | PilotSecrets | GroupsCount | AskToken
