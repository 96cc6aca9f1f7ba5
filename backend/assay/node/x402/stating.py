"""The signer's statements that a payment bought a receipt: those that a crash left out are made good.

The receipt is durable before its statement is. A node that dies in between has been paid and has signed the
receipt; if the payer does not come again, nobody would ask for the statement, and a payment without one would
look as if it had bought nothing once the receipt is kept no more.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from assay.commitments.authorizations import statement_digest
from assay.commitments.signing import SigningKey
from assay.errors import RetryableError
from assay.node.x402.payments import PaymentStore
from assay.types import Domain, Hash32

PAGE: Final = 256
LOOK_SECONDS: Final = 30.0
"""Between two looks: another process that shares the log may have died."""

_log = structlog.get_logger(__name__)


def sign_statement(key: SigningKey, domain: Domain, receipt: Hash32, payment: Hash32) -> bytes:
    """The same for the same two, whoever signs it when. `receipt` is its digest."""
    return key.sign(statement_digest(domain, receipt, payment))


class Stating:
    """`start` repeats `recover` in the event loop. Beside a sale under way it signs what that signs."""

    def __init__(
        self,
        store: PaymentStore,
        key: SigningKey,
        domain: Domain,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._key = key
        self._domain = domain
        self._look_seconds = look_seconds
        self._task: asyncio.Task[None] | None = None

    def recover(self) -> int:
        """SYNC. How many statements were missing. Raises RetryableError."""
        found = 0
        while missing := self._store.unstated(PAGE):
            for payment, receipt in missing:
                self._store.stated(payment, sign_statement(self._key, self._domain, receipt, payment))
            found += len(missing)
        if found:
            _log.warning("statements of payments made good after a crash", payments=found)
        return found

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.recover)
            except RetryableError as error:
                _log.warning("statements wait for the log", error=str(error))
            await asyncio.sleep(self._look_seconds)
