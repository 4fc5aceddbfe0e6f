"""From a request at zero replicas to its answer, beside a job by hand. How much longer it takes, the benchmark says."""

from __future__ import annotations

import pytest

from benchmarks import scaling_zero
from tests.facility.box.cluster import Box
from tests.facility.box.options import Options

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

FAR_TOO_MUCH = 5 * scaling_zero.RATIO
"""No machine is so busy with other things just while it is our turn."""


@pytest.fixture(scope="module")
def box_options() -> Options:
    return scaling_zero.OPTIONS


def test_a_request_at_zero_replicas_is_measured_beside_a_job_by_hand(box: Box) -> None:
    found = scaling_zero.measure(box, 1)
    assert found.keys() == {"answer_s", "by_hand_s", "ratio", "more_s"}
    answer_s, by_hand_s, ratio = (found[name]["median"] for name in ("answer_s", "by_hand_s", "ratio"))
    assert by_hand_s > 0
    assert ratio == pytest.approx(answer_s / by_hand_s, abs=0.01)
    assert found["more_s"] == pytest.approx(answer_s - by_hand_s, abs=0.01)
    assert 0 < ratio <= found["ratio"]["worst"] < FAR_TOO_MUCH
