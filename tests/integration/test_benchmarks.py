"""Every benchmark runs and says what it must say. How fast it is, no test decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import write
from benchmarks.ratios import interval, summary

BOUND_S = 400.0

pytestmark = pytest.mark.timeout(int(BOUND_S) + 60)


def run(root: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--quick", "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cpus"] >= 1
    assert 0 <= found["machine"]["stolen"] <= 1
    assert found["versions"]["libzmq"]
    return found


def test_roundtrip_has_both_sides_and_their_ratios(root: Path) -> None:
    found = run(root, "roundtrip")
    assert found["command"] == "python -m benchmarks roundtrip --quick --json"
    for side in ("bare_direct", "bare_broker", "hpcserve", "hpcserve_tcp"):
        assert 0 < found[side]["p50_us"] <= found[side]["p99_us"]
        assert found[side]["rps"] > 0
    for ratio in ("ratio_p50", "ratio_rps", "mbps_ratio", "ratio_p50_tcp", "ratio_rps_tcp", "mbps_ratio_tcp"):
        low, high = found["intervals"][ratio]["interval_95"]
        assert 0 < low <= found[ratio] <= high
        assert found["intervals"][ratio]["pairs"] == 2


def test_footprint_counts_every_process_of_the_daemon(root: Path) -> None:
    found = run(root, "footprint")
    assert set(found["pss_mib_by_process"]) == {"supervisor", "broker", "controller", "admission"}
    assert found["idle_sessions"] == 3
    assert found["pss_mib"] == pytest.approx(sum(found["pss_mib_by_process"].values()), abs=0.3)
    assert found["cpu_s_per_1000_requests"] >= 0
    assert found["memory_growth_percent"] < 100


def test_startup_ends_with_an_answer(root: Path) -> None:
    found = run(root, "startup")
    assert 0 < found["up_returns_s"] <= found["first_answer_s"]


def test_overload_tells_what_is_answered_and_what_is_refused(root: Path) -> None:
    # Where the capacity was measured while the machine had other work, three times as much may not be too much.
    found = next(found for _ in range(4) if (found := run(root, "overload"))["refused"])
    assert found["goodput_of_capacity"] > 0
    assert found["other_errors"] == 0
    assert 0 < found["refusal_p50_ms"] <= found["refusal_p99_ms"]
    assert found["priority"]["errors"] == 0
    assert found["priority"]["p50_of_batch"] < found["priority"]["low_p50_of_batch"]


def test_batching_has_what_its_figures_show(root: Path, tmp_path: Path) -> None:
    found = run(root, "batching")
    (case,) = found["cases"]
    assert set(case["sweep_rps"]) == {"1", "2", "4", "8", "16", "32"}
    assert case["adaptive_rps"] > 0
    timeline = case["change"]["timeline"]
    assert timeline["from_s"][0] < 0 < timeline["from_s"][-1]
    (tmp_path / "batching.json").write_text(json.dumps(found))
    assert [path.name for path in write(tmp_path, tmp_path / "figures")] == [
        "batching-throughput.svg",
        "batching-change.svg",
    ]


def test_scaling_counts_simulates_a_day_and_draws_it(root: Path, tmp_path: Path) -> None:
    found = run(root, "scaling")
    assert found["rpcs"]["commands"]["running_hour"] > 0
    assert found["rpcs"]["commands"]["crashing_hour"]["submissions"] > 0
    assert found["reached"].keys() == found["targets"].keys()
    day = found["day"]
    assert day["wait_ratio_at_equal_node_hours"]["worst"] <= 0.5
    assert day["node_hours_ratio_at_equal_wait"]["worst"] <= 0.7
    assert all(found["reached"].values()), "these are counts: no machine is too slow for them"
    assert day["predicted_start_median_error_s"] > 0
    (tmp_path / "scaling.json").write_text(json.dumps(found))
    assert [path.name for path in write(tmp_path, tmp_path / "figures")] == ["scaling-day.svg"]


def test_streams_have_a_rate_and_a_first_item(root: Path) -> None:
    found = run(root, "streams")
    for side in ("hpcserve", "hpcserve_tcp"):
        assert found[side]["items_per_s"] > 0
        assert found[side]["first_item_p50_us"] > 0


def test_torch_models_are_measured_beside_a_bare_loop(root: Path) -> None:
    found = run(root, "gpu", "--device", "cpu")
    assert found["device"] == "cpu"
    for name in ("convnet", "surrogate"):
        assert min(found[name]["samples_per_s"].values()) > 0
        assert str(found[name]["best_size"]) in found[name]["bare_sweep_samples_per_s"]
        assert found[f"ratio_{name}"] == found[name]["ratio"]["median"] > 0
    assert set(found["reached"]) == set(found["targets"]) == {"ratio_convnet", "ratio_surrogate"}


def test_without_a_gpu_its_benchmark_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "sees no GPU here" in run(root, "gpu")["skipped"]


def test_logins_are_all_served_with_one_question_each(root: Path) -> None:
    found = run(root, "auth")
    assert min(found["rps"].values()) > 0
    assert found["ratio_rps"] > 0
    for case in found["logins"].values():
        assert case["served"] == case["clients"] == 20
        assert case["introspections_per_token_and_period"] <= 1
        assert 0 < case["hello_p50_s"] <= case["hello_p99_s"]


def test_staging_is_measured_beside_bare_h5py(root: Path) -> None:
    found = run(root, "staging")
    assert set(found["ratio"]) == {"smooth", "noise", "noise, plain"}
    assert found["file_mb"]["smooth"]["hpcserve"] < 1.1 * found["file_mb"]["smooth"]["bare"] < found["size_mb"]
    assert found["sparse"]["file_mb"] < 1


def test_ranks_are_measured_beside_bare_mpi4py(root: Path) -> None:
    found = run(root, "ranks")
    assert (found["ranks"], found["intervals"]["ratio"]["pairs"]) == (4, 2)
    assert found["bare_ms"] > 0
    low, high = found["intervals"]["ratio"]["interval_95"]
    assert 0 < low <= found["ratio"] <= high
    assert set(found["reached"]) == set(found["targets"]) == {"ratio"}


def test_ssh_is_measured_beside_tcp(root: Path) -> None:
    found = run(root, "ssh")
    for ratio in ("ratio_p50", "ratio_rps", "mbps_ratio", "mbps_ratio_cat"):
        low, high = found["intervals"][ratio]["interval_95"]
        assert 0 < low <= found[ratio] <= high
    assert set(found["mbps"]) == {"tcp", "ssh", "ssh_cat"}
    assert found["connect_s"]["ssh"] > 0


def test_a_container_is_measured_beside_a_replica_without_one(root: Path, python_image: Path) -> None:
    assert python_image.exists()
    found = run(root, "container")
    assert found["ready_s"]["plain"] > 0
    assert found["later_s"] == pytest.approx(found["ready_s"]["container"] - found["ready_s"]["plain"], abs=0.002)
    assert set(found["reached"]) == set(found["targets"]) == {"later_s"}


def test_pilots_say_why_there_is_no_slurm_for_them(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "pilots", "--quick"],
        cwd=root,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no real Slurm for benchmark 'pilots': ")
    assert not done.stdout


def test_the_interval_is_the_one_of_order_statistics() -> None:
    assert interval([float(value) for value in range(1, 21)]) == (6.0, 15.0)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert summary([1.0, 2.0, 3.0]) == {"median": 2.0, "interval_95": [1.0, 3.0], "pairs": 3}
