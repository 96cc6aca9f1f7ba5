"""What is known when the traffic is over, each fact from its own source: consumers, nodes' logs, chain."""

from __future__ import annotations

from dataclasses import dataclass

from assay.client.verify import Report
from assay.types import Address, BatchKey, Hash32, SignedReceipt


@dataclass(frozen=True)
class Answer:
    """A question that a consumer asked and the answer it accepted. `latency_ms` is what the caller waited."""

    consumer: str
    model: str
    label: int
    predicted: int
    node: Address
    digest: Hash32
    latency_ms: float
    failures: int
    """Nodes that were tried before and did not answer."""


@dataclass(frozen=True)
class Posted:
    """A batch on the chain: its event, its transactions, and the leaves that its node publishes."""

    key: BatchKey
    batch_id: Hash32
    amount: int
    count: int
    post_gas: int
    vouchers: int
    skipped: int
    collected: bool
    node_amount: int
    royalty: int
    fee: int
    digests: tuple[Hash32, ...]


@dataclass(frozen=True)
class Account:
    """An account's tokens in base units: what it must own after everything, and what it owns."""

    role: str
    address: Address
    expected: int
    actual: int


@dataclass(frozen=True)
class Money:
    """Every place where tokens can be. `liabilities` is what Settlement says that it owes in all."""

    accounts: tuple[Account, ...]
    supply: int
    held: int
    """Sum of the token balances of all accounts and contracts."""
    settlement_balance: int
    liabilities: int


@dataclass(frozen=True)
class Fraud:
    """A dispute that a node lost. Amounts in base units, gas of all transactions of each side."""

    dispute_id: int
    digest: Hash32
    node: Address
    challenger: Address
    sentence: str
    """What was wrong, in words, by the watcher's own explanation."""
    moves: int
    node_gas: int
    challenger_gas: int
    slashed: int
    to_challenger: int
    to_consumer: int
    to_treasury: int


@dataclass(frozen=True)
class Evidence:
    asked: int
    answers: tuple[Answer, ...]
    issued: dict[Hash32, SignedReceipt]
    """By digest, from the nodes' logs."""
    kept: dict[Hash32, SignedReceipt]
    """By digest, from the consumers' stores."""
    batches: tuple[Posted, ...]
    reports: dict[Hash32, Report]
    """What the chain alone says of every kept receipt."""
    money: Money
    collect_gas: int
    kills: int
    wrong: frozenset[Hash32]
    """Receipts whose outputs plain ONNX Runtime does not reproduce: found without the watcher."""
    frauds: tuple[Fraud, ...]
    void: frozenset[Hash32]
    """Receipts that the chain calls void."""
    restarted_receipts: int
    """Receipts that the killed node issued after it came back."""
