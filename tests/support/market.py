"""One node, one version, one Settlement in titanoboa, and what tests do with them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import boa
from assay.commitments.identifiers import batch_id, keccak
from assay.commitments.receipts import receipt_digest, voucher_digest
from assay.commitments.signing import SigningKey, compact
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, Voucher

UNIT = 10**18
DISPUTE_WINDOW = 3_600
ESCROW_THAW = 7_200
FEE_BPS = 250


def key(name: str) -> SigningKey:
    """A consumer's key, the same for the same name."""
    return SigningKey(keccak(f"consumer {name}".encode()))


@dataclass
class Market:
    """`settlement`, its registries and token, a staked `node` and a published `version_id`."""

    settlement: Any
    token: Any
    models: Any
    nodes: Any
    node: str
    version_id: bytes
    _roots: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def domain(self) -> Domain:
        return Domain(self.settlement.eip712Domain()[3], Address(self.settlement.address))

    def fund(self, consumer: str, amount: int, *, node: str | None = None) -> None:
        """Mints `amount` to the consumer, who pays it into its escrow."""
        self.token.mint(consumer, amount)
        self.token.approve(self.settlement, amount, sender=consumer)
        self.settlement.fund(consumer, node or self.node, amount, sender=consumer)

    def voucher(self, consumer: str, amount: int, count: int, /, **changes: Any) -> Voucher:
        made = Voucher(Address(consumer), Address(self.node), Hash32(self.version_id), amount, count)
        return replace(made, **changes)

    def sign(
        self, key: SigningKey, amount: int, count: int, /, *, domain: Domain | None = None, **changes: Any
    ) -> bytes:
        """65 bytes over the key's own voucher, or over a changed one."""
        voucher = self.voucher(key.address, amount, count, **changes)
        return key.sign(voucher_digest(domain or self.domain, voucher))

    def row(self, key: SigningKey, amount: int, count: int, /, **changes: Any) -> tuple[Any, ...]:
        """A `Voucher` row as `post_batch` takes it."""
        return (key.address, amount, count, *compact(self.sign(key, amount, count, **changes)))

    def wallet_row(self, wallet: Any, key: SigningKey, amount: int, count: int) -> tuple[Any, ...]:
        """A `WalletVoucher` row for a MockWallet whose signer is `key`."""
        voucher = self.voucher(str(wallet.address), amount, count)
        return (wallet.address, amount, count, key.sign(voucher_digest(self.domain, voucher)))

    def post(self, *rows: Any, wallets: Any = (), root: bytes | None = None, **changes: Any) -> bytes:
        """Posts a batch as the operator; `changes`: node, version_id, sender. Returns the batch's id."""
        node = changes.get("node", self.node)
        version_id = changes.get("version_id", self.version_id)
        return bytes(
            self.settlement.post_batch(
                node,
                version_id,
                root or self.new_root(),
                list(rows),
                list(wallets),
                sender=changes.get("sender", node),
            )
        )

    def new_root(self) -> bytes:
        return keccak(next(self._roots).to_bytes(32, "big"))

    def key(self, root: bytes, **changes: Any) -> BatchKey:
        made = BatchKey(Address(self.node), Hash32(self.version_id), Hash32(root))
        return replace(made, **changes)

    def post_known(self, *rows: Any, **changes: Any) -> tuple[bytes, tuple[Any, ...]]:
        """Posts a batch and returns its id and its key as `collect` takes it."""
        root = self.new_root()
        known = self.key(root, **{k: v for k, v in changes.items() if k in ("node", "version_id")})
        posted = self.post(*rows, root=root, **changes)
        assert posted == batch_id(known)
        return posted, (known.node, known.version_id, known.receipts_root)

    def finish(self) -> None:
        """Lets the dispute window of everything posted so far pass."""
        boa.env.time_travel(seconds=DISPUTE_WINDOW)

    def receipt(self, consumer: str, price: int, sequence: int = 1, **changes: Any) -> Receipt:
        made = Receipt(
            node=Address(self.node),
            consumer=Address(consumer),
            version_id=Hash32(self.version_id),
            input_hash=keccak(b"input"),
            output_hash=keccak(b"output"),
            price=price,
            sequence=sequence,
            executed_at=1_800_000_000,
        )
        return replace(made, **changes)

    def digest(self, receipt: Receipt) -> bytes:
        return receipt_digest(self.domain, receipt)


def as_tuple(receipt: Receipt) -> tuple[Any, ...]:
    """A receipt as the contracts take it."""
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
