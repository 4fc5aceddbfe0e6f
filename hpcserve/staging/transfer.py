"""Globus Transfer, by the Globus SDK: one step at a time, on behalf of whom the token is. Blocks.

Decides nothing: what is done when is :mod:`hpcserve.core.transfers`'s. It tells apart what may go well later, what
wants a login, and what never will. Checksums are always verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from hpcserve.config.way_out import settle
from hpcserve.core.delivery import End, Progress, Trouble
from hpcserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

TIMEOUT_S = 10.0
TOO_MANY_PAUSE_S = 30.0
"""An owner has too many tasks at Globus, of whatever program: some of them have to end first."""
_FINE = ("", "OK", "Queued")
_NOTHING_THERE = ("NotFound", "ClientError.NotFound")
"""What Transfer says of a path that is not there; of a collection it says another thing."""
_OF_THE_ID = re.compile(r"submission[ _]id\b", re.IGNORECASE)
"""In what Transfer says of an id that is unknown or too old; its code is the one of every bad request."""


class StepFailed(Exception):
    """A step did not succeed; ``trouble`` says why, and what helps."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.why)
        self.trouble = trouble


class Carrier(Protocol):
    """What brings files from one collection to another, for one owner. Each raises :class:`StepFailed`."""

    def submission_id(self) -> str:
        """An id with which one task can be submitted, once."""

    def submit(self, submission: str, items: Sequence[tuple[End, End]]) -> str:
        """Submits these files, all between the same two collections; the task's id, if it was submitted before too."""

    def find(self, submission: str) -> str:
        """The task that was submitted with this id; empty: none was."""

    def look(self, task: str) -> Progress:
        """What there is to know of a task."""

    def found(self, end: End) -> str:
        """What is there: ``file``, ``dir`` or another word of Globus's; empty: nothing."""

    def cancel(self, task: str) -> None:
        """Ends a task, unless it has ended."""

    def close(self) -> None:
        """Nothing more is said."""


class _Speaker:
    """Speaks to Transfer with one token."""

    def __init__(self, token: str) -> None:
        self._sdk = _sdk()
        self._client = self._sdk.TransferClient(
            authorizer=self._sdk.AccessTokenAuthorizer(token),
            transport=self._sdk.transport.RequestsTransport(http_timeout=TIMEOUT_S),
            retry_config=self._sdk.transport.RetryConfig(max_retries=0),  # who asks tries again, when it is time
        )
        settle(self._client)

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def found(self, end: End) -> str:
        """What is there: ``file``, ``dir`` or another word of Globus's; empty: nothing."""
        with self._troubles():
            try:
                return str(self._client.operation_stat(end.collection, path=end.path)["type"])
            except self._sdk.TransferAPIError as error:
                if error.http_status == 404 and error.code in _NOTHING_THERE:
                    return ""
                trouble = self._trouble(error)
                if trouble.kind == "fatal" and error.http_status not in (403, 404):  # the collection is away
                    raise StepFailed(trouble._replace(kind="again")) from error
                raise

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """Turns the SDK's errors, and answers of a shape that nobody promised, into a trouble."""
        try:
            yield
        except self._sdk.GlobusAPIError as error:
            raise StepFailed(self._trouble(error)) from error
        except self._sdk.GlobusError as error:
            raise StepFailed(Trouble("again", f"Globus Transfer gives no answer ({type(error).__name__})")) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StepFailed(Trouble("again", f"Globus Transfer answers strangely ({error!r})")) from error

    def _trouble(self, error: Any) -> Trouble:
        why = f"Globus Transfer: {error.code}: {error.message}"
        asked = _gare(error)
        if asked is not None:
            return Trouble("login", why, detail=asked, by_transfer=True)
        if error.http_status == 401:
            return Trouble("login", f"{why}; log in again: hpcserve transfers --login")
        if error.http_status == 409 and error.code == "TooManyPendingJobs":
            return Trouble("again", why, TOO_MANY_PAUSE_S)
        if error.http_status == 429 or error.http_status >= 500:
            return Trouble("again", why, _retry_after_s(error))
        if error.http_status == 400 and _OF_THE_ID.search(str(error.message)):
            return Trouble("stale", why)
        return Trouble("fatal", why)


class GlobusTransfer(_Speaker):
    """Globus Transfer on behalf of one identity.

    Args:
        token: An access token of theirs, for Transfer.
        deadline_s: Globus tries for so long to bring a task to its end.

    Raises:
        ConfigError: The Globus SDK is not installed.
    """

    def __init__(self, token: str, *, deadline_s: float) -> None:
        super().__init__(token)
        self._deadline_s = deadline_s

    def submission_id(self) -> str:
        """An id with which one task can be submitted."""
        with self._troubles():
            return str(self._client.get_submission_id()["value"])

    def submit(self, submission: str, items: Sequence[tuple[End, End]]) -> str:
        """The task's id; the same for the same submission id, however often it is said, and whoever has said it."""
        source, target = items[0]
        data = self._sdk.TransferData(
            source.collection,
            target.collection,
            label=label_of(submission),
            submission_id=submission,
            sync_level="checksum",
            verify_checksum=True,
            fail_on_quota_errors=True,
            notify_on_succeeded=False,
            deadline=datetime.now(UTC) + timedelta(seconds=self._deadline_s),
        )
        for start, end in items:
            data.add_item(start.path, end.path, recursive=False)
        with self._troubles():
            return str(self._client.submit_transfer(data)["task_id"])

    def find(self, submission: str) -> str:
        """The task that was submitted with this id, by its label; empty: none was."""
        query = {"filter": f"type:TRANSFER/label:{label_of(submission)}"}
        with self._troubles():
            found = self._client.task_list(query_params=query)["DATA"]
            return str(found[0]["task_id"]) if found else ""

    def look(self, task: str) -> Progress:
        """What Globus says of a task."""
        with self._troubles_of_task():
            return progress_of(self._client.get_task(task).data)

    def cancel(self, task: str) -> None:
        """Ends a task; one that has ended stays as it is."""
        with self._troubles_of_task():
            self._client.cancel_task(task)

    @contextmanager
    def _troubles_of_task(self) -> Iterator[None]:
        """The same for a task that Globus may not know any more."""
        with self._troubles():
            try:
                yield
            except self._sdk.TransferAPIError as error:
                if error.http_status == 404 and error.code in _NOTHING_THERE:
                    raise StepFailed(Trouble("gone", f"{self._trouble(error).why}: it knows no such task")) from error
                raise


class GlobusCollections(_Speaker):
    """What there is to know of collections.

    Args:
        token: An access token for Transfer.
    """

    def https_server(self, collection: str) -> str:
        """Where its files are had by HTTPS; empty: nowhere."""
        with self._troubles():
            return str(self._client.get_endpoint(collection)["https_server"] or "")


class GlobusRules(_Speaker):
    """The access rules of guest collections, by a token of who manages them.

    Args:
        token: An access token for Transfer.
    """

    def add(self, collection: str, path: str, identity: str) -> str:
        """Lets an identity read what lies below a directory, and nothing else; the rule's id, if it was there too."""
        below = f"{path.rstrip('/')}/"
        with self._troubles():
            known = self._find(collection, below, identity)
            if known:
                return known
            rule = {
                "DATA_TYPE": "access",
                "principal_type": "identity",
                "principal": identity,
                "path": below,
                "permissions": "r",
            }
            return str(self._client.add_endpoint_acl_rule(collection, rule)["access_id"])

    def remove(self, collection: str, path: str, identity: str) -> None:
        """Takes that back; if there is no such rule, all is well."""
        with self._troubles():
            known = self._find(collection, f"{path.rstrip('/')}/", identity)
            if known:
                self._client.delete_endpoint_acl_rule(collection, known)

    def _find(self, collection: str, path: str, identity: str) -> str:
        for rule in self._client.endpoint_acl_list(collection)["DATA"]:
            if (rule["principal_type"], rule["principal"], rule["path"]) == ("identity", identity, path):
                return str(rule["id"])
        return ""


def label_of(submission: str) -> str:
    """The label of the task that is submitted with this id, by which it is found."""
    return f"hpcserve {submission}"


def progress_of(task: dict[str, Any]) -> Progress:
    """A task's document in few words."""
    fatal = task.get("fatal_error") or {}
    fault, details = fatal.get("code") or "", fatal.get("description") or ""
    if not fault and task.get("nice_status") not in (None, *_FINE):
        fault = task["nice_status"]
        details = task.get("nice_status_details") or task.get("nice_status_short_description") or ""
    return Progress(
        status=task["status"],
        size_bytes=int(task.get("bytes_transferred") or 0),
        files=int(task.get("files_transferred") or 0) + int(task.get("files_skipped") or 0),
        bytes_per_s=float(task.get("effective_bytes_per_second") or 0.0),
        fault=fault,
        details=" ".join((details or _ended(task)).split()),
        cancelled=task["status"] == "FAILED" and bool(task.get("subtasks_canceled")),
        until_s=_deadline_s(task),
        label=task.get("label") or "",
        faults=int(task.get("faults") or 0),
    )


def _deadline_s(task: dict[str, Any]) -> float | None:
    """When Globus gives a task up that has not ended, in seconds since 1970."""
    if task["status"] not in ("ACTIVE", "INACTIVE"):
        return None
    try:
        deadline = datetime.fromisoformat(str(task.get("deadline")))
    except ValueError:
        return None
    return (deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC)).timestamp()


def _ended(task: dict[str, Any]) -> str:
    """Why a task ended that tells of no error."""
    if task["status"] != "FAILED":
        return task.get("nice_status_details") or ""
    if task.get("subtasks_canceled"):
        return "the task was cancelled"
    return "the task was over its deadline" if task.get("subtasks_expired") else "the task failed"


def _gare(error: Any) -> dict[str, Any] | None:
    """What login Globus wants, if it wants one."""
    from globus_sdk import gare

    asked = gare.to_gare(error)
    if asked is None:
        return None
    told: dict[str, Any] = asked.to_dict()
    wanted = {name: value for name, value in told["authorization_parameters"].items() if value not in ([], False)}
    return {"code": told["code"], "authorization_parameters": wanted}


def _retry_after_s(error: Any) -> float:
    try:
        return max(0.0, float(error.headers.get("Retry-After", 0)))
    except (TypeError, ValueError):  # a date: then our own pauses do
        return 0.0


def _sdk() -> ModuleType:
    try:
        import globus_sdk
    except ImportError as error:
        raise ConfigError(f"transfers need the Globus SDK: pip install 'hpcserve[globus]' ({error})") from error
    return globus_sdk
