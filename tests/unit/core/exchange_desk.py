"""An exchange with short words for what happens to it, for the tests of the broker's decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from hpcserve.core import actions as act
from hpcserve.core.exchange import Call, Exchange, Limits
from hpcserve.core.ledger import State
from hpcserve.core.replicas import Replica
from hpcserve.core.routes import Deployment
from hpcserve.core.sessions import Session
from hpcserve.errors import HpcserveError
from hpcserve.types import Counter, DeploymentName, EndpointName, ReplicaId, RequestKey, SessionId

NAME = DeploymentName("echo@1")
METHODS = {"run": True, "pay": False}
LIMITS = Limits(
    broker_bytes=1000,
    session_bytes=100,
    max_queued=50,
    recovery_grace_s=10.0,
    session_linger_s=60.0,
    hang_grace_s=5.0,
    census_s=30.0,
)
ActionT = TypeVar("ActionT", bound=act.Action)


@dataclass
class Desk:
    """An exchange, and short words for what happens to it."""

    exchange: Exchange = field(default_factory=lambda: Exchange(LIMITS, 0.0))
    now: float = 0.0
    actions: list[act.AnyAction] = field(default_factory=list)

    # --- the controller and the replicas

    def route(
        self,
        *names: str,
        crashed: str = "",
        retiring: str = "",
        giving_back: str = "",
        error: HpcserveError | None = None,
        kill_cancelled_s: float | None = None,
        ends_at: dict[str, float] | None = None,
        max_queue_bytes: float = float("inf"),
        max_queue_s: float = float("inf"),
    ) -> None:
        replicas = tuple(map(ReplicaId, names))
        deployment = Deployment(
            NAME, METHODS, "run", replicas, error, max_queue_bytes, max_queue_s, kill_cancelled_s=kill_cancelled_s
        )
        self.exchange.route(
            {EndpointName("echo"): NAME},
            [deployment],
            crashed={ReplicaId(name): "exit code 3" for name in crashed.split()},
            retiring=frozenset(map(ReplicaId, retiring.split())),
            giving_back=frozenset(map(ReplicaId, giving_back.split())),
            ends_at={ReplicaId(name): at for name, at in (ends_at or {}).items()},
            now=self.now,
        )

    def inventory(
        self,
        name: str,
        *,
        unfinished: tuple[RequestKey, ...] = (),
        finished: tuple[RequestKey, ...] = (),
        fence: int = 0,
        credit: int = 2,
        connection: bytes = b"",
        remaining_ms: tuple[int | None, ...] = (),
        yielded: tuple[int, ...] = (),
    ) -> bool:
        return self.exchange.inventory(
            ReplicaId(name),
            connection or name.encode(),
            unfinished=unfinished,
            finished=finished,
            fence=fence,
            credit=(credit, 1000),
            now=self.now,
            remaining_ms=remaining_ms,
            yielded=yielded,
        )

    def serve(self, *names: str, credit: int = 2) -> None:
        """These replicas are there, and hold nothing."""
        self.route(*names)
        for name in names:
            assert self.inventory(name, credit=credit)

    def replica(self, name: str) -> Replica:
        return self.exchange.replicas[ReplicaId(name)]

    def answer(self, name: str, key: RequestKey, *, size_bytes: int = 10, credit: int = 2, late: bool = False) -> None:
        self.exchange.answered(
            self.replica(name),
            key,
            body=("answer", key),
            size_bytes=size_bytes,
            credit=(credit, 1000),
            now=self.now,
            late=late,
        )

    # --- the clients

    def client(self, name: str = "c", *outstanding: int, floor: int = 1, connection: str = "") -> Session:
        return self.exchange.resume(
            SessionId(name.encode()),
            (connection or name).encode(),
            identity=name,
            floor=floor,
            outstanding=tuple(map(Counter, outstanding)),
            now=self.now,
        )

    def ask(
        self,
        session: Session,
        id: int,
        *,
        endpoint: str = "echo",
        method: str = "",
        size_bytes: int = 1,
        remaining_ms: int | None = None,
        priority: int = 0,
    ) -> RequestKey:
        call = Call(Counter(id), endpoint, method, "body", size_bytes, remaining_ms, priority)
        self.exchange.request(session, call, self.now)
        return session.id, Counter(id)

    def ack(self, session: Session, floor: int, *acks: int) -> None:
        self.exchange.ack(session, floor, tuple(map(Counter, acks)), self.now)

    # --- what comes of it

    def took(self, kind: type[ActionT]) -> list[ActionT]:
        """The actions of this kind since they were last asked for."""
        while actions := self.exchange.take():
            self.actions += actions
        found: list[ActionT] = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    def given(self) -> list[tuple[str, int]]:
        return [(action.connection.decode(), action.entry.id) for action in self.took(act.Give)]

    def told(self) -> list[tuple[int, HpcserveError]]:
        return [(action.id, action.error) for action in self.took(act.Tell)]

    def error(self) -> HpcserveError:
        ((_, error),) = self.told()
        return error

    def forwarded(self) -> list[int]:
        return [action.body[1][1] for action in self.took(act.Forward) if isinstance(action.body, tuple)]

    def states(self, session: Session) -> dict[int, State]:
        return {id: State(entry.state) for id, entry in session.entries.items()}
