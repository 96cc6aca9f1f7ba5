"""What a node shows of itself and of its log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

import assay
from assay.commitments.public_data import ReceiptData
from assay.errors import RequestError
from assay.node.errors import NotFound
from assay.node.observability import gauges
from assay.node.receipts.database import Database
from assay.node.receipts.entries import LoggedReceipt
from assay.node.receipts.log import ReceiptLog, read_data, receipts_within
from assay.node.receipts.unbatched import Range
from assay.node.service import Service
from assay.node.settlement.closing import pages, ranges_of
from assay.types import Address, Domain

PAGE: Final = 500
EXTENSIONS: Final = ("binary_tensor_data", "statistics", "model_configuration", "model_repository")
"""Of the Open Inference Protocol; `model_repository` answers the operator alone."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The fixed part of what a node says of itself."""

    signer: Address
    endpoint: str
    settles: Callable[[], bool] = lambda: False
    """Whether this process settles and defends now."""

    def server(self) -> dict[str, Any]:
        """`GET /v2`."""
        return server_metadata()

    def node(self, service: Service) -> dict[str, Any]:
        """`GET /v1/node`."""
        metrics = service.metrics
        return {
            "node": service.node,
            "signer": self.signer,
            "chain_id": service.domain.chain_id,
            "settlement": service.domain.settlement,
            "endpoint": self.endpoint,
            "offers": list(_offers(service)),
            "requests": {
                "received": metrics.received,
                "in_deadline": metrics.in_deadline,
                "deadline_ms": round(metrics.deadline_seconds * 1000),
            },
        }

    def metrics(self, service: Service) -> bytes:
        """`GET /metrics`."""
        gauges.read_chain(service.metrics, service.follower)
        gauges.read_engines(service.metrics, service.catalog)
        service.metrics.settles.set(self.settles())
        with service.log.database.session() as connection:
            gauges.read_log(service.metrics, connection)
        return service.metrics.render()


def server_metadata() -> dict[str, Any]:
    """The server metadata of the Open Inference Protocol."""
    return {"name": "assay", "version": assay.__version__, "extensions": list(EXTENSIONS)}


def _offers(service: Service) -> Iterator[dict[str, Any]]:
    """The versions that a consumer can ask for now."""
    for served in service.catalog:
        try:
            admitted = service.admit_version(served, asked=False)
        except RequestError:
            continue
        yield {
            "version_id": "0x" + served.version_id.hex(),
            "model": served.full_name,
            "number": served.number,
            "price": str(admitted.price),
            "assurance": served.assurance,
        }


def receipt(service: Service, digest: bytes) -> dict[str, Any]:
    """`GET /v1/receipts/{digest}`. Raises NotFound."""
    logged = service.log.receipt(digest)
    if logged is None:
        raise NotFound(f"this node issued no receipt 0x{digest.hex()}")
    return logged.to_json(service.domain)


def receipt_data(log: ReceiptLog, digest: bytes) -> bytes:
    """`GET /v1/receipts/{digest}/data`, as JSON. Raises NotFound `private`, `expired`, `not_found`."""
    name = f"receipt 0x{digest.hex()}"
    entry = None if log.pending is None else log.pending.by_digest.get(digest)
    if entry is not None:  # what is in the tables later
        public, data = entry.public, None if entry.data is None else ReceiptData.from_bytes(entry.data)
    else:
        with log.database.session() as connection:
            row = connection.execute("SELECT public FROM receipts WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                raise NotFound(f"this node issued no {name}")
            public, data = bool(row[0]), read_data(connection, digest)
    if not public:
        raise NotFound(
            f"{name} is private: its consumer did not ask for it with public; only the two know its data",
            code="private",
        )
    if data is None:
        raise NotFound(f"the window of {name} has passed; its data are not kept any more", code="expired")
    return orjson.dumps(data.to_json())


def batch_lines(database: Database, domain: Domain, batch_id: bytes) -> Iterator[bytes]:
    """`GET /v1/batches/{batch_id}` in pages of whole lines; nothing if there is no such batch, or if its
    receipts are kept no more. Bounded memory, and nothing of the log held between pages, however large the
    batch is and however slow its reader."""
    with database.session() as connection:
        row = connection.execute(
            "SELECT b.id, b.version_id, b.receipts_root, b.receipts, m.value FROM batches b, meta m"
            " WHERE b.batch_id = ? AND m.key = 'node' AND b.kept >= 2",
            (batch_id,),
        ).fetchone()
        if row is None:
            return
        number, version_id, root, count, node = row
        header = {
            "batch_id": "0x" + batch_id.hex(),
            "node": node,
            "version_id": "0x" + version_id.hex(),
            "receipts_root": "0x" + root.hex(),
            "count": count,
        }
        parts = pages(ranges_of(connection, number), PAGE)
    yield orjson.dumps(header) + b"\n"
    while page := _read_page(database, Address(node), parts):
        yield b"".join(orjson.dumps(logged.to_json(domain)) + b"\n" for logged in page)


def _read_page(database: Database, node: Address, parts: Iterator[Range]) -> list[LoggedReceipt]:
    """The next `PAGE` receipts of `parts`, up to twice as many; none at their end."""
    page: list[LoggedReceipt] = []
    with database.session() as connection:
        for part in parts:
            page += receipts_within(connection, node, part)
            if len(page) >= PAGE:
                break
    return page
