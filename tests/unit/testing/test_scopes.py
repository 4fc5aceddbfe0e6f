"""How scopes are written, and whose they are."""

from __future__ import annotations

import pytest
from globus_sdk.scopes import Scope, ScopeParser
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.testing.globus.scopes import Asked, parse, resource_server

NAMES = st.from_regex(r"[a-z:/._-]{1,12}", fullmatch=True)
SCOPES = st.recursive(
    st.builds(Asked, NAMES, st.booleans()),
    lambda below: st.builds(Asked, NAMES, st.booleans(), st.lists(below, max_size=3)),
    max_leaves=8,
)


def written(asked: Asked) -> str:
    inside = " ".join(written(each) for each in asked.below)
    return f"{'*' * asked.optional}{asked.scope}{f'[{inside}]' if inside else ''}"


def by_the_sdk(scope: Scope) -> str:
    return ScopeParser.serialize([scope])


@given(st.lists(SCOPES, max_size=4))
def test_what_is_written_is_read(asked: list[Asked]) -> None:
    assert parse(" ".join(written(each) for each in asked)) == asked


@pytest.mark.parametrize(
    "scope",
    [
        Scope("a"),
        Scope("a").with_dependency(Scope("b")),
        Scope("a").with_dependency(Scope("b").with_optional(True)).with_dependency(Scope("c")),
        Scope("a").with_dependency(Scope("b").with_dependency(Scope("c").with_optional(True))),
    ],
    ids=by_the_sdk,
)
def test_it_reads_what_the_sdk_writes(scope: Scope) -> None:
    def same(ours: Asked, theirs: Scope) -> bool:
        below = zip(ours.below, theirs.dependencies, strict=True)
        return (ours.scope, ours.optional) == (theirs.scope_string, theirs.optional) and all(
            same(*each) for each in below
        )

    (read,) = parse(by_the_sdk(scope))
    assert same(read, scope)


@pytest.mark.parametrize("text", ["[a]", "a]", "a[b", "a[*]", "*", "a[b]]", "* [b]", "a[**b]", " ]"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        parse(text)


@pytest.mark.parametrize(
    ("scope", "server"),
    [
        ("openid", "auth.globus.org"),
        ("urn:globus:auth:scope:transfer.api.globus.org:all", "transfer.api.globus.org"),
        ("https://auth.globus.org/scopes/0-1/https", "0-1"),
        ("https://evil.example/scopes/0-1/https", ""),
        ("offline_access", ""),
    ],
)
def test_whose_a_scope_is(scope: str, server: str) -> None:
    assert resource_server(scope) == server
