"""Which GPUs each replica of a node sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import ServableError
from hpcserve.replica.gpus import own, share
from hpcserve.replica.place import take_place


@pytest.mark.parametrize(
    ("environment", "slots", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 4, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "0123"]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 2, [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,MIG-b"}, 2, [{"CUDA_VISIBLE_DEVICES": x} for x in ("GPU-a", "MIG-b")]),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, 2, [{"ROCR_VISIBLE_DEVICES": gpu} for gpu in "01"]),
        ({"ZE_AFFINITY_MASK": "0.0,0.1"}, 2, [{"ZE_AFFINITY_MASK": tile} for tile in ("0.0", "0.1")]),
        # Of these two the first chooses among what the second leaves.
        (
            {"HIP_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1"},
            2,
            [{"HIP_VISIBLE_DEVICES": gpu} for gpu in "01"],
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "0,1", "GPU_DEVICE_ORDINAL": "0,1"},
            2,
            [{"CUDA_VISIBLE_DEVICES": gpu, "GPU_DEVICE_ORDINAL": gpu} for gpu in "01"],
        ),
        # GPU_DEVICE_ORDINAL, which not every HIP heeds, counts among what the driver leaves.
        (
            {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "GPU_DEVICE_ORDINAL": "0,1,2,3"},
            2,
            [{"ROCR_VISIBLE_DEVICES": both, "GPU_DEVICE_ORDINAL": "0,1"} for both in ("4,5", "6,7")],
        ),
        (
            {"ROCR_VISIBLE_DEVICES": "0,1", "ZE_AFFINITY_MASK": "0,1"},
            2,
            [{"ROCR_VISIBLE_DEVICES": gpu, "ZE_AFFINITY_MASK": gpu} for gpu in "01"],
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 1, [{}]),
        # More slots than GPUs: several share one.
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "0011"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 6, [{"CUDA_VISIBLE_DEVICES": f"GPU-{gpu}"} for gpu in "aaabbb"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a"}, 2, [{}, {}]),
        (
            {"ROCR_VISIBLE_DEVICES": "2,3", "GPU_DEVICE_ORDINAL": "0,1"},
            4,
            [{"ROCR_VISIBLE_DEVICES": gpu, "GPU_DEVICE_ORDINAL": "0"} for gpu in "2233"],
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 3, [{}, {}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "0,-1"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 2, [{}, {}]),
        ({"PATH": "/a,/b"}, 2, [{}, {}]),
        ({}, 1, [{}]),
    ],
)
def test_each_slot_sees_its_share(environment: dict[str, str], slots: int, expected: list[dict[str, str]]) -> None:
    assert [share(environment, mine=(slot,), slots=slots) for slot in range(slots)] == expected


def test_a_replica_that_is_one_too_many_shares_with_another() -> None:
    assert share({"CUDA_VISIBLE_DEVICES": "0,1"}, mine=(3,), slots=2) == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("named", "slots", "mine", "seen"),
    [
        ("0,1,2,3", 4, (1, 2), "1,2"),
        ("0,1,2,3", 4, (3, 0), "0,3"),
        ("a,b,c,d", 2, (1,), "c,d"),
        ("a,b,c,d", 8, (2, 3), "b"),
        ("a,b,c,d", 8, (1, 2), "a,b"),
        ("a,b", 2, (0, 1), "a,b"),
    ],
)
def test_a_rank_of_several_slots_sees_the_gpus_of_all(named: str, slots: int, mine: tuple[int, ...], seen: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": named}
    assert (environment | share(environment, mine=mine, slots=slots))["CUDA_VISIBLE_DEVICES"] == seen


@given(st.integers(1, 16), st.integers(1, 20))
def test_shares_are_equal_and_are_all_there_is(count: int, slots: int) -> None:
    devices = [f"GPU-{each}" for each in range(count)]
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
    seen = [
        (environment | share(environment, mine=(slot,), slots=slots))["CUDA_VISIBLE_DEVICES"].split(",")
        for slot in range(slots)
    ]
    if count % slots and slots % count:
        assert seen == [devices] * slots
    else:
        assert {len(each) for each in seen} == {max(1, count // slots)}
        uses = Counter(device for each in seen for device in each)
        assert uses == dict.fromkeys(devices, max(1, slots // count))
        assert [device for each in seen for device in each] == sorted(uses.elements(), key=devices.index)


@pytest.mark.parametrize(
    ("environment", "slots", "mine", "wanted", "present", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, 2, (1,), 1, 8, {"CUDA_VISIBLE_DEVICES": "5"}),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, 4, (2, 3), 1, 8, {"CUDA_VISIBLE_DEVICES": "5"}),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, 2, (0, 1), 2, 0, {}),
        ({}, 4, (1,), 1, 4, {"CUDA_VISIBLE_DEVICES": "1"}),
        ({}, 1, (0,), 1, 1, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({}, 4, (1,), 0, 4, {}),
        ({}, 4, (1,), 0, 0, {}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, (1,), 0, 0, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 4, (1,), 0, 0, {}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2, (3,), 1, 0, {"CUDA_VISIBLE_DEVICES": "1"}),
    ],
)
def test_who_wants_gpus_gets_them(
    environment: dict[str, str],
    slots: int,
    mine: tuple[int, ...],
    wanted: int,
    present: int,
    expected: dict[str, str],
) -> None:
    assert own(environment, mine=mine, slots=slots, wanted=wanted, present=present) == expected


@pytest.mark.parametrize(
    ("environment", "slots", "mine", "wanted", "told"),
    [
        ({}, 1, (0,), 1, r"to have 1 GPU, and none is there: set pilots.gpus_per_node .* 'export CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 2, (0,), 1, "none is there"),
        ({"CUDA_VISIBLE_DEVICES": "-1,0"}, 2, (0,), 1, "none is there"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2, (0,), 2, r"2 GPUs, and its slot 0 of 2 would give it 1 of 2: set pilots"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, (0, 1), 2, r"its slots 0, 1 of 4 would give it 1 of 2: set pilots.slots"),
        # Another slot has the same.
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, (0,), 1, r"its slot 0 of 4 would give it 1 of 2, which slot 1 would have"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, (1, 2), 2, r"give it 2 of 2, which slots 0, 3 would have too: set pilots"),
        ({"ROCR_VISIBLE_DEVICES": "0"}, 2, (1,), 1, r"its slot 1 of 2 would give it 1 of 1, which slot 0 would have"),
        # A GPU has failed, or there are more than is known: nothing is divided.
        (
            {"CUDA_VISIBLE_DEVICES": "0,1,2"},
            4,
            (3,),
            1,
            r"give it 3 of 3, which slots 0, 1, 2 would .* not as many GPUs",
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4, (0,), 1, r"its slot 0 of 4 would give it 6 of 6, which slots 1"),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 4, (0, 1, 2, 3), 4, r"its slots 0, 1, 2, 3 of 4 would give it 3 of 3: set"),
        # There are more for each slot.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2, (0,), 1, r"its slot 0 of 2 would give it 2 of 4: set pilots.slots"),
    ],
)
def test_who_wants_gpus_of_its_own_that_are_not_there_is_told(
    environment: dict[str, str], slots: int, mine: tuple[int, ...], wanted: int, told: str
) -> None:
    with pytest.raises(ServableError, match=told):
        own(environment, mine=mine, slots=slots, wanted=wanted)


@pytest.mark.parametrize("named", [[], ["0"], ["0", "1"], ["a", "b", "c"], ["0", "1", "2", "3"], list("abcdef")])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("per_gpu", [1, 2])
def test_no_two_ranks_with_gpus_of_their_own_see_the_same(named: list[str], slots: int, per_gpu: int) -> None:
    seen: list[str] = []
    for first in range(0, slots - per_gpu + 1, per_gpu):
        held = range(first, first + per_gpu)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(named)}
        try:
            given = own(environment, mine=held, slots=slots, wanted=1)
        except ServableError:
            continue
        seen.append((environment | given)["CUDA_VISIBLE_DEVICES"])
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(named)
    if len(named) * per_gpu == slots:
        assert seen == named, "where the numbers fit, each has its own"


def test_gpus_that_nobody_names_are_counted_by_their_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    environment: dict[str, str] = {}
    take_place(environment, mine=(1,), slots=2, wanted=1, devices=tmp_path)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}
