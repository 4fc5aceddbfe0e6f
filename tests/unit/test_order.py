from __future__ import annotations

from tests.order import in_turns

FILES = {
    "tests/unit/test_a.py": 120.0,
    "tests/unit/test_b.py": 20.0,
    "tests/integration/test_short.py": 20.0,
    "tests/acceptance/test_a.py": 120.0,
    "tests/acceptance/test_b.py": 120.0,
    "tests/acceptance/test_longest.py": 900.0,
    "tests/facility/test_long.py": 150.0,
    "tests/facility/test_longest.py": 400.0,
}


def test_kinds_take_turns_and_the_longest_of_each_come_first() -> None:
    assert in_turns(FILES) == [
        "tests/facility/test_longest.py",
        "tests/acceptance/test_longest.py",
        "tests/acceptance/test_a.py",
        "tests/facility/test_long.py",
        "tests/acceptance/test_b.py",
        "tests/integration/test_short.py",
        "tests/unit/test_a.py",
        "tests/unit/test_b.py",
    ]


def test_one_kind_alone_will_do() -> None:
    assert in_turns({"tests/unit/test_a.py": 120.0}) == ["tests/unit/test_a.py"]
    assert in_turns({}) == []
