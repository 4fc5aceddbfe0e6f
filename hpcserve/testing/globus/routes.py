"""Which function of a service answers a request, by its method and the pattern of its path."""

from __future__ import annotations

import re
from collections.abc import Callable

from hpcserve.testing.globus.http import Refusal, Request, Response

Handler = Callable[..., Response]


class Routes:
    """A table of ``("GET", "/v2/groups/([^/]+)", handler)``; handlers get the request and the pattern's groups."""

    def __init__(self, *routes: tuple[str, str, Handler]) -> None:
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in routes]

    def answer(self, request: Request) -> Response:
        """Hand it to the first that fits.

        Raises:
            Refusal: None does, or the handler refuses.
        """
        allowed = set()
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                return handler(request, *match.groups())
            if match:
                allowed.add(method)
        if allowed:
            message = f"{request.method} is not for {request.path}: {', '.join(sorted(allowed))}"
            raise Refusal(405, {"code": "MethodNotAllowed", "message": message})
        raise Refusal(404, {"code": "NotFound", "message": f"nothing at {request.path}"})
