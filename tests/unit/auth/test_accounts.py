"""Which account of the site is whose, by the real library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcserve.auth.accounts import Accounts
from hpcserve.errors import ConfigError

KIND = "expression_identity_mapping#1.0.0"


def mapping(tmp_path: Path, *rules: dict[str, Any], kind: str = KIND) -> Path:
    path = tmp_path / "accounts.json"
    path.write_text(json.dumps({"DATA_TYPE": kind, "mappings": rules}))
    path.chmod(0o644)
    return path


def rule(match: str, output: str = "{0}", source: str = "{username}", **more: Any) -> dict[str, Any]:
    return {"source": source, "match": match, "output": output, **more}


@pytest.mark.parametrize(
    ("username", "account"),
    [
        ("ada@anl.gov", "ada"),
        ("ada@anl.gov.evil.org", ""),
        ("ada@anlxgov", ""),
        ("root@anl.gov", ""),
        ("../ada@anl.gov", ""),
        ("ada lovelace@anl.gov", ""),
        ("@anl.gov", ""),
        ("ada@anl.gov\n", ""),
        ("bob@lbl.gov", "guest"),
    ],
)
def test_an_identity_has_the_account_of_the_first_rule_that_fits(tmp_path: Path, username: str, account: str) -> None:
    path = mapping(tmp_path, rule(r"(.*)@anl\.gov"), rule("b1", "guest", "{id}"))
    assert Accounts(path).account("b1" if username.startswith("bob") else "a1", username) == account


def test_several_documents_are_asked_in_turn(tmp_path: Path) -> None:
    one, two = ({"DATA_TYPE": KIND, "mappings": [rule(match, output)]} for match, output in (("a", "x"), ("b", "y")))
    path = mapping(tmp_path)
    path.write_text(json.dumps([one, two]))
    accounts = Accounts(path)
    assert [accounts.account("", name) for name in "abc"] == ["x", "y", ""]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([rule("ada|bob", "guest")], r"match 'ada\|bob': put alternatives into parentheses"),
        ([rule("(.*)@x", source="{email}")], r"'{email}' names {email}; only {id} and {username} are known"),
        ([rule("(.*)@x", "{name}")], r"'{name}' names {name}"),
        ([rule("*ada")], "Invalid leading wildcard"),
        ([{"source": "{id}"}], "accounts.json: "),
    ],
)
def test_a_rule_that_would_not_do_what_it_looks_like_is_refused(
    tmp_path: Path, rules: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(ConfigError, match=f"access.accounts: .*{told}"):
        Accounts(mapping(tmp_path, *rules))


def test_alternatives_in_parentheses_are_taken(tmp_path: Path) -> None:
    accounts = Accounts(mapping(tmp_path, rule(r"(ada|bob)@x", "guest"), rule("a|b", "both", literal=True)))
    assert [accounts.account("", name) for name in ("ada@x", "bob@x", "ada@xy", "a|b")] == [
        "guest",
        "guest",
        "",
        "both",
    ]


def test_a_file_that_is_not_there_or_wrong_or_open_to_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read .*: No such file"):
        Accounts(tmp_path / "none.json")
    path = mapping(tmp_path, kind="external_identity_mapping#1.0.0")
    with pytest.raises(ConfigError, match='expected documents with "DATA_TYPE": "expression_identity_mapping'):
        Accounts(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        Accounts(path)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="may be written by others; run: chmod 644"):
        Accounts(path)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "globus_identity_mapping.mappers.expression", None)
    with pytest.raises(ConfigError, match=r"pip install 'hpcserve\[accounts\]'"):
        Accounts(mapping(tmp_path))
