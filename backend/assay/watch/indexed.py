"""Posted batches as an index lists them: a hint, checked against the chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog

from assay.commitments.identifiers import batch_id
from assay.commitments.parsing import get_field, parse_address, parse_hash, parse_integer
from assay.errors import RequestError, RetryableError
from assay.index.download import Limits, Unreachable, download
from assay.types import BatchKey
from assay.watch.policy import Policy
from assay.watch.store import Store
from assay.watch.values import PostedBatch

PAGE: Final = 100
MAX_PAGES: Final = 1_000
REORG_BLOCKS: Final = 128
"""How far back batches are listed again, in case a reorg moved them."""

log = structlog.get_logger(__name__)


class IndexedBatches:
    """`step` takes what is new at `GET {url}/v1/batches`. The collector asks the chain about each of them."""

    def __init__(
        self,
        url: str,
        store: Store,
        policy: Policy,
        limits: Limits,
        fetch: Callable[[str, Limits], bytes] = download,
    ) -> None:
        self._url, self._store, self._policy = url.rstrip("/"), store, policy
        self._limits, self._fetch = limits, fetch
        self._walked_to = 0

    def step(self) -> int:
        """How many batches were new. Newest first, back to where the last walk began."""
        cursor, new, newest = "", 0, self._walked_to
        for _ in range(MAX_PAGES):
            found, cursor = self._page(cursor)
            wanted = [b for b in found if self._policy.covers(b.key.node, b.key.version_id)]
            new += self._store.add_batches(wanted)
            blocks = [batch.block for batch in found]
            newest = max([newest, *blocks])
            if not cursor or not blocks or min(blocks) < self._walked_to - REORG_BLOCKS:
                break
        self._walked_to = newest
        return new

    def _page(self, cursor: str) -> tuple[list[PostedBatch], str]:
        query = f"?limit={PAGE}" + (f"&cursor={cursor}" if cursor else "")
        try:
            page = orjson.loads(self._fetch(f"{self._url}/v1/batches{query}", self._limits))
            found = [parse_batch(item) for item in get_field(page, "items")]
            following = page.get("next_cursor")
        except Unreachable as error:
            raise RetryableError(f"the index gave no batches: {error}; --chain-alone needs none") from error
        except (RequestError, ValueError, TypeError) as error:
            raise RetryableError(f"{self._url} is no index of batches: {error}") from error
        return found, quote(following, safe="") if isinstance(following, str) else ""


def parse_batch(item: Any) -> PostedBatch:
    """Raises RequestError; a batch's id must be its key's."""
    key = BatchKey(
        parse_address(get_field(item, "node"), "node"),
        parse_hash(get_field(item, "version_id"), "version_id"),
        parse_hash(get_field(item, "receipts_root"), "receipts_root"),
    )
    identifier = parse_hash(get_field(item, "batch_id"), "batch_id")
    if identifier != batch_id(key):
        raise RequestError(f"batch 0x{identifier.hex()} is not what its node, version and root give")
    return PostedBatch(identifier, key, parse_integer(get_field(item, "posted_block"), "posted_block"))
