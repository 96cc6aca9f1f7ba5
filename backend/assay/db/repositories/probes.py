"""What the prober reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, delete, insert, select

from assay.db.columns import clean_text
from assay.db.tables import Node, Offer, Probe


@dataclass(frozen=True, slots=True)
class Target:
    """A node to ask, as the chain describes it."""

    node: str
    signer: str
    endpoint: str


class ProbeSample(Protocol):
    @property
    def answered(self) -> bool: ...
    @property
    def latency_ms(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def versions(self) -> tuple[str, ...]: ...
    @property
    def received(self) -> int | None: ...
    @property
    def in_deadline(self) -> int | None: ...


class ProbeStore:
    """Queries on one connection, inside the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def targets(self) -> list[Target]:
        """Nodes with an active offer."""
        offering = select(Offer.node).where(Offer.node == Node.node, Offer.active.is_(True)).exists()
        query = select(Node.node, Node.signer, Node.endpoint).where(offering).order_by(Node.node)
        return [Target(*row) for row in self._connection.execute(query)]

    def save(self, node: str, at: int, sample: ProbeSample) -> None:
        self._connection.execute(delete(Probe).where(Probe.node == node, Probe.at == at))
        self._connection.execute(
            insert(Probe).values(
                node=node,
                at=at,
                answered=sample.answered,
                latency_ms=sample.latency_ms,
                reason=clean_text(sample.reason),
                versions=[clean_text(version) for version in sample.versions],
                received=sample.received,
                in_deadline=sample.in_deadline,
            )
        )

    def prune(self, before: int) -> None:
        self._connection.execute(delete(Probe).where(Probe.at < before))
