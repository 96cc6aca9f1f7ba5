"""What SPEC.md §5 and §6 say, in plain Python: no chain, no packing, no signatures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

MAX_AMOUNT = 2**96 - 1
MAX_COUNT_GROWTH = 2**32 - 1

Pair = tuple[str, str]
"""(consumer, node)"""


@dataclass
class Batch:
    key: tuple[str, bytes, bytes]
    amount: int
    count: int
    posted_at: int
    fee_bps: int
    holds: int = 0
    collected: bool = False


@dataclass
class Stake:
    stake: int = 0
    thawing: int = 0
    thaw_at: int = 0
    frozen: int = 0
    put_in: int = 0
    withdrawn: int = 0
    slashed: int = 0


@dataclass
class Dispute:
    """`owed_by_node`: whose move it is."""

    node: str
    batch_id: bytes | None
    digest: bytes
    consumer: str
    price: int
    deadline: int
    owed_by_node: bool = True
    is_open: bool = True


@dataclass
class Row:
    """One voucher as it stands in a batch; `valid`: its signature is the consumer's."""

    consumer: str
    amount: int
    count: int
    valid: bool


@dataclass
class Model:
    """Every method returns the reason it must fail for, or does its work and returns what it yields."""

    window: int
    escrow_thaw: int
    stake_thaw: int
    min_stake: int
    treasury: str
    terms: dict[bytes, tuple[str, int, bool]]
    """version -> (royalty payee, royalty bps, has a program)"""
    now: int
    fee_bps: int = 0
    paused: bool = False
    escrow: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    thaws: dict[Pair, tuple[int, int]] = field(default_factory=dict)
    channels: defaultdict[tuple[str, str, bytes], tuple[int, int]] = field(
        default_factory=lambda: defaultdict(lambda: (0, 0))
    )
    batches: dict[bytes, Batch] = field(default_factory=dict)
    claimable: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    refunded: defaultdict[tuple[str, str, bytes], int] = field(default_factory=lambda: defaultdict(int))
    settled_count: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    verified_count: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    void: set[bytes] = field(default_factory=set)
    stakes: defaultdict[str, Stake] = field(default_factory=lambda: defaultdict(Stake))
    paid_in: int = 0
    paid_out: int = 0
    bond: int = 0
    slash_amount: int = 0
    move_window: int = 0
    disputes: list[Dispute] = field(default_factory=list)
    punished: set[object] = field(default_factory=set)
    rewards: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """What the dispute game paid to each account; bonds that came back and bonds won included."""

    # Settlement

    def liabilities(self) -> int:
        pending = sum(batch.amount for batch in self.batches.values() if not batch.collected)
        return sum(self.escrow.values()) + pending + sum(self.claimable.values())

    def fund(self, pair: Pair, amount: int) -> str | None:
        if self.escrow[pair] + amount > MAX_AMOUNT:
            return "settlement: escrow is over 96 bits"
        self.escrow[pair] += amount
        self.paid_in += amount
        return None

    def begin_thaw(self, pair: Pair, amount: int) -> str | None:
        if amount == 0:
            return "settlement: nothing to thaw"
        if amount > self.escrow[pair]:
            return "settlement: amount is over the balance"
        self.thaws[pair] = (amount, self.now + self.escrow_thaw)
        return None

    def cancel_thaw(self, pair: Pair) -> str | None:
        return None if self.thaws.pop(pair, None) else "settlement: no thaw to cancel"

    def withdraw(self, pair: Pair) -> str | int:
        if pair not in self.thaws:
            return "settlement: nothing is thawing"
        amount, thaw_at = self.thaws[pair]
        if self.now < thaw_at:
            return "settlement: escrow is still thawing"
        del self.thaws[pair]
        paid = min(amount, self.escrow[pair])
        self.escrow[pair] -= paid
        self.paid_out += paid
        return paid

    def post(self, batch_id: bytes, key: tuple[str, bytes, bytes], rows: list[Row]) -> str | list[int]:
        """The skipped rows' reasons, in order (0: paid), or why the whole call fails."""
        node, version, _ = key
        if self.paused:
            return "settlement: posting is paused"
        if self.stakes[node].stake < self.min_stake:
            return "settlement: node is not active"
        if batch_id in self.batches:
            return "settlement: batch is already posted"
        batch = Batch(key, 0, 0, self.now, self.fee_bps)
        reasons = [self._settle(batch, node, version, row) for row in rows]
        self.batches[batch_id] = batch
        return reasons

    def _settle(self, batch: Batch, node: str, version: bytes, row: Row) -> int:
        settled, count = self.channels[row.consumer, node, version]
        if row.amount < settled or row.count < count or (row.amount, row.count) == (settled, count):
            return 1
        if not row.valid:
            return 2
        available = min(self.escrow[row.consumer, node], MAX_AMOUNT - settled)
        if row.amount > settled and available == 0:
            return 3
        if row.count - count > MAX_COUNT_GROWTH:
            return 4
        paid = min(row.amount - settled, available)
        self.escrow[row.consumer, node] -= paid
        self.channels[row.consumer, node, version] = (settled + paid, row.count)
        batch.amount += paid
        batch.count += row.count - count
        return 0

    def is_final(self, batch: Batch) -> bool:
        return batch.holds == 0 and self.now >= batch.posted_at + self.window

    def collect(self, batch_id: bytes) -> str | int:
        batch = self.batches[batch_id]
        if batch.collected:
            return "settlement: batch is already collected"
        if batch.holds:
            return "settlement: batch is held"
        if not self.is_final(batch):
            return "settlement: dispute window is open"
        node, version, _ = batch.key
        payee, royalty_bps, has_program = self.terms[version]
        fee = -(-batch.amount * batch.fee_bps // 10_000)
        royalty = batch.amount * royalty_bps // 10_000
        self.claimable[self.treasury] += fee
        self.claimable[payee] += royalty
        self.claimable[node] += batch.amount - fee - royalty
        self.settled_count[version] += batch.count
        self.verified_count[version] += batch.count * has_program
        batch.collected = True
        return batch.amount

    def claim(self, account: str) -> str | int:
        amount = self.claimable.pop(account, 0)
        self.paid_out += amount
        return amount or "settlement: nothing to claim"

    def hold(self, batch_id: bytes) -> str | None:
        if self.is_final(self.batches[batch_id]):
            return "settlement: batch is final"
        self.batches[batch_id].holds += 1
        return None

    def release(self, batch_id: bytes) -> str | None:
        if not self.batches[batch_id].holds:
            return "settlement: batch is not held"
        self.batches[batch_id].holds -= 1
        return None

    def refund_of(self, batch_id: bytes, pair: Pair, price: int) -> int:
        """No more than the batch holds, nor than the channel has settled."""
        batch = self.batches[batch_id]
        channel = (*pair, batch.key[1])
        return min(price, batch.amount, self.channels[channel][0] - self.refunded[channel])

    def void_receipt(self, batch_id: bytes, digest: bytes, pair: Pair, price: int) -> str | None:
        if digest in self.void:
            return "settlement: receipt is already void"
        batch = self.batches[batch_id]
        if self.is_final(batch):
            return "settlement: batch is final"
        refund = self.refund_of(batch_id, pair, price)
        batch.amount -= refund
        self.refunded[*pair, batch.key[1]] += refund
        batch.count -= min(1, batch.count)
        returned = min(refund, MAX_AMOUNT - self.escrow[pair])
        self.escrow[pair] += returned
        self.claimable[pair[0]] += refund - returned
        self.void.add(digest)
        return None

    # NodeRegistry

    def stake(self, node: str, amount: int) -> None:
        self.stakes[node].stake += amount
        self.stakes[node].put_in += amount

    def begin_unstake(self, node: str, amount: int) -> str | None:
        held = self.stakes[node]
        if amount == 0:
            return "nodes: amount is zero"
        if amount > held.stake:
            return "nodes: amount is above the stake"
        held.stake -= amount
        held.thawing += amount
        held.thaw_at = self.now + self.stake_thaw
        return None

    def cancel_unstake(self, node: str) -> str | None:
        held = self.stakes[node]
        if not held.thawing:
            return "nodes: nothing is thawing"
        held.stake += held.thawing
        held.thawing = held.thaw_at = 0
        return None

    def withdraw_stake(self, node: str) -> str | int:
        held = self.stakes[node]
        if not held.thawing:
            return "nodes: nothing is thawing"
        if self.now < held.thaw_at:
            return "nodes: stake is still thawing"
        if held.frozen:
            return "nodes: a dispute is open"
        paid, held.thawing, held.thaw_at = held.thawing, 0, 0
        held.withdrawn += paid
        return paid

    def slash(self, node: str, amount: int) -> int:
        held = self.stakes[node]
        from_stake = min(amount, held.stake)
        from_thawing = min(amount - from_stake, held.thawing)
        held.stake -= from_stake
        held.thawing -= from_thawing
        held.slashed += from_stake + from_thawing
        return from_stake + from_thawing

    # DisputeGame

    def bonds(self) -> int:
        return self.bond * sum(dispute.is_open for dispute in self.disputes)

    def open(self, version: bytes, dispute: Dispute, start: int) -> str | None:
        if dispute.digest in self.void:
            return "disputes: receipt is already void"
        if not self.terms[version][2]:
            return "disputes: version has no program"
        if self.now >= start + self.window:
            return "disputes: dispute window is over"
        self.disputes.append(dispute)
        self.stakes[dispute.node].frozen += 1
        if dispute.batch_id is not None:
            self.batches[dispute.batch_id].holds += 1
        return None

    def time_out(self, dispute: Dispute, challenger: str) -> str | None:
        if not dispute.is_open:
            return "disputes: state is not current"
        if self.now <= dispute.deadline:
            return "disputes: move is not overdue"
        if dispute.owed_by_node:
            self._convict(dispute, challenger)
        else:
            self.acquit(dispute)
        return None

    def acquit(self, dispute: Dispute) -> None:
        self._let_go(dispute)
        self.rewards[dispute.node] += self.bond

    def _convict(self, dispute: Dispute, challenger: str) -> None:
        due, owed = 2 * self.bond, 0
        if dispute.digest not in self.void:
            due, owed = self.slash_amount, dispute.price
            if dispute.batch_id is None:
                self.void.add(dispute.digest)
            else:
                pair = (dispute.consumer, dispute.node)
                owed -= self.refund_of(dispute.batch_id, pair, dispute.price)
                assert self.void_receipt(dispute.batch_id, dispute.digest, pair, dispute.price) is None
        taken = self.slash(dispute.node, due)
        made_whole = min(owed, taken // 4)
        self._let_go(dispute)
        self.rewards[challenger] += self.bond + taken // 2
        self.rewards[dispute.consumer] += made_whole
        self.rewards[self.treasury] += taken - taken // 2 - made_whole

    def _let_go(self, dispute: Dispute) -> None:
        dispute.is_open = False
        self.stakes[dispute.node].frozen -= 1
        if dispute.batch_id is not None:
            self.batches[dispute.batch_id].holds -= 1

    def punish(self, fraud: object, node: str, reporter: str) -> str | None:
        if fraud in self.punished:
            return "disputes: node was slashed for it before"
        taken = self.slash(node, self.slash_amount)
        if not taken:
            return "disputes: node has no stake"
        self.punished.add(fraud)
        self.rewards[reporter] += taken // 2
        self.rewards[self.treasury] += taken - taken // 2
        return None
