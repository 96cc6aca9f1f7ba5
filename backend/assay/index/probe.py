"""Asks every node with an offer whether it answers, and keeps what it said for a while (SPEC.md §8)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeGuard

import structlog
from sqlalchemy import Engine

from assay.db.engine import read_session, write_transaction
from assay.db.repositories.probes import ProbeStore, Target
from assay.index.download import Limits, Unreachable, download
from assay.types import Domain

log = structlog.get_logger(__name__)

PERIOD = 15
RETENTION = 24 * 3600
MAX_ANSWER = 1 << 20
WORKERS = 8
MAX_COUNTER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One probe. `versions` are those that `/v1/node` listed; counters None where the node gives none."""

    answered: bool
    latency_ms: int
    reason: str
    versions: tuple[str, ...] = ()
    received: int | None = None
    in_deadline: int | None = None


class Prober:
    """`step` probes all nodes once. `deadline` in seconds for both requests together."""

    def __init__(
        self,
        engine: Engine,
        domain: Domain,
        *,
        deadline: float = 2.0,
        allow_private: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._domain, self._deadline, self._clock = engine, domain, deadline, clock
        self._allow_private = allow_private

    def step(self) -> int:
        """Returns how many nodes answered."""
        with read_session(self._engine) as session:
            targets = ProbeStore(session.connection()).targets()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="probe") as workers:
            samples = list(workers.map(self.probe, targets))
        now = int(self._clock())
        with write_transaction(self._engine) as connection:
            store = ProbeStore(connection)
            for target, sample in zip(targets, samples, strict=True):
                store.save(target.node, now, sample)
            store.prune(now - RETENTION)
        return sum(sample.answered for sample in samples)

    def probe(self, target: Target) -> Sample:
        """Never raises for what a node does."""
        started = time.monotonic()
        try:
            self._get(target, "/v2/health/ready", started)
            data = json.loads(self._get(target, "/v1/node", started))
            versions, received, in_deadline = check_answer(data, target, self._domain)
        except (Unreachable, ValueError, RecursionError) as error:
            return Sample(False, _elapsed_ms(started), str(error)[:500])
        return Sample(True, _elapsed_ms(started), "", versions, received, in_deadline)

    def _get(self, target: Target, path: str, started: float) -> bytes:
        left = self._deadline - (time.monotonic() - started)
        if left <= 0:
            raise Unreachable(f"{path} was not asked: the deadline of {self._deadline:g} s had passed")
        limits = Limits(bytes=MAX_ANSWER, seconds=left, allow_private=self._allow_private)
        return download(target.endpoint.rstrip("/") + path, limits)


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def check_answer(data: Any, target: Target, domain: Domain) -> tuple[tuple[str, ...], int | None, int | None]:
    """(versions offered, received, in_deadline) of `/v1/node`. Raises ValueError if it is not this node's."""
    if not isinstance(data, dict):
        raise ValueError("/v1/node is not an object")
    expected = {
        "node": target.node,
        "signer": target.signer,
        "chain_id": domain.chain_id,
        "settlement": domain.settlement,
    }
    for name, value in expected.items():
        if data.get(name) != value:
            raise ValueError(f"/v1/node says {name} is {str(data.get(name))[:80]}, the chain says {value}")
    offers = data.get("offers")
    if not isinstance(offers, list):
        raise ValueError("/v1/node has no list of offers")
    listed = tuple(str(o["version_id"])[:66] for o in offers if isinstance(o, dict) and "version_id" in o)
    return listed[:1000], *_counters(data.get("requests"))


def _counters(requests: Any) -> tuple[int | None, int | None]:
    if not isinstance(requests, Mapping):
        return None, None
    received, in_deadline = requests.get("received"), requests.get("in_deadline")
    if not _is_counter(received) or not _is_counter(in_deadline):
        return None, None
    return received, min(received, in_deadline)


def _is_counter(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNTER
