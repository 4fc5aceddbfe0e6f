from __future__ import annotations

from hpcserve.core.spelling import nearest, shortened


def test_close_names_come_first() -> None:
    assert nearest("digts", ["digits", "pi"]) == "; did you mean 'digits'?"
    assert nearest("ab1", ["ab2", "ab3"]) in {"; did you mean 'ab2' or 'ab3'?", "; did you mean 'ab3' or 'ab2'?"}


def test_without_a_close_one_the_known_are_listed() -> None:
    assert nearest("zzz", ["pi", "echo"]) == "; known: echo, pi"
    assert nearest("zzz", []) == "; there are none"
    assert nearest("zzz", [f"n{number:02}" for number in range(20)]).endswith("n06, n07, …")


def test_a_name_of_a_stranger_is_neither_compared_nor_repeated_without_end() -> None:
    name = "x" * 1_000_000
    assert nearest(name, ["pi"]) == "; a name has at most 128 characters"
    assert len(shortened(name)) < 140
