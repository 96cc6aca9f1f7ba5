"""Collects the evidence: nodes' logs, consumers' stores, the chain. Judges nothing."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
from assay.chain.client import hex_bytes
from assay.chain.contracts import NodeRegistry, Settlement, Token
from assay.chain.values import EventData, TxReceipt
from assay.client.store import Store
from assay.client.verify import Proof, Report, verify_receipt
from assay.commitments.identifiers import batch_id
from assay.commitments.parsing import parse_hash
from assay.commitments.receipts import receipt_from_json, receipts_tree
from assay.index.payments import decode_vouchers
from assay.node.config import LOG_FILE
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.rows import receipt_of_row
from assay.types import Address, BatchKey, Hash32, SignedReceipt

from .evidence import Account, Money, Posted
from .processes import DemoError
from .world import ROYALTY_BPS, SLASH, STAKE, Person, World

Receipts = dict[Hash32, SignedReceipt]
LOGGED = (
    "SELECT c.consumer, r.version_id, r.input_hash, r.output_hash, r.price, r.sequence, r.executed_at,"
    " r.signature, r.digest FROM receipts r JOIN channels c ON c.id = r.channel ORDER BY r.id"
)
MAX_BPS = 10_000


def read_node_log(world: World, node: Person) -> Receipts:
    """Every receipt that the node made durable, in order of issue."""
    with SqliteDatabase(world.data(node.name) / LOG_FILE).session() as log:
        logged = [receipt_of_row(node.address, row) for row in log.execute(LOGGED)]
    return {entry.digest: entry.signed for entry in logged}


def read_consumer(world: World, consumer: Person) -> Receipts:
    """Every receipt that the consumer accepted."""
    store = Store(world.client_data(consumer))
    with contextlib.closing(store):
        files = [json.loads(text) for text in store.receipts()]
    domain = world.deployment.domain
    return {parse_hash(file["digest"], "digest"): receipt_from_json(domain, file) for file in files}


class ChainRecord:
    """Settlement's events since the deployment, and the transactions that they came in."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.settlement = Settlement(world.chain, world.deployment)
        head = world.chain.block_number()
        logs = world.chain.get_logs(world.deployment.block, head, [self.settlement.address])
        self.events: dict[str, list[EventData]] = defaultdict(list)
        for event in self.settlement.decode_logs(logs):
            self.events[event.name].append(event)
        self._transactions: dict[Hash32, TxReceipt] = {}

    def transaction(self, event: EventData) -> TxReceipt:
        found = self._transactions.get(event.transaction_hash)
        if found is None:
            found = self.world.chain.get_tx_receipt(event.transaction_hash)
            if found is None:
                raise DemoError(f"the chain does not know transaction {hex_bytes(event.transaction_hash)}")
            self._transactions[event.transaction_hash] = found
        return found

    def gas(self, name: str) -> int:
        """Gas of all transactions that logged the event."""
        return sum({e.transaction_hash: self.transaction(e).gas_used for e in self.events[name]}.values())

    def posted(self) -> list[Posted]:
        """Every batch with what its node publishes of it."""
        collected = {event.args["batch_id"]: event.args for event in self.events["BatchCollected"]}
        skipped = [event.args["batch_id"] for event in self.events["VoucherSkipped"]]
        endpoints = {
            node.address: NodeRegistry(self.world.chain, self.world.deployment).node(node.address).endpoint
            for node in self.world.nodes
        }
        batches = []
        for event in self.events["BatchPosted"]:
            args = event.args
            key = BatchKey(args["node"], Hash32(args["version_id"]), Hash32(args["receipts_root"]))
            split = collected.get(args["batch_id"], {"node_amount": 0, "royalty": 0, "fee": 0})
            batches.append(
                Posted(
                    key=key,
                    batch_id=batch_id(key),
                    amount=args["amount"],
                    count=args["count"],
                    post_gas=self.transaction(event).gas_used,
                    vouchers=self._vouchers(event),
                    skipped=skipped.count(args["batch_id"]),
                    collected=args["batch_id"] in collected,
                    node_amount=split["node_amount"],
                    royalty=split["royalty"],
                    fee=split["fee"],
                    digests=published_digests(endpoints[key.node], batch_id(key)),
                )
            )
        return batches

    def _vouchers(self, event: EventData) -> int:
        transaction = self.world.chain.request(
            "eth_getTransactionByHash", [hex_bytes(event.transaction_hash)]
        )
        rows = decode_vouchers(bytes.fromhex(transaction["input"][2:]), Hash32(event.args["batch_id"]))
        return len(rows or ())


def published_digests(endpoint: str, identifier: Hash32) -> tuple[Hash32, ...]:
    """The batch's leaves as its node serves them to anybody."""
    reply = httpx.get(f"{endpoint}/v1/batches/{hex_bytes(identifier)}", timeout=30, trust_env=False)
    reply.raise_for_status()
    _, *lines = reply.text.splitlines()
    return tuple(parse_hash(json.loads(line)["digest"], "digest") for line in lines)


def verify_all(
    world: World, receipts: Receipts, batches: Sequence[Posted], on_progress: Callable[[int], None]
) -> dict[Hash32, Report]:
    """What the chain alone says of each receipt: signature, signer, version, inclusion, finality."""
    proofs: dict[Hash32, Proof] = {}
    for batch in batches:
        tree = receipts_tree(batch.digests)
        for index, digest in enumerate(batch.digests):
            proofs[digest] = Proof(batch.key, tuple(tree.proof(index)), index)
    domain = world.deployment.domain

    def verify(item: tuple[Hash32, SignedReceipt]) -> tuple[Hash32, Report]:
        digest, signed = item
        return digest, verify_receipt(world.chain, world.deployment, domain, signed, proofs.get(digest))

    reports = {}
    with ThreadPoolExecutor(2) as pool:
        for done, (digest, report) in enumerate(pool.map(verify, receipts.items()), 1):
            reports[digest] = report
            on_progress(done)
    return reports


def count_money(world: World, issued: Receipts, record: ChainRecord, wrong: frozenset[Hash32]) -> Money:
    """What every account must own, from receipts, terms and the wrong answers alone, against what it owns.

    A wrong answer costs its node a slash, of which the watcher has half and the treasury the rest; the
    consumer has the price back out of the batch.
    """
    slashed = SLASH * len(wrong)
    paid = {digest: signed for digest, signed in issued.items() if digest not in wrong}
    token, settlement = Token(world.chain, world.deployment), record.settlement
    nodes = NodeRegistry(world.chain, world.deployment)
    accounts = [
        *_consumer_accounts(world, paid, token, settlement),
        *_earner_accounts(world, paid, record, token, slashed),
    ]
    stakes = sum(nodes.node(node.address).stake for node in world.nodes)
    staked = STAKE * len(world.nodes) - slashed
    registry = Account("NodeRegistry", nodes.address, staked, token.balance_of(nodes.address))
    accounts += [registry, Account("stakes", nodes.address, staked, stakes)]
    holders = {person.address for person in world.people.values()}
    holders |= {settlement.treasury(), settlement.address, nodes.address}
    holders.add(world.deployment.address("DisputeGame"))
    return Money(
        accounts=tuple(accounts),
        supply=token.read("totalSupply"),
        held=sum(token.balance_of(holder) for holder in holders),
        settlement_balance=token.balance_of(settlement.address),
        liabilities=settlement.total_liabilities(),
    )


def _consumer_accounts(world: World, issued: Receipts, token: Token, settlement: Settlement) -> list[Account]:
    """Wallet: what was minted less the deposits. Escrow: what was deposited less the receipts' prices."""
    accounts = []
    for consumer in world.consumers:
        deposited = sum(amount for (owner, _), amount in world.funded.items() if owner == consumer.address)
        wallet = world.minted[consumer.address] - deposited
        accounts.append(Account(consumer.name, consumer.address, wallet, token.balance_of(consumer.address)))
        for node in world.nodes:
            spent = sum(
                s.receipt.price
                for s in issued.values()
                if (s.receipt.consumer, s.receipt.node) == (consumer.address, node.address)
            )
            expected = world.funded[consumer.address, node.address] - spent
            balance = settlement.escrow(consumer.address, node.address).balance
            accounts.append(
                Account(f"{consumer.name}'s escrow with {node.name}", consumer.address, expected, balance)
            )
    return accounts


def _earner_accounts(
    world: World, issued: Receipts, record: ChainRecord, token: Token, slashed: int
) -> list[Account]:
    """Batch by batch: fee rounded up, royalty down, the rest the node's (SPEC.md §6); paid or claimable."""
    settlement = record.settlement
    fee_bps = settlement.fee_bps()
    due: dict[Address, int] = defaultdict(int)
    for batch in record.posted():
        amount = sum(issued[digest].receipt.price for digest in batch.digests if digest in issued)
        fee, royalty = -(-amount * fee_bps // MAX_BPS), amount * ROYALTY_BPS // MAX_BPS
        due[settlement.treasury()] += fee
        due[world.publisher.address] += royalty
        due[batch.key.node] += amount - fee - royalty
    earners: list[tuple[str, Address, int]] = [
        (node.name, node.address, world.minted[node.address] - STAKE) for node in world.nodes
    ]
    earners += [("publisher", world.publisher.address, 0)]
    earners += [("treasury", settlement.treasury(), slashed - slashed // 2)]
    earners += [("watcher", world.watcher.address, world.minted[world.watcher.address] + slashed // 2)]
    return [
        Account(
            role,
            address,
            start + due[address],
            token.balance_of(address) + settlement.claimable(address),
        )
        for role, address, start in earners
    ]
