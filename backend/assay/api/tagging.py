"""ETag and If-None-Match (RFC 9110 §8.8.3, §13.1.2) for JSON answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class TaggedRoute(APIRoute):
    """The tag is the body's hash; a client that has that body gets 304 instead of it."""

    def get_route_handler(self) -> Handler:
        answer = super().get_route_handler()

        async def tagged(request: Request) -> Response:
            response = await answer(request)
            if response.status_code != 200:
                return response
            tag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
            headers = {"etag": tag, "cache-control": "no-cache"}
            given = request.headers.get("if-none-match", "")
            if tag in [item.strip().removeprefix("W/") for item in given.split(",")]:
                return Response(status_code=304, headers=headers)
            response.headers.update(headers)
            return response

        return tagged
