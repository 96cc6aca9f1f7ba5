"""Puts the parts of payment by x402 together, and takes them apart again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from assay.chain.deployments import TOKEN
from assay.commitments.signing import SigningKey
from assay.node.config import X402Config
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.database import Database
from assay.node.server import Server
from assay.node.service import Service
from assay.node.x402.collecting import Collector, Depth
from assay.node.x402.counting import PaymentCounters
from assay.node.x402.door import Door
from assay.node.x402.facilitator import FacilitatorClient
from assay.node.x402.paying import Till
from assay.node.x402.payments import PaymentStore
from assay.node.x402.probing import Prober
from assay.node.x402.stating import Stating
from assay.node.x402.transfers import Transfers, read_domain
from assay.node.x402.wire import PaymentTerms
from assay.types import Address

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class X402:
    """What runs for it. `stop` after the requests in progress are answered."""

    collector: Collector
    store: PaymentStore
    prober: Prober
    stating: Stating

    async def stop(self) -> None:
        await self.prober.stop()
        await self.stating.stop()
        await self.collector.close()
        await asyncio.to_thread(self.store.close)


async def open_x402(
    config: X402Config,
    app: Server,
    service: Service,
    ledger: ChainLedger,
    *,
    database: Database,
    key: SigningKey,
    endpoint: str,
    address: tuple[str, int],
) -> X402:
    """Sell by x402 from now on; `address` is where the node listens.

    Raises ConfigurationError, RetryableError.
    """
    token = ledger.deployment.address(TOKEN)
    domain = await asyncio.to_thread(
        read_domain, ledger.client, token, config.token_name, config.token_version
    )
    terms = PaymentTerms(domain, Address(config.payee or ledger.node), config.max_timeout_seconds)
    facilitator = FacilitatorClient(
        config.facilitator, terms, verify_seconds=config.verify_seconds, settle_seconds=config.settle_seconds
    )
    collector = Collector(
        facilitator,
        Transfers(ledger.client, token),
        Depth(config.confirmations, config.settle_seconds),
    )
    store = await asyncio.to_thread(PaymentStore, database)
    till = Till(service, terms, collector, store, ledger=ledger, key=key, max_waiting=config.max_waiting)
    counters = PaymentCounters(service.metrics)
    door = Door(service, terms, till, store, counters, endpoint=endpoint, min_price=config.min_price)
    app.sell_by_x402(door)
    prober = Prober(service, door, counters, _own_url(address))
    prober.start()
    stating = Stating(store, key, service.domain)
    stating.start()
    _log.info("pays by x402", facilitator=config.facilitator, payee=terms.payee, network=terms.network)
    return X402(collector, store, prober, stating)


def _own_url(address: tuple[str, int]) -> str:
    """Where the node reaches itself."""
    host, port = address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
