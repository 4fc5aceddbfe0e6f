"""Which GPUs each replica of a node sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.replica.gpus import share


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
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 4, [{}, {}, {}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "0,-1"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 2, [{}, {}]),
        ({"PATH": "/a,/b"}, 2, [{}, {}]),
        ({}, 1, [{}]),
    ],
)
def test_each_slot_sees_its_share(environment: dict[str, str], slots: int, expected: list[dict[str, str]]) -> None:
    assert [share(environment, slot=slot, slots=slots) for slot in range(slots)] == expected


def test_a_replica_that_is_one_too_many_shares_with_another() -> None:
    assert share({"CUDA_VISIBLE_DEVICES": "0,1"}, slot=3, slots=2) == {"CUDA_VISIBLE_DEVICES": "1"}


@given(st.lists(st.integers(0, 63), unique=True, min_size=1, max_size=16), st.integers(1, 20))
def test_shares_are_equal_and_are_all_there_is(devices: list[int], slots: int) -> None:
    named = ",".join(map(str, devices))
    found = [share({"CUDA_VISIBLE_DEVICES": named}, slot=slot, slots=slots) for slot in range(slots)]
    if found[0]:
        assert ",".join(each["CUDA_VISIBLE_DEVICES"] for each in found) == named
        assert len({each["CUDA_VISIBLE_DEVICES"].count(",") for each in found}) == 1
    else:
        assert slots == 1 or len(devices) % slots
        assert found == [{}] * slots
