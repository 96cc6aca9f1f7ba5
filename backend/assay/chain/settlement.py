"""The Settlement contract (SPEC.md §6): escrow, vouchers, batches, payouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from assay.chain import views
from assay.chain.client import BlockId
from assay.chain.contract import Contract, read_many
from assay.chain.values import Call
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import compact, recover
from assay.errors import FatalError, VerificationError
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, ReceiptStatus, SignedVoucher

MAX_VOUCHERS = 128
MAX_WALLET_VOUCHERS = 32
MAX_COLLECT = 64
WALLET_ROW_GAS = 210_000
"""What a wallet may spend on one check, and the call around it. The estimate does not see it: a batch goes
through without it, only with the row skipped, and a hostile wallet burns gas when it is mined alone.
"""


class Settlement(Contract):
    """Views and calls of the deployed Settlement."""

    NAME = "Settlement"
    RESULTS: ClassVar[dict[str, type]] = {
        "escrows": views.Escrow,
        "channel": views.Channel,
        "batches": views.Batch,
        "receipt_status": ReceiptStatus,
    }

    def escrow(self, consumer: Address, node: Address, block: BlockId = "latest") -> views.Escrow:
        return cast(views.Escrow, self.read("escrows", consumer, node, block=block))

    def channel(
        self, consumer: Address, node: Address, version_id: Hash32, block: BlockId = "latest"
    ) -> views.Channel:
        return cast(views.Channel, self.read("channel", consumer, node, version_id, block=block))

    def channels(
        self, keys: Sequence[tuple[Address, Address, Hash32]], block: BlockId = "latest"
    ) -> list[views.Channel]:
        """Many (consumer, node, version) at once."""
        return read_many(self.client, [self.view("channel", *key) for key in keys], block)

    def batch(self, batch_id: Hash32, block: BlockId = "latest") -> views.Batch:
        return cast(views.Batch, self.read("batches", batch_id, block=block))

    def batches(self, batch_ids: Sequence[Hash32], block: BlockId = "latest") -> list[views.Batch]:
        return read_many(self.client, [self.view("batches", batch_id) for batch_id in batch_ids], block)

    def receipt_status(
        self,
        batch_id: Hash32,
        receipt: Receipt,
        siblings: Sequence[Hash32],
        index: int,
        block: BlockId = "latest",
    ) -> ReceiptStatus:
        args = (batch_id, receipt_row(receipt), list(siblings), index)
        return cast(ReceiptStatus, self.read("receipt_status", *args, block=block))

    def is_void(self, digest: Hash32, block: BlockId = "latest") -> bool:
        return cast(bool, self.read("is_void", digest, block=block))

    def verified_count(self, version_id: Hash32, block: BlockId = "latest") -> int:
        return cast(int, self.read("verified_count", version_id, block=block))

    def settled_count(self, version_id: Hash32, block: BlockId = "latest") -> int:
        return cast(int, self.read("settled_count", version_id, block=block))

    def claimable(self, account: Address, block: BlockId = "latest") -> int:
        return cast(int, self.read("claimable", account, block=block))

    def total_liabilities(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("total_liabilities", block=block))

    def dispute_window(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("dispute_window", block=block))

    def escrow_thaw_period(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("escrow_thaw_period", block=block))

    def fee_bps(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("fee_bps", block=block))

    def treasury(self, block: BlockId = "latest") -> Address:
        return cast(Address, self.read("treasury", block=block))

    def fund(self, consumer: Address, node: Address, amount: int) -> Call:
        """The sender must have approved the amount of the token to this contract."""
        return self.write("fund", consumer, node, amount, label=f"fund {amount}")

    def fund_with_permit(
        self, consumer: Address, node: Address, amount: int, deadline: int, signature: bytes
    ) -> Call:
        """`signature` is the sender's EIP-2612 permit for this contract, 65 bytes r ‖ s ‖ v."""
        permit = (deadline, signature[64], signature[:32], signature[32:64])
        return self.write("fund_with_permit", consumer, node, amount, *permit, label=f"fund {amount}")

    def begin_thaw(self, node: Address, amount: int) -> Call:
        return self.write("begin_thaw", node, amount, label=f"begin to thaw {amount}")

    def cancel_thaw(self, node: Address) -> Call:
        return self.write("cancel_thaw", node)

    def withdraw(self, node: Address) -> Call:
        return self.write("withdraw", node, label="withdraw escrow")

    def post_batch(
        self, node: Address, version_id: Hash32, receipts_root: Hash32, vouchers: Sequence[SignedVoucher]
    ) -> Call:
        """Vouchers whose signature recovers to their consumer go as EIP-2098 rows, all others to ERC-1271."""
        rows, wallet_rows = voucher_rows(self.deployment.domain, vouchers)
        label = f"post batch 0x{receipts_root.hex()} with {len(vouchers)} vouchers"
        call = self.write("post_batch", node, version_id, receipts_root, rows, wallet_rows, label=label)
        return replace(call, extra_gas=WALLET_ROW_GAS * len(wallet_rows))

    def collect(self, keys: Sequence[BatchKey]) -> Call:
        if len(keys) > MAX_COLLECT:
            raise FatalError(f"collect takes at most {MAX_COLLECT} batches, got {len(keys)}; split them")
        rows = [(key.node, key.version_id, key.receipts_root) for key in keys]
        return self.write("collect", rows, label=f"collect {len(rows)} batches")

    def claim(self, account: Address) -> Call:
        return self.write("claim", account, label=f"claim for {account}")


def receipt_row(receipt: Receipt) -> tuple[Any, ...]:
    """The ABI's Receipt struct."""
    return (
        receipt.node,
        receipt.consumer,
        receipt.version_id,
        receipt.input_hash,
        receipt.output_hash,
        receipt.price,
        receipt.sequence,
        receipt.executed_at,
    )


def voucher_rows(
    domain: Domain, vouchers: Sequence[SignedVoucher]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """`(Voucher rows, WalletVoucher rows)` of `post_batch`; `FatalError` above the contract's bounds."""
    rows: list[tuple[Any, ...]] = []
    wallet_rows: list[tuple[Any, ...]] = []
    for signed in vouchers:
        head = (signed.voucher.consumer, signed.voucher.amount, signed.voucher.count)
        if _is_signed_by_consumer(domain, signed):
            rows.append((*head, *compact(signed.signature)))
        else:
            wallet_rows.append((*head, signed.signature))
    if len(rows) > MAX_VOUCHERS or len(wallet_rows) > MAX_WALLET_VOUCHERS:
        raise FatalError(
            f"a batch holds at most {MAX_VOUCHERS} vouchers and {MAX_WALLET_VOUCHERS} wallet vouchers, "
            f"got {len(rows)} and {len(wallet_rows)}; leave the rest for the next batch"
        )
    return rows, wallet_rows


def _is_signed_by_consumer(domain: Domain, signed: SignedVoucher) -> bool:
    try:
        return recover(voucher_digest(domain, signed.voucher), signed.signature) == signed.voucher.consumer
    except VerificationError:
        return False
