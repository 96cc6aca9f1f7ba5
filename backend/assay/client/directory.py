"""Who offers a version: candidates from events or the API, every fact that costs money from the contracts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from assay.chain.contracts import NodeRegistry, read_many
from assay.chain.logs import scan_logs
from assay.client.accelerator import Accelerator
from assay.client.store import Store
from assay.errors import AssayError
from assay.types import Address, Domain, Hash32

OFFERS_SECONDS = 15.0
REORG_BLOCKS = 64
DOWN_SECONDS = 20
PROBED_AT_MOST = 16


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """An active offer of an active node, as the chain has it. `price` in base units."""

    node: Address
    endpoint: str
    price: int


class Directory:
    """Offers by version, remembered for `OFFERS_SECONDS`."""

    def __init__(
        self,
        nodes: NodeRegistry,
        domain: Domain,
        store: Store,
        accelerator: Accelerator | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes, self._domain, self._store, self._accelerator = nodes, domain, store, accelerator
        self._clock = clock
        self._cache: dict[Hash32, tuple[float, list[NodeOffer]]] = {}
        self._signers: dict[tuple[Address, Address], tuple[float, int]] = {}

    def offers(self, version_id: Hash32, *, fresh: bool = False) -> list[NodeOffer]:
        """Active offers of active nodes, cheapest first."""
        found = self._cache.get(version_id)
        if fresh or found is None or found[0] < self._clock():
            found = (self._clock() + OFFERS_SECONDS, self._read(version_id, self._candidates(version_id)))
            self._cache[version_id] = found
        return found[1]

    def offer(self, node: Address, version_id: Hash32) -> NodeOffer | None:
        """One node's offer, read now."""
        return next(iter(self._read(version_id, [node])), None)

    def was_signer(self, node: Address, signer: Address, timestamp: int) -> bool:
        """Whether `signer` was registered for `node` at that Unix time; a current signer is remembered
        briefly.
        """
        known = self._signers.get((node, signer))
        if known is not None and known[0] > self._clock():
            return timestamp >= known[1]
        info = self._nodes.signer_info(signer)
        if info.node != node:
            return False
        if info.valid_to == 0:
            self._signers[node, signer] = (self._clock() + OFFERS_SECONDS, info.valid_from)
        return info.valid_from <= timestamp and (info.valid_to == 0 or timestamp < info.valid_to)

    def endpoint(self, node: Address) -> str:
        return self._nodes.node(node).endpoint

    def _read(self, version_id: Hash32, candidates: list[Address]) -> list[NodeOffer]:
        reads = [
            read
            for node in candidates
            for read in (
                self._nodes.view("offers", node, version_id),
                self._nodes.view("is_active", node),
                self._nodes.view("nodes", node),
            )
        ]
        values = read_many(self._nodes.client, reads) if reads else []
        rows = zip(candidates, values[0::3], values[1::3], values[2::3], strict=True)
        offers = [
            NodeOffer(node, record.endpoint, offer.price)
            for node, offer, is_active, record in rows
            if offer.active and is_active
        ]
        return sorted(offers, key=lambda offer: (offer.price, offer.node))

    def _candidates(self, version_id: Hash32) -> list[Address]:
        """Every node that ever offered the version: from the API if it answers, else from the chain's
        events.
        """
        if self._accelerator is not None:
            try:
                if nodes := self._accelerator.nodes_offering(version_id):
                    return nodes
            except AssayError:
                pass  # the chain answers as well, only slower
        return self._scan(version_id)

    def _scan(self, version_id: Hash32) -> list[Address]:
        nodes, start = self._store.load_scan(self._domain, version_id)
        head = self._nodes.client.block_number()
        if start > head + 1:  # a local chain that was started anew
            start = 0
        start = max(start, self._nodes.deployment.block)
        topics = [self._nodes.abi.topic("OfferSet"), None, "0x" + version_id.hex()]
        logs = scan_logs(self._nodes, topics, start, head)
        found = dict.fromkeys((*nodes, *(self._nodes.decode_log(entry).args["node"] for entry in logs)))
        self._store.save_scan(self._domain, version_id, list(found), max(0, head + 1 - REORG_BLOCKS))
        return list(found)


class Health:
    """What this consumer measured of nodes: moving average latency, failures in a row. Durable on `save`."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._rows = store.health()
        self._changed: set[Address] = set()
        self._lock = threading.Lock()

    def note(self, node: Address, latency_ms: float | None) -> None:
        """A measured latency, or None for a failure."""
        with self._lock:
            latency, failures, failed_at = self._rows.get(node, (0.0, 0, 0))
            if latency_ms is None:
                row = (latency, failures + 1, int(self._clock()))
            else:
                row = (latency_ms if not latency else 0.8 * latency + 0.2 * latency_ms, 0, failed_at)
            self._rows[node] = row
            self._changed.add(node)

    def is_down(self, node: Address) -> bool:
        """Failed lately; the pause doubles with each failure in a row, up to about an hour."""
        _, failures, failed_at = self._rows.get(node, (0.0, 0, 0))
        return failures > 0 and self._clock() < failed_at + DOWN_SECONDS * 2 ** min(failures - 1, 8)

    def rank(self, offers: list[NodeOffer], probe: Callable[[str], float | None]) -> list[NodeOffer]:
        """Best first: up before down, then price, then latency.

        Nodes at one price never measured are probed.
        """
        unknown = [offer for offer in offers[:PROBED_AT_MOST] if offer.node not in self._rows]
        if len(offers) > 1 and unknown:
            with ThreadPoolExecutor(max_workers=len(unknown)) as pool:
                for offer, latency in zip(
                    unknown, pool.map(lambda o: probe(o.endpoint), unknown), strict=True
                ):
                    self.note(offer.node, latency)

        def key(offer: NodeOffer) -> tuple[bool, int, float, str]:
            return (
                self.is_down(offer.node),
                offer.price,
                self._rows.get(offer.node, (0.0, 0, 0))[0],
                offer.node,
            )

        return sorted(offers, key=key)

    def save(self) -> None:
        with self._lock:
            rows = {node: self._rows[node] for node in self._changed}
            self._changed.clear()
        if rows:
            self._store.save_health(rows)
