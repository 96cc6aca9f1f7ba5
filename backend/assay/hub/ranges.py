"""`Range` (RFC 9110 §14.2) and `Content-Range` (§14.4) of one byte range."""

from __future__ import annotations

import re
from dataclasses import dataclass

from assay.errors import RequestError

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes from `start` up to `stop` (exclusive) of `total`."""

    start: int
    stop: int
    total: int


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of a satisfiable single range; None where the header is ignored (several ranges).

    Raises RequestError 416 `range_unsatisfiable` for a range that holds no byte of the artifact.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise RequestError(
            f"range {header!r} holds no byte of an artifact of {size} bytes",
            status=416,
            code="range_unsatisfiable",
        )
    return start, stop


def parse_content_range(header: str) -> ContentRange:
    """Raises RequestError `content_range_invalid`."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match:
        start, last, total = map(int, match.groups())
        if start <= last < total:
            return ContentRange(start, last + 1, total)
    raise RequestError(
        f"Content-Range {header[:80]!r} is not `bytes FIRST-LAST/TOTAL` with FIRST ≤ LAST < TOTAL",
        code="content_range_invalid",
    )
