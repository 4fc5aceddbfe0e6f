"""Transfer: which call is answered by whom, and for whom.

Source: https://docs.globus.org/api/transfer/ and the responses recorded in ``globus_sdk.testing`` (4.9).
"""

from __future__ import annotations

from typing import Any

from hpcserve.testing.globus import transfer_files as files
from hpcserve.testing.globus.collections import Caller, Collection, Collections
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.movers import Mover
from hpcserve.testing.globus.records import TRANSFER_ALL, Token
from hpcserve.testing.globus.routes import Handler, Routes
from hpcserve.testing.globus.transfer_callers import caller, check_consent, outcome, refusal, token_of
from hpcserve.testing.globus.transfer_documents import collection_document, event_document, task_document
from hpcserve.testing.globus.transfer_queue import TooManyPending, TransferQueue, UnknownSubmission
from hpcserve.testing.globus.transfer_submit import check_items, deadline
from hpcserve.testing.globus.transfer_tasks import Task
from hpcserve.testing.globus.world import World

MOST = 1000


class Transfer:
    """The service. See :class:`hpcserve.testing.globus.http.Service`."""

    prefixes: tuple[str, ...] = ("/v0.10/",)

    def __init__(self, world: World, collections: Collections, mover: Mover) -> None:
        self.collections = collections
        self.queue = TransferQueue(mover, world.now, lambda identity: caller(world, identity))
        self._world = world
        on, to = self._on, self._to
        self._routes = Routes(
            ("GET", "/v0.10/endpoint_search", to(self._search)),
            ("GET", "/v0.10/endpoint/([^/]+)", on(self._endpoint)),
            ("GET", "/v0.10/endpoint/([^/]+)/access_list", on(files.list_rules)),
            ("POST", "/v0.10/endpoint/([^/]+)/access", on(files.add_rule)),
            ("GET", "/v0.10/endpoint/([^/]+)/access/([^/]+)", on(files.get_rule)),
            ("DELETE", "/v0.10/endpoint/([^/]+)/access/([^/]+)", on(files.delete_rule)),
            ("GET", "/v0.10/operation/endpoint/([^/]+)/ls", on(files.ls, data=True)),
            ("GET", "/v0.10/operation/endpoint/([^/]+)/stat", on(files.stat, data=True)),
            ("POST", "/v0.10/operation/endpoint/([^/]+)/mkdir", on(files.mkdir, data=True)),
            ("GET", "/v0.10/submission_id", to(self._submission_id)),
            ("POST", "/v0.10/(transfer|delete)", to(self._submit)),
            ("GET", "/v0.10/task_list", to(self._task_list)),
            ("GET", "/v0.10/task/([^/]+)", to(self._task)),
            ("GET", "/v0.10/task/([^/]+)/event_list", to(self._events)),
            ("GET", "/v0.10/task/([^/]+)/successful_transfers", to(self._successes)),
            ("POST", "/v0.10/task/([^/]+)/cancel", to(self._cancel)),
        )

    def answer(self, request: Request) -> Response:
        """Answer one call."""
        return self._routes.answer(request)

    def _to(self, handler: Handler) -> Handler:
        """A handler that is told who asks, and with which token."""

        def answer(request: Request, *more: str) -> Response:
            token = token_of(self._world, request, TRANSFER_ALL)
            self.queue.renew(token.sub, token.issued)
            return handler(request, caller(self._world, token.sub), token, *more)

        return answer

    def _on(self, handler: Handler, *, data: bool = False) -> Handler:
        """A handler that is told who asks, and of which collection. ``data``: it reads or writes there for them."""

        def answer(request: Request, who: Caller, token: Token, collection_id: str, *more: str) -> Response:
            collection = self._collection(request, collection_id)
            if data:
                check_consent(self._world, request, token, collection)
            return handler(request, who, collection, *more)

        return self._to(answer)

    # --- collections ------------------------------------------------------------------------------

    def _collection(self, request: Request, collection_id: str) -> Collection:
        collection = self.collections.get(collection_id)
        if collection is None:
            raise refusal(request, 404, "EndpointNotFound", f"No such endpoint '{collection_id}'")
        return collection

    def _endpoint(self, request: Request, who: Caller, collection: Collection) -> Response:
        return Response(200, self._document(request, collection))

    def _document(self, request: Request, collection: Collection) -> dict[str, Any]:
        with self._world.lock:
            owner = self._world.people[collection.owner].username
        return collection_document(collection, owner, f"https://{request.headers['host']}/")

    def _search(self, request: Request, who: Caller, token: Token) -> Response:
        text, scope = request.one("filter_fulltext").lower(), request.one("filter_scope", "all")
        owner, kind = request.one("filter_owner_id"), request.one("filter_entity_type")
        found = [
            self._document(request, each)
            for each in self.collections
            if each.sees(who)
            and (text in each.name.lower())
            and owner in ("", each.owner)
            and kind in ("", each.kind.value)
            and (scope != "my-endpoints" or each.owner in who.identities)
            and (scope != "shared-with-me" or each.owner not in who.identities)
        ]
        limit, offset = int(request.one("limit") or 100), int(request.one("offset") or 0)
        shown = found[offset : offset + limit]
        listed = {"DATA_TYPE": "endpoint_list", "DATA": shown, "limit": limit, "offset": offset}
        return Response(200, {**listed, "has_next_page": offset + limit < len(found)})

    # --- tasks ------------------------------------------------------------------------------------

    def _submission_id(self, request: Request, who: Caller, token: Token) -> Response:
        return Response(200, {"value": self.queue.submission_id(who.identity)})

    def _submit(self, request: Request, who: Caller, token: Token, kind: str) -> Response:
        document = request.json()
        check_items(request, document)
        names = ("source_endpoint", "destination_endpoint") if kind == "transfer" else ("endpoint",)
        sides = [self._collection(request, str(document.get(name))) for name in names]
        try:
            task = self.queue.submitted(who.identity, document["submission_id"])
            new = task is None
            if task is None:
                until = deadline(request, document, self._world.now())
                check_consent(self._world, request, token, *sides)
                task, new = self.queue.submit(who, document, sides, until)
        except UnknownSubmission as error:
            raise refusal(request, 400, "ClientError.BadRequest", str(error)) from error
        except TooManyPending as error:
            raise refusal(request, 409, "TooManyPendingJobs", str(error)) from error
        return _submitted(request, kind, task, new=new)

    def _found(self, request: Request, who: Caller, task_id: str) -> Task:
        task = self.queue.get(task_id)
        if task is None:
            raise refusal(request, 404, "ClientError.NotFound", f"No task found with id '{task_id}'")
        if task.owner not in who.identities:
            raise refusal(request, 403, "PermissionDenied", f"The task {task_id} is not yours")
        return task

    def _task(self, request: Request, who: Caller, token: Token, task_id: str) -> Response:
        return Response(200, self._task_document(self._found(request, who, task_id)))

    def _task_document(self, task: Task) -> dict[str, Any]:
        with self._world.lock:
            owner = self._world.people[task.owner].username
        return task_document(task, owner, self._world.now())

    def _task_list(self, request: Request, who: Caller, token: Token) -> Response:
        rules = [rule.partition(":") for rule in request.one("filter").split("/") if rule]
        found = [self._task_document(task) for identity in who.identities for task in self.queue.of(identity)]
        for name, _, values in rules:
            if name not in ("status", "type", "task_id", "label"):
                raise refusal(request, 501, "NotImplemented", f"the loopback stand-in knows no filter by {name!r}")
            found = [each for each in found if str(each[name]) in values.split(",")]
        return _page(request, "task_list", found)

    def _events(self, request: Request, who: Caller, token: Token, task_id: str) -> Response:
        events = self._found(request, who, task_id).events[::-1]
        shown = [event_document(event) for event in events if event.is_error or request.one("filter") != "is_error:1"]
        return _page(request, "event_list", shown)

    def _successes(self, request: Request, who: Caller, token: Token, task_id: str) -> Response:
        moved = self._found(request, who, task_id).moved
        marker = int(request.one("marker") or 0)
        shown = [
            {"DATA_TYPE": "successful_transfer", "source_path": source, "destination_path": destination}
            for source, destination in moved[marker : marker + MOST]
        ]
        following = marker + MOST if marker + MOST < len(moved) else None
        listed = {"DATA_TYPE": "successful_transfers", "DATA": shown, "marker": marker, "next_marker": following}
        return Response(200, listed)

    def _cancel(self, request: Request, who: Caller, token: Token, task_id: str) -> Response:
        code, message = "Canceled", "The task has been cancelled successfully."
        if not self.queue.cancel(self._found(request, who, task_id)):
            code, message = "TaskComplete", "The task completed before the cancel request was processed."
        return Response(200, outcome(request, code, message, DATA_TYPE="result"))


def _submitted(request: Request, kind: str, task: Task, *, new: bool) -> Response:
    message = f"A {kind} with this submission_id was accepted before"
    if new:
        message = f"The {kind} has been accepted and a task has been created and queued for execution"
    href = f"/v0.10/task/{task.id}?format=json"
    more = {
        "DATA_TYPE": f"{kind}_result",
        "submission_id": task.document["submission_id"],
        "task_id": task.id,
        "task_link": {"DATA_TYPE": "link", "href": href, "rel": "related", "resource": "task", "title": "related task"},
    }
    return Response(202 if new else 200, outcome(request, "Accepted" if new else "Duplicate", message, **more))


def _page(request: Request, kind: str, found: list[dict[str, Any]]) -> Response:
    limit, offset = min(int(request.one("limit") or MOST), MOST), int(request.one("offset") or 0)
    shown = found[offset : offset + limit]
    page = {"length": len(shown), "limit": limit, "offset": offset, "total": len(found)}
    return Response(200, {"DATA_TYPE": kind, "DATA": shown, **page})
