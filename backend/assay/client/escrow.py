"""A consumer's escrow with nodes: what it still covers, deposits by hand and on demand, the way out (SPEC.md
§6).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from eth_abi.abi import encode as abi_encode

from assay.chain.contracts import Settlement, Token, read_many
from assay.chain.values import Call, TxReceipt
from assay.chain.views import Escrow
from assay.client.channels import ChannelState, next_amount
from assay.client.errors import EscrowShort
from assay.client.requests import Signer
from assay.client.store import Store
from assay.commitments.identifiers import keccak
from assay.errors import ContractRevert, FatalError, RequestError
from assay.types import Address, Domain, Hash32

PERMIT_TYPEHASH = keccak(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
"""EIP-2612."""
PERMIT_SECONDS = 3600


class SendsCalls(Protocol):
    """`chain.sender.Sender`, or anything that sends a call and waits for it."""

    def send(self, call: Call, label: str | None = None) -> TxReceipt: ...


@dataclass(frozen=True, slots=True)
class AutoFund:
    """Permission to deposit unasked: `deposit` base units at a time (or one price, if that is more), never
    more than `total` altogether from one data folder and account."""

    deposit: int
    total: int

    def __post_init__(self) -> None:
        if not 0 < self.deposit <= self.total:
            raise RequestError(f"auto_fund needs 0 < deposit ≤ total, got {self.deposit} and {self.total}")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    balance: int
    settled: dict[Hash32, int]


class Purse:
    """Escrow of one consumer. Deposits need `sender`."""

    def __init__(
        self,
        settlement: Settlement,
        token: Token,
        *,
        domain: Domain,
        key: Signer,
        store: Store,
        sender: Callable[[], AbstractContextManager[SendsCalls]],
        auto_fund: AutoFund | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settlement, self._token, self._domain = settlement, token, domain
        self._key, self._store, self._sender = key, store, sender
        self.auto_fund = auto_fund
        self._clock = clock
        self._snapshots: dict[Address, _Snapshot] = {}
        self._lock = threading.RLock()

    def ensure(self, state: ChannelState, price: int) -> None:
        """Return if the escrow covers one more request of `price`; deposit if that is allowed.

        Raises EscrowShort.
        """
        with self._lock:
            missing = self._missing(state, price, fresh=False)
            if missing > 0:
                missing = self._missing(state, price, fresh=True)
            if missing > 0:
                self._deposit_unasked(state.node, missing, price)
                missing = self._missing(state, price, fresh=True)
            if missing > 0:
                raise self._short(state.node, price, missing)

    def forget(self, node: Address) -> None:
        """Ask the chain again the next time."""
        self._snapshots.pop(node, None)

    def free(self, node: Address) -> int:
        """Base units in escrow that no voucher signed from this data folder has promised."""
        states = self._store.channels(self._domain, self._key.address, node)
        return self._free(node, states, fresh=True)

    def _missing(self, state: ChannelState, price: int, *, fresh: bool) -> int:
        others = [
            other
            for other in self._store.channels(self._domain, state.consumer, state.node)
            if other.version_id != state.version_id
        ]
        needed = next_amount(state, price) - state.signed
        return needed - self._free(state.node, [*others, state], fresh=fresh)

    def _free(self, node: Address, states: list[ChannelState], *, fresh: bool) -> int:
        """Escrow less what is promised and unsettled; both fall together when a batch settles."""
        snapshot = self._snapshots.get(node)
        if fresh or snapshot is None or any(state.version_id not in snapshot.settled for state in states):
            snapshot = self._read(node, [state.version_id for state in states])
        promised = sum(max(0, state.signed - snapshot.settled[state.version_id]) for state in states)
        return snapshot.balance - promised

    def _read(self, node: Address, version_ids: list[Hash32]) -> _Snapshot:
        consumer, settlement = self._key.address, self._settlement
        reads = [settlement.view("channel", consumer, node, item) for item in version_ids]
        escrow, *channels = read_many(settlement.client, [settlement.view("escrows", consumer, node), *reads])
        settled = {item: channel.settled for item, channel in zip(version_ids, channels, strict=True)}
        snapshot = self._snapshots[node] = _Snapshot(escrow.balance, settled)
        return snapshot

    def _deposit_unasked(self, node: Address, missing: int, price: int) -> None:
        allowed = self.auto_fund
        if allowed is None:
            return
        amount = max(allowed.deposit, missing)
        self._check_balance(amount)  # what cannot be deposited uses nothing of the bound
        if self._store.add_deposit(
            self._domain.chain_id, self._key.address, node, amount, limit=allowed.total
        ):
            self.fund(node, amount)
            return
        done = self._store.deposited(self._domain.chain_id, self._key.address)
        raise EscrowShort(
            f"escrow with node {node} lacks {missing} base units, and automatic deposits have reached their "
            f"bound: {done} of"
            f" {allowed.total} are used and {amount} more are needed; raise `total`, or run `assay channel "
            f"fund {node} …`",
            needed=price,
            free=price - missing,
        )

    def _short(self, node: Address, price: int, missing: int) -> EscrowShort:
        free = price - missing
        return EscrowShort(
            f"escrow with node {node} covers {max(free, 0)} base units, this request costs {price}; run "
            f"`assay channel fund {node} AMOUNT`, or give the client auto_fund",
            needed=price,
            free=free,
        )

    # --- by hand ------------------------------------------------------------------------------------------

    def fund(self, node: Address, amount: int) -> list[TxReceipt]:
        """Deposit; with an EIP-2612 permit in one transaction where the token has it, else approve and
        fund.
        """
        consumer, settlement = self._key.address, self._settlement
        self._check_balance(amount)
        self.forget(node)
        fund = settlement.fund(consumer, node, amount)
        with self._sender() as sender:
            if self._token.allowance(consumer, settlement.address) >= amount:
                return [sender.send(fund)]
            if (permit := self._permit(amount)) is not None:
                return [sender.send(settlement.fund_with_permit(consumer, node, amount, *permit))]
            return [sender.send(self._token.approve(settlement.address, amount)), sender.send(fund)]

    def _check_balance(self, amount: int) -> None:
        """Raises EscrowShort."""
        consumer = self._key.address
        balance = self._token.balance_of(consumer)
        if amount <= 0 or balance < amount:
            raise EscrowShort(
                f"{consumer} holds {balance} base units of the token and cannot deposit {amount}; get tokens "
                "first",
                needed=amount,
                free=balance,
            )

    def _permit(self, amount: int) -> tuple[int, bytes] | None:
        """(deadline, signature), or None where the token has no EIP-2612."""
        owner = self._key.address
        try:
            separator, nonce = read_many(
                self._token.client, [self._token.view("DOMAIN_SEPARATOR"), self._token.view("nonces", owner)]
            )
        except (FatalError, ContractRevert):
            return None
        deadline = self._token.client.get_block("latest").timestamp + PERMIT_SECONDS
        fields = [PERMIT_TYPEHASH, owner, self._settlement.address, amount, nonce, deadline]
        types = ["bytes32", "address", "address", "uint256", "uint256", "uint256"]
        return deadline, self._key.sign(keccak(b"\x19\x01" + separator + keccak(abi_encode(types, fields))))

    def begin_thaw(self, node: Address, amount: int) -> TxReceipt:
        """First step out: withdrawable after `escrow_thaw_period` seconds; vouchers draw on it until then."""
        return self._send(self._settlement.begin_thaw(node, amount))

    def cancel_thaw(self, node: Address) -> TxReceipt:
        return self._send(self._settlement.cancel_thaw(node))

    def withdraw(self, node: Address) -> TxReceipt:
        """Second step out, after the thaw."""
        self.forget(node)
        return self._send(self._settlement.withdraw(node))

    def _send(self, call: Call) -> TxReceipt:
        with self._sender() as sender:
            return sender.send(call)

    def escrow(self, node: Address) -> Escrow:
        return self._settlement.escrow(self._key.address, node)
