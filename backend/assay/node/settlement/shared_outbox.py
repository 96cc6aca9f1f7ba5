"""The outbox of a node with several processes: in the shared log, written through the session with the lock.

Nonce, raw transaction and hash are committed there before the broadcast, as in `chain.outbox`. A process
that takes over finds whatever the one before may have sent, looks the hashes up, and sends the same bytes
again. The one before cannot add anything: its session has ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from assay.chain.outbox import Outbox, Store
from assay.node.receipts.database import Connection
from assay.node.settlement.leadership import Lease
from assay.types import Address


class SharedOutbox(Outbox):
    """Thread-safe, as the lease is."""

    _attempts_in_order = "id"

    def __init__(self, lease: Lease) -> None:
        self.path = f"the outbox in {lease.name}"
        self._lock = threading.RLock()
        self._session: Connection = lease.connect()
        self._db = self._session

    @contextlib.contextmanager
    def sender_lock(self, chain_id: int, sender: Address) -> Iterator[None]:
        """The lease is the lock."""
        yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Store]:
        with self._lock, self._session.transaction():
            yield self._db
