"""Which handler answers a method and a path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from assay.node.errors import NotFound, WrongMethod
from assay.node.http.messages import Reply, Request

Handler = Callable[[Request], Awaitable[Reply]]
SMALL_BODY: Final = 65_536
"""Bytes of a body unless a route says otherwise."""
_PUBLISHER: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """`pattern`: the path's segments; `{name}` stands for any one that is not empty. `publisher/name` after
    `models` counts as one, whether its slash is quoted or not."""

    method: str
    pattern: tuple[str, ...]
    handler: Handler
    max_body: int = SMALL_BODY

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """What the named segments hold; None if the path is another one."""
        if len(segments) != len(self.pattern):
            return None
        found: dict[str, str] = {}
        for want, segment in zip(self.pattern, segments, strict=True):
            if want.startswith("{"):
                if not segment:
                    return None
                found[want[1:-1]] = segment
            elif want != segment:
                return None
        return found


class Routes:
    """Filled before the server starts: `routes.add("GET", "/v1/receipts/{digest}", handler)`."""

    def __init__(self) -> None:
        self._fixed: dict[str, list[Route]] = {}
        self._open: dict[int, list[Route]] = {}

    def add(self, method: str, pattern: str, handler: Handler, *, max_body: int = SMALL_BODY) -> None:
        """`handler` also answers HEAD where `method` is GET. `max_body` in bytes.

        A RequestError that it raises becomes the reply; anything else is logged and answered with 500.
        """
        segments = tuple(pattern.split("/")[1:])
        route = Route(method, segments, handler, max_body)
        if "{" in pattern:
            self._open.setdefault(len(segments), []).append(route)
        else:
            self._fixed.setdefault(pattern, []).append(route)

    def find(self, method: str, path: bytes) -> tuple[Route, dict[str, str]]:
        """The route of a request and its named segments. Raises NotFound, WrongMethod."""
        found: list[tuple[Route, dict[str, str]]]
        found = [(route, {}) for route in self._fixed.get(path.decode("ascii", "replace"), ())]
        if not found:
            segments = split_path(path)
            candidates = ((route, route.match(segments)) for route in self._open.get(len(segments), ()))
            found = [(route, parts) for route, parts in candidates if parts is not None]
        if not found:
            raise NotFound(
                f"there is nothing at {path[:200].decode('ascii', 'replace')}; see GET /v1/node and GET /v2"
            )
        wanted = "GET" if method == "HEAD" else method
        for route, parts in found:
            if route.method == wanted:
                return route, parts
        raise WrongMethod(method, {route.method for route, _ in found})


def split_path(path: bytes) -> tuple[str, ...]:
    """The segments after the first slash, unquoted. Raises NotFound if they are not UTF-8."""
    try:
        parts = [unquote(part, errors="strict") for part in path.decode("ascii").split("/")[1:]]
    except UnicodeDecodeError:
        raise NotFound("the path is not percent-encoded UTF-8") from None
    if "models" in parts[1:3]:
        at = parts.index("models", 1) + 1
        if len(parts) > at + 1 and _PUBLISHER.fullmatch(parts[at]):
            parts[at : at + 2] = [f"{parts[at]}/{parts[at + 1]}"]
    return tuple(parts)
