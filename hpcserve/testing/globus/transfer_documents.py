"""What Transfer's documents look like: tasks, events, collections, files, access rules.

Source: the responses recorded in ``globus_sdk.testing`` (4.9), and the Transfer API's reference for what those lack.
"""

from __future__ import annotations

import grp
import pwd
import stat
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from hpcserve.testing.globus.collections import Collection, Kind, Rule
from hpcserve.testing.globus.transfer_tasks import OK, QUEUED, Event, Status, Task

_DESCRIPTIONS = {
    "AUTH": "credentials expired",
    "GC_NOT_CONNECTED": "gc not connected",
    "OK": "OK",
    "VERIFY_CHECKSUM": "verification of a checksum failed",
}

_TASK: dict[str, Any] = {
    "canceled_by_admin": None,
    "canceled_by_admin_message": None,
    "command": "API 0.10",
    "delete_destination_extra": False,
    "destination_endpoint": None,
    "destination_endpoint_display_name": None,
    "destination_endpoint_id": None,
    "encrypt_data": False,
    "fail_on_quota_errors": False,
    "filter_rules": None,
    "history_deleted": False,
    "is_paused": False,
    "label": None,
    "preserve_timestamp": False,
    "recursive_symlinks": "ignore",
    "skip_source_errors": False,
    "sync_level": None,
    "verify_checksum": False,
}
_AS_SUBMITTED = (
    *("encrypt_data", "fail_on_quota_errors", "label", "preserve_timestamp"),
    *("skip_source_errors", "sync_level", "verify_checksum"),
)


def task_document(task: Task, username: str, now: float) -> dict[str, Any]:
    """A task as its owner sees it."""
    submitted = {name: task.document[name] for name in _AS_SUBMITTED if task.document.get(name) is not None}
    sides: dict[str, Any] = {}
    for name, side in (("source", task.source), ("destination", task.destination)):
        if side is not None:
            sides |= {
                f"{name}_endpoint": f"{username}#{side.id}",
                f"{name}_endpoint_display_name": side.name,
                f"{name}_endpoint_id": side.id,
            }
    return {
        **_TASK,
        **submitted,
        **sides,
        **_state(task),
        **_progress(task, now),
        "owner_id": task.owner,
        "task_id": task.id,
        "type": task.document["DATA_TYPE"].upper(),
        "username": username,
    }


def _state(task: Task) -> dict[str, Any]:
    active = task.status is Status.ACTIVE
    return {
        "completion_time": None if task.completed is None else date(task.completed),
        "deadline": date(task.deadline),
        "fatal_error": None if task.fatal is None else {"code": task.fatal[0], "description": task.fatal[1]},
        "is_ok": task.nice in (OK, QUEUED) if active else None,
        "nice_status": task.nice if active else None,
        "nice_status_details": task.nice_details,
        "nice_status_expires_in": -1 if active else None,
        "nice_status_short_description": describe(task.nice) if active else None,
        "request_time": date(task.requested),
        "status": task.status.value,
    }


def _progress(task: Task, now: float) -> dict[str, Any]:
    done = 1 if task.status is Status.SUCCEEDED else 0  # One part of the task is to look what there is to do.
    left = task.files - task.files_moved - task.files_skipped + 1 - done
    fault = task.nice not in (OK, QUEUED)
    failed = task.status is Status.FAILED and task.ended_as not in ("CANCELED", "EXPIRED")
    seconds = (now if task.completed is None else task.completed) - task.requested
    return {
        "bytes_checksummed": task.bytes_checksummed,
        "bytes_transferred": task.bytes_moved,
        "directories": task.directories,
        "effective_bytes_per_second": int(task.bytes_moved / max(seconds, 0.001)),
        "faults": task.faults,
        "files": task.files,
        "files_skipped": task.files_skipped,
        "files_transferred": task.files_moved,
        "subtasks_canceled": left if task.ended_as == "CANCELED" else 0,
        "subtasks_expired": left if task.ended_as == "EXPIRED" else 0,
        "subtasks_failed": left if failed else 0,
        "subtasks_pending": left if task.unfinished and not fault else 0,
        "subtasks_retrying": left if task.unfinished and fault else 0,
        "subtasks_skipped_errors": task.errors_skipped,
        "subtasks_succeeded": task.files_moved + task.files_skipped - task.errors_skipped + done,
        "subtasks_total": task.files + 1,
        "symlinks": task.symlinks,
    }


def event_document(event: Event) -> dict[str, Any]:
    """One line of an event list."""
    return {
        "DATA_TYPE": "event",
        "code": event.code,
        "description": describe(event.code),
        "details": event.details,
        "is_error": event.is_error,
        "time": date(event.at),
    }


def collection_document(collection: Collection, username: str, base: str) -> dict[str, Any]:
    """A collection, as ``get_endpoint`` shows it. ``base``: the stand-in's address."""
    personal = collection.kind is Kind.PERSONAL
    guest = collection.kind is Kind.GUEST
    https = f"{base}collections/{collection.id}" if collection.https and not personal else None
    old = (
        *("globus_connect_setup_key", "s3_url", "myproxy_server", "myproxy_dn", "oauth_server", "default_directory"),
        *("non_functional_endpoint_display_name", "non_functional_endpoint_id"),
    )
    no = (
        *("french_english_bilingual", "s3_owner_activated", "disable_verify", "disable_anonymous_writes"),
        *("force_verify", "force_encryption", "mfa_required", "non_functional", "activated", "in_use"),
    )
    return {
        **dict.fromkeys(old),
        **dict.fromkeys(no, False),
        "DATA_TYPE": "endpoint",
        "id": collection.id,
        "display_name": collection.name,
        "organization": "hpcserve loopback stand-in",
        "username": username,
        "owner_id": collection.owner,
        "owner_string": username,
        "description": "",
        "entity_type": collection.kind.value,
        "public": False,
        "is_globus_connect": personal,
        "gcp_connected": not collection.trouble.offline if personal else None,
        "gcp_paused": False if personal else None,
        "host_endpoint_id": collection.host,
        "mapped_collection_id": collection.host,
        "host_path": str(collection.root) if guest else None,
        "high_assurance": bool(collection.domain) or collection.trouble.authorization_parameters is not None,
        "https_server": https,
        "tlsftp_server": None,
        "gcs_manager_url": None if personal else base,
        "expires_in": -1,
        "expire_time": None,
        "shareable": not guest,
        "acl_available": guest,
        "acl_editable": guest,
        "DATA": [],
    }


def file_document(path: Path, name: str) -> dict[str, Any]:
    """A file or directory, as ``ls`` and ``stat`` show it.

    Raises:
        OSError: It cannot be looked at.
    """
    entry = path.lstat()
    kind = next((kind for test, kind in _KINDS if test(entry.st_mode)), "other")
    return {
        "DATA_TYPE": "file",
        "group": _group(entry.st_gid),
        "last_modified": str(datetime.fromtimestamp(int(entry.st_mtime), UTC)),
        "link_group": None,
        "link_last_modified": None,
        "link_size": None,
        "link_target": str(path.readlink()) if kind == "link" else None,
        "link_user": None,
        "name": name,
        "permissions": f"{stat.S_IMODE(entry.st_mode):04o}",
        "size": entry.st_size,
        "type": kind,
        "user": _user(entry.st_uid),
    }


def rule_document(rule: Rule) -> dict[str, Any]:
    """An access rule."""
    return {
        "DATA_TYPE": "access",
        "id": rule.id,
        "principal_type": rule.principal_type,
        "principal": rule.principal,
        "path": rule.path,
        "permissions": rule.permissions,
        "role_id": None,
        "role_type": None,
    }


def describe(code: str) -> str:
    """The code of an event or of a ``nice_status``, in words."""
    return _DESCRIPTIONS.get(code, code.replace("_", " ").lower())


def date(at: float) -> str:
    """A time as Transfer writes it. ``at``: seconds since 1970."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "dir"), (stat.S_ISLNK, "link"))


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@cache
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
