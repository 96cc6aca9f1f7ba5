"""A refusal as gRPC has it: status code, details, trailing metadata (SPEC.md §7)."""

from __future__ import annotations

from typing import Any, Final, NoReturn
from urllib.parse import quote

import grpc

from assay.node.refusals import Answered

Metadata = tuple[tuple[str, str], ...]
_PRINTABLE: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def status_code(answered: Answered) -> grpc.StatusCode:
    return grpc.StatusCode[answered.grpc]


def details(answered: Answered) -> str:
    """One line for people: clients show nothing else."""
    cure = f" Cure: {answered.cure}." if answered.cure else ""
    return f"{answered.code}: {answered.message}.{cure}"


def trailing_metadata(answered: Answered) -> Metadata:
    """`assay-code`, `assay-cure`, and for what may come again when: `retry-after` in seconds, and gRPC's own
    pushback, which its clients' retry policies heed."""
    found = [("assay-code", answered.code), ("assay-cure", ascii_value(answered.cure))]
    if answered.retry_after is not None:
        found.append(("retry-after", str(answered.retry_after)))
        found.append(("grpc-retry-pushback-ms", str(answered.retry_after * 1000)))
    return tuple(found)


def ascii_value(text: str) -> str:
    """Metadata values are printable ASCII: the rest is percent-encoded, as in gRPC's own messages."""
    return quote(text, safe=_PRINTABLE)


async def abort(context: Any, answered: Answered, more: Metadata = ()) -> NoReturn:
    """End the call with it, and with `more` trailing metadata. Raises what grpc ends calls with."""
    await context.abort(status_code(answered), details(answered), trailing_metadata(answered) + more)
    raise AssertionError("grpc let the call go on")
