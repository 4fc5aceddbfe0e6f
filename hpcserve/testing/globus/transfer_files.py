"""Transfer's calls that look at or change a collection at once: ``ls``, ``stat``, ``mkdir``, access rules."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from hpcserve.testing.globus.collections import Caller, Collection, Kind, NotAllowed, Rule, normal
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.transfer_callers import outcome, refusal
from hpcserve.testing.globus.transfer_documents import file_document, rule_document

PRINCIPALS = ("identity", "group", "all_authenticated_users")
LIMIT = 100_000


def ls(request: Request, who: Caller, collection: Collection) -> Response:
    """List a directory."""
    path = request.one("path") or "/"
    hidden = request.one("show_hidden", "true").lower() not in ("0", "false")
    limit, offset = int(request.one("limit") or LIMIT), int(request.one("offset") or 0)
    with _answered(request, collection, "DirListing"):
        place = collection.allow(who, path, "r").path
        if place.is_file():
            raise refusal(request, 502, "ExternalError.DirListingFailed.NotDirectory", f"{path}: Not a directory")
        names = sorted(entry.name for entry in place.iterdir() if hidden or not entry.name.startswith("."))
        found = [file_document(place / name, name) for name in names[offset : offset + limit]]
    shown = posixpath.join(normal(path), "")
    listed = {
        "DATA_TYPE": "file_list",
        "DATA": found,
        "absolute_path": shown,
        "endpoint": collection.id,
        "length": len(found),
        "limit": limit,
        "offset": offset,
        "path": shown,
        "rename_supported": True,
        "symlink_supported": False,
        "total": len(names),
    }
    return Response(200, listed)


def stat(request: Request, who: Caller, collection: Collection) -> Response:
    """Look at one path."""
    path = request.one("path") or "/"
    with _answered(request, collection, "Stat", not_found="NotFound"):
        return Response(200, file_document(collection.allow(who, path, "r").path, posixpath.basename(normal(path))))


def mkdir(request: Request, who: Caller, collection: Collection) -> Response:
    """Make one directory, whose parent is there."""
    path = str(request.json().get("path", ""))
    with _answered(request, collection, "Mkdir"):
        collection.allow(who, path, "rw").path.mkdir()
    body = outcome(request, "DirectoryCreated", "The directory was created successfully", DATA_TYPE="mkdir_result")
    return Response(202, body)


def list_rules(request: Request, who: Caller, collection: Collection) -> Response:
    """Who may do what on a guest collection."""
    rules = [rule_document(rule) for rule in _rules(request, who, collection).values()]
    listed = {"DATA_TYPE": "access_list", "DATA": rules, "endpoint": collection.id, "length": len(rules)}
    return Response(200, listed)


def add_rule(request: Request, who: Caller, collection: Collection) -> Response:
    """Let somebody in."""
    rules, asked = _rules(request, who, collection), request.json()
    kind, principal = str(asked.get("principal_type")), str(asked.get("principal", ""))
    path, permissions = str(asked.get("path", "")), asked.get("permissions")
    if kind not in PRINCIPALS or permissions not in ("r", "rw") or not path.startswith("/") or not path.endswith("/"):
        expected = f"a principal_type of {', '.join(PRINCIPALS)}, permissions r or rw, a path from / to /"
        raise refusal(request, 400, "ClientError.BadRequest", f"expected {expected}; got {asked}")
    if any((rule.principal_type, rule.principal, rule.path) == (kind, principal, path) for rule in rules.values()):
        raise refusal(request, 409, "Exists", f"{kind} {principal} has a rule for {path} already")
    rule = Rule(str(uuid.uuid4()), kind, principal, path, permissions)
    rules[rule.id] = rule
    message = "Access rule created successfully."
    return Response(201, outcome(request, "Created", message, DATA_TYPE="access_create_result", access_id=rule.id))


def get_rule(request: Request, who: Caller, collection: Collection, rule_id: str) -> Response:
    """One rule."""
    return Response(200, rule_document(_rule(request, _rules(request, who, collection), rule_id)))


def delete_rule(request: Request, who: Caller, collection: Collection, rule_id: str) -> Response:
    """Let somebody in no more."""
    rules = _rules(request, who, collection)
    del rules[_rule(request, rules, rule_id).id]
    message = f"Access rule '{rule_id}' deleted successfully"
    return Response(200, outcome(request, "Deleted", message, DATA_TYPE="result"))


def _rules(request: Request, who: Caller, collection: Collection) -> dict[str, Rule]:
    if collection.kind is not Kind.GUEST:
        raise refusal(request, 409, "Conflict", f"{collection.name} is no guest collection: it has no access rules")
    if collection.owner not in who.identities:
        raise refusal(request, 403, "PermissionDenied", f"{who.username} does not manage {collection.name}")
    return collection.rules


def _rule(request: Request, rules: dict[str, Rule], rule_id: str) -> Rule:
    if rule_id not in rules:
        raise refusal(request, 404, "AccessRuleNotFound", f"No access rule '{rule_id}'")
    return rules[rule_id]


@contextmanager
def _answered(
    request: Request, collection: Collection, what: str, *, not_found: str = "ClientError.NotFound"
) -> Iterator[None]:
    """Errors of the file system, as Transfer's refusals."""
    trouble, failed = collection.trouble, f"ExternalError.{what}Failed"
    if trouble.offline:
        raise refusal(request, 409, f"{failed}.GCDisconnected", f"{collection.name} is not connected to Globus")
    if trouble.gone:
        raise refusal(request, 502, f"{failed}.ConnectFailed", f"{collection.name}: nobody answers")
    if trouble.expired:
        raise refusal(request, 502, f"{failed}.LoginFailed", f"{collection.name}: 530 Login incorrect.")
    try:
        yield
    except NotAllowed as error:
        raise refusal(request, 403, "EndpointPermissionDenied", f"Denied by endpoint: {error}") from error
    except FileExistsError as error:
        raise refusal(request, 502, f"{failed}.Exists", f"Path already exists: {error.filename}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusal(request, 404, not_found, f"Path not found: {error.strerror}") from error
    except PermissionError as error:
        raise refusal(request, 403, f"{failed}.PermissionDenied", f"Permission denied: {error.strerror}") from error
