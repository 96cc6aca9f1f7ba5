"""A node's log, and a settler over it, without the server: receipts are written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from assay.commitments.receipts import voucher_digest
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.profit import VersionProfit, read_profit
from assay.node.settlement.settler import Settler
from assay.node.settlement.values import BatchState
from assay.node.settlement.worth import SettlerRules
from assay.types import ZERO_ADDRESS, Address, Hash32, Voucher

from tests.support.nodes import Consumer, Network, NodeUnderTest, Published
from tests.support.settle_once import open_settler

PRICE = 5


class Desk:
    """A node's log, and a settler over it, without the server."""

    def __init__(self, network: Network, node: NodeUnderTest, published: Published) -> None:
        self.network, self.node, self.published = network, node, published
        self.log = ReceiptLog(SqliteDatabase(node.folder / "receipts.sqlite3"), network.domain, node.operator)
        self.issued = 0

    def receipt(self, consumer: Consumer | None, amount: int, count: int, price: int = PRICE) -> None:
        """One receipt, paid by a voucher of `amount` and `count`."""
        self.issued += 1
        unique = Hash32(self.issued.to_bytes(32, "big"))
        if consumer is None:
            self.log.write([Issue(self.key(ZERO_ADDRESS), unique, unique, 0)], self.node.signer)
            return
        held = self.held(consumer, amount, count)
        self.log.write(
            [Issue(self.key(consumer.address), unique, unique, price, held, unique)], self.node.signer
        )

    def acknowledge(self, consumer: Consumer, amount: int, count: int) -> None:
        item = Acknowledge(self.key(consumer.address), self.held(consumer, amount, count))
        self.log.write([item], self.node.signer)

    def key(self, consumer: Address) -> ChannelKey:
        return ChannelKey(self.published.version_id, consumer)

    def held(self, consumer: Consumer, amount: int, count: int) -> HeldVoucher:
        voucher = Voucher(consumer.address, self.node.operator, self.published.version_id, amount, count)
        return HeldVoucher(amount, count, consumer.key.sign(voucher_digest(self.network.domain, voucher)))

    @contextmanager
    def settler(self, **rules: object) -> Iterator[Settler]:
        node = self.node
        with open_settler(
            self.network.chain.url,
            self.network.deployments,
            node.folder,
            node.operator,
            node.signer,
            SettlerRules(**rules),  # type: ignore[arg-type]
        ) as made:
            yield made

    def settled(self, consumer: Consumer) -> tuple[int, int]:
        found = self.network.settlement.channel(
            consumer.address, self.node.operator, self.published.version_id
        )
        return found.settled, found.count

    def states(self) -> list[BatchState]:
        store = BatchStore(self.log.database, self.node.operator)
        found = [batch.state for state in BatchState for batch in store.in_state(state)]
        store.close()
        return found

    def books(self) -> VersionProfit:
        with closing(self.log.database.connect()) as connection:
            return read_profit(connection, 0, {})[0]
