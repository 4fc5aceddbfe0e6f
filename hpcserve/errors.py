"""The errors of hpcserve, one tree for the client, the daemon and the replicas.

::

    HpcserveError
    ├── ConfigError                 a site file, an option or a key file is wrong
    ├── ManifestError               servable.toml or the files it names are wrong
    ├── ServiceUnavailable          no daemon answers (retryable)
    ├── AuthenticationError         the daemon does not know this key, or is not the daemon we pinned
    │   └── LoginRequired           it wants a login, or another one; ``detail`` says which
    ├── PermissionDenied            the caller is known, and may not do this
    ├── ProtocolError               a message that the wire format does not allow
    │   └── VersionMismatch         both sides are well, but too far apart in version
    ├── NotFound                    a name that does not exist
    │   ├── UnknownEndpoint
    │   ├── UnknownMethod
    │   ├── UnknownServable
    │   └── StagedFileGone          the file of a result was removed when its time was up
    ├── InvalidInput                a tensor's name, dtype, shape or count is wrong
    ├── Conflict                    the state of the service does not allow this now
    ├── Overloaded                  a budget is full: come back after ``retry_after_s`` (retryable)
    ├── DeadlineExceeded            the request's time was up
    ├── Cancelled                   the caller took the request back
    ├── DeploymentFailed            the deployment's replicas cannot start
    ├── StreamInterrupted           its replica died after some items had come (retryable)
    ├── SchedulerError              the batch scheduler gave no usable answer
    │   ├── JobRefused              it will never take this job: an account, a partition or a size is wrong
    │   ├── NoRoom                  it takes no more jobs of ours at present: a limit of a QOS or a queue (retryable)
    │   └── SubmissionUnknown       it may have taken the job, or not: the job's tag will tell
    ├── StorageFull                 the daemon's disk or quota is full
    ├── TransferFailed              a result could not be brought to where it was wanted; it is still on the site
    └── ServableError               the servable's own code failed; ``remote_traceback`` says where
        ├── InvalidOutput           it returned something that its manifest does not promise
        ├── PoisonRequest           its replica died while it ran this request alone
        └── OutcomeUnknown          its replica died and the method must not run twice

Each class has a ``code`` (stable, on the wire), an ``http_status`` and ``retryable`` (the same call may
succeed later without a change). A message names what failed, the offending value and what to do.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class HpcserveError(Exception):
    """Base of every error that hpcserve raises on purpose.

    Args:
        message: What failed, with the offending value, and what to do about it.
        retry_after_s: When the service expects to have room again, in seconds from now.
        remote_traceback: The traceback of the process where it happened, as text.
        detail: What a program needs in order to mend it: values of JSON. Each class says which.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        remote_traceback: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.remote_traceback = remote_traceback
        self.detail = detail or {}

    def __str__(self) -> str:
        if self.remote_traceback:
            return f"{self.message}\n\n--- remote traceback ---\n{self.remote_traceback.rstrip()}"
        return self.message


class ConfigError(HpcserveError):
    """A site file, an option, an environment variable or a key file is wrong."""

    code = "config"
    http_status = 400


class ManifestError(HpcserveError):
    """``servable.toml``, or a file that it names, is wrong."""

    code = "manifest"
    http_status = 400


class ServiceUnavailable(HpcserveError):
    """No daemon answers at the service's address."""

    code = "unavailable"
    http_status = 503
    retryable = True


class AuthenticationError(HpcserveError):
    """The daemon does not know the caller's key, or its own key is not the pinned one."""

    code = "unauthenticated"
    http_status = 401


class LoginRequired(AuthenticationError):
    """The service wants a login, or another one than the caller has: run ``hpcserve login``.

    ``detail`` is a document of Globus's authentication requirements (``code`` and ``authorization_parameters``), with
    ``client_id``, the client that users log in by, ``scope``, that of the service, and ``resource_server``, the
    service's own client.
    """

    code = "login_required"


class PermissionDenied(HpcserveError):
    """The caller is known, and the site's policy or the owner does not allow this."""

    code = "permission_denied"
    http_status = 403


class ProtocolError(HpcserveError):
    """A message broke the wire format."""

    code = "protocol"
    http_status = 400


class VersionMismatch(ProtocolError):
    """The two sides share no version of the wire format; the message says which to upgrade."""

    code = "version_mismatch"
    http_status = 426


class NotFound(HpcserveError):
    """A name that the service does not know."""

    code = "not_found"
    http_status = 404


class UnknownEndpoint(NotFound):
    """No endpoint has this name."""

    code = "unknown_endpoint"


class UnknownMethod(NotFound):
    """The endpoint's servable has no such method."""

    code = "unknown_method"


class UnknownServable(NotFound):
    """No published servable has this name or version."""

    code = "unknown_servable"


class StagedFileGone(NotFound):
    """The file of a result was removed, since the time that the site keeps it was up."""

    code = "staged_file_gone"
    http_status = 410


class InvalidInput(HpcserveError):
    """The inputs do not match what the method declares."""

    code = "invalid_input"
    http_status = 400


class Conflict(HpcserveError):
    """The state of the service does not allow this now."""

    code = "conflict"
    http_status = 409


class Overloaded(HpcserveError):
    """A budget (bytes, requests) is full."""

    code = "overloaded"
    http_status = 429
    retryable = True


class DeadlineExceeded(HpcserveError):
    """The request's time was up before its answer arrived."""

    code = "deadline_exceeded"
    http_status = 504


class Cancelled(HpcserveError):
    """The caller took the request back, or its session ended."""

    code = "cancelled"
    http_status = 499


class DeploymentFailed(HpcserveError):
    """No replica of the deployment can start."""

    code = "deployment_failed"
    http_status = 503


class StreamInterrupted(HpcserveError):
    """The replica of a stream died after some items had come; a second run might yield others."""

    code = "stream_interrupted"
    http_status = 503
    retryable = True


class SchedulerError(HpcserveError):
    """The batch scheduler gave no usable answer."""

    code = "scheduler"
    http_status = 502


class JobRefused(SchedulerError):
    """The batch scheduler will never take this job: an account, a partition or a size is wrong."""

    code = "job_refused"
    http_status = 400


class NoRoom(SchedulerError):
    """The batch scheduler takes no more jobs of ours at present: a limit of a QOS, an account or a queue is reached."""

    code = "no_room"
    http_status = 503
    retryable = True


class SubmissionUnknown(SchedulerError):
    """The batch scheduler may have taken a job, or not: its answer never came. The job's tag will tell."""

    code = "submission_unknown"


class StorageFull(HpcserveError):
    """The daemon's disk or quota is full: durable work is refused until there is room."""

    code = "storage_full"
    http_status = 507
    errnos: ClassVar[frozenset[int]] = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    """The operating system's words for it; the last is that of a limit on the size of files."""


class TransferFailed(HpcserveError):
    """A result could not be brought to where it was wanted. It is still on the site."""

    code = "transfer_failed"
    http_status = 502


class ServableError(HpcserveError):
    """The servable's own code raised an exception."""

    code = "servable_error"
    http_status = 500


class InvalidOutput(ServableError):
    """The servable returned something that its manifest does not promise."""

    code = "invalid_output"


class PoisonRequest(ServableError):
    """A replica died while it ran this request, and this request alone."""

    code = "poison_request"


class OutcomeUnknown(ServableError):
    """The replica died; the method is not idempotent, so it is not run again."""

    code = "outcome_unknown"


def _subclasses(root: type[HpcserveError]) -> dict[str, type[HpcserveError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_subclasses(child))
    return found


BY_CODE: dict[str, type[HpcserveError]] = _subclasses(HpcserveError)
"""Every error class by the code that stands for it on the wire."""
