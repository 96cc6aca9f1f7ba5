"""Heads of requests that were seen before: their bytes say all that the parser would say."""

from __future__ import annotations

from typing import Final

from assay.node.http.exchange import Exchange, KnownHead

KNOWN_BYTES: Final = 2048
KNOWN_HEADS: Final = 1024
_SPECIAL: Final = frozenset(
    (b"expect", b"transfer-encoding", b"upgrade", b"connection", b"content-encoding", b"trailer")
)


def remember(heads: dict[bytes, KnownHead], raw: bytes, exchange: Exchange) -> None:
    """Keep the head `raw` of a served request, if nothing of it is special and it told its body's length."""
    headers = exchange.request.headers
    length = headers.get(b"content-length", b"")
    if exchange.close or exchange.is_http_1_0 or _SPECIAL & headers.keys():
        return
    if not length.isdigit() or int(length) != exchange.size:
        return
    if len(heads) >= KNOWN_HEADS:
        heads.clear()
    request = exchange.request
    heads[raw] = KnownHead(request.path, request.query, headers, exchange.size, exchange.target)
