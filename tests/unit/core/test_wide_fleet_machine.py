"""The books against the same world where replicas take one slot, several of a node, or slots of several nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import PilotOrders, ReplicaSaid
from hpcserve.core.rollout import Version
from hpcserve.core.room import Room, packed
from hpcserve.core.width import Ranks, Width, width_of
from hpcserve.pilot.ranks import Need, Place, place
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from tests.unit.core.test_fleet_machine import ALIVE, MAX_PILOTS, NAMES, AgentProcess, FleetMachine

NODE_SLOTS = 4
WIDE = (
    Version("v1", "f(x)"),
    Version("v2", "g(x)", Ranks(2)),
    Version("v3", "f(x)", Ranks(4)),
    Version("v4", "f(x)", Ranks(4, nodes=2)),
    Version("v5", "f(x)", Ranks(8, nodes=2)),
)
GPUS = (
    Version("v1", "f(x)"),
    Version("v2", "g(x)", Ranks(1, gpus_per_rank=1)),
    Version("v3", "f(x)", Ranks(2, gpus_per_rank=1)),
    Version("v4", "f(x)", Ranks(2, nodes=2, gpus_per_rank=1)),
    Version("v5", "f(x)", Ranks(2)),
)
"""Where two slots share each of a node's two GPUs."""
HALVES = (WIDE[3], GPUS[3])
"""Beside replicas that fill a node it may depend on which pilots these are in whether there is room for it."""


class WideAgent(AgentProcess):
    """Puts replicas where the real one does; one for which there is no room waits."""

    def __init__(self, now: float, nodes: tuple[str, ...], widths: dict[ReplicaId, Width]) -> None:
        super().__init__(now, nodes)
        self.widths = widths
        self.places: dict[ReplicaId, Place] = {}

    @property
    def on(self) -> dict[ReplicaId, tuple[str, ...]]:
        """The nodes of all that have been placed."""
        return {replica: found.nodes for replica, found in self.places.items()}

    @property
    def said(self) -> tuple[ReplicaSaid, ...]:
        return tuple(
            ReplicaSaid(
                replica,
                state,
                "why",
                kind="node failed" if replica in self.lost_with_their_nodes else "",
                host=self.places[replica].nodes[0] if replica in self.places else "",
                nodes=self.places[replica].nodes if replica in self.places else (),
                slots=self.places[replica].slots if replica in self.places else (),
            )
            for replica, state in self.replicas.items()
        )

    @property
    def used(self) -> Counter[str]:
        """The slots that are taken on each node."""
        found: Counter[str] = Counter()
        for replica, nodes in self.on.items():
            if self.replicas.get(replica) in ALIVE:
                found.update(dict.fromkeys(nodes, self.widths[replica].per_node))
        return found

    def held(self, node: str) -> set[int]:
        """Which slots are taken on a node."""
        alive = [found for replica, found in self.places.items() if self.replicas.get(replica) in ALIVE]
        return {slot for found in alive for slot in found.held(node)}

    def obey(self, orders: PilotOrders) -> None:
        self.usable = tuple(node for node in self.nodes if node not in orders.lost_nodes)
        for replica, state in self.replicas.items():
            if state in ALIVE and not set(self.on.get(replica, ())) <= set(self.usable):
                self.replicas[replica] = "exited"
                self.lost_with_their_nodes.add(replica)
        for replica in orders.forget:
            if self.replicas.get(replica) in ("failed", "exited"):
                del self.replicas[replica]
        for replica, state in self.replicas.items():
            if state in ALIVE and (replica not in orders.run or replica in orders.kill):
                self.replicas[replica] = "exited"
        for replica in orders.run:
            if replica not in self.ever and replica not in orders.kill:
                self.ever.add(replica)
                self.replicas[replica] = "starting"
        for replica, state in self.replicas.items():
            if state in ALIVE and replica not in self.on:
                self.put(replica)
        if orders.stop:
            self.leave()

    def put(self, replica: ReplicaId) -> None:
        width = self.widths[replica]
        gpus, per_gpu = (1, width.per_gpu) if width.per_gpu > 1 else (0, 1)
        need = Need(nodes=width.nodes, per_node=width.per_node // per_gpu, gpus=gpus, per_gpu=per_gpu)
        found = place(need, {node: self.held(node) for node in self.usable}, NODE_SLOTS)
        if found is not None:
            self.places[replica] = found


class WideMachine(FleetMachine):
    slots = NODE_SLOTS * 2
    versions: tuple[Version, ...] = WIDE
    per_gpu = 1

    def new_fleet(self, seed: str) -> Fleet:
        made = super().new_fleet(seed)
        if self.per_gpu > 1:
            gpus = NODE_SLOTS // self.per_gpu
            made.policy = replace(made.policy, gpus_per_node=gpus, replicas_per_gpu=self.per_gpu)
        return made

    def width(self, replica: ReplicaId) -> Width:
        return width_of(self.started[replica][1].ranks, self.per_gpu)

    def agent_process(self, pilot: PilotId, began_s: float) -> AgentProcess:
        return WideAgent(began_s, self.nodes[pilot], Widths(self))

    @rule(
        name=st.sampled_from(NAMES),
        version=st.runner().flatmap(lambda machine: st.sampled_from(machine.versions)),
        replicas=st.integers(0, 6),
    )
    def want(self, name: DeploymentName, version: Version, replicas: int) -> None:
        self.wanted[name] = (version, replicas)
        self.failed.discard(name)
        self.fleet.want(name, version, replicas)
        self.step()

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.jobs) <= 2 * MAX_PILOTS
        assert set(self.jobs) == set(self.fleet.pilots)
        for pilot, agent in self.jobs.items():
            alive = [known for known in self.fleet.replicas.values() if known.pilot == pilot and not known.ended]
            used = sum(self.width(each.replica).slots for each in alive)
            # What an earlier controller wrote down may have ended since.
            assert used <= self.slots or not self.fleet.pilots[pilot].reported
            assert sum(self.width(each).slots for each in self.fleet.orders(pilot).run) <= self.slots
            if agent is not None:
                assert isinstance(agent, WideAgent)
                assert all(slots <= NODE_SLOTS for slots in agent.used.values())

    def assert_as_wanted(self) -> None:
        begun = len(self.started)
        for _ in range(30):
            self.now += 2.0
            self.play_nicely()
        assert len(self.started) == begun, "nothing comes and goes"
        ready = Counter(each.deployment for each in self.fleet.replicas.values())
        assert all(each.state == "ready" and not each.ended for each in self.fleet.replicas.values())
        if self.failed:
            return
        load = Counter[Width]()
        for version, replicas in self.wanted.values():
            load[width_of(version.ranks, self.per_gpu)] += replicas
        has_room = not packed(load, [Room(self.slots, NODE_SLOTS) for _ in range(MAX_PILOTS)])
        if has_room and all(version not in HALVES for version, _ in self.wanted.values()):
            assert ready == {name: replicas for name, (_, replicas) in self.wanted.items() if replicas}
        for name, (version, replicas) in self.wanted.items():
            if ready[name] < replicas:
                assert len(self.jobs) == MAX_PILOTS, "those that lack one would have got another pilot"
                assert load.total() > ready.total(), version


class Widths(dict[ReplicaId, Width]):
    """Of all replicas of a machine."""

    def __init__(self, machine: WideMachine) -> None:
        super().__init__()
        self._machine = machine

    def __missing__(self, replica: ReplicaId) -> Width:
        return self._machine.width(replica)


WideMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWideFleet = WideMachine.TestCase


class GpuMachine(WideMachine):
    """Some take whole GPUs, and others a slot here and there."""

    versions = GPUS
    per_gpu = 2


GpuMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestGpuFleet = GpuMachine.TestCase
