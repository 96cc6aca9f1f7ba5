"""Puts a watcher together from plain options."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry
from assay.chain.deployments import Deployment
from assay.chain.disputes import DisputeRecord
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender, SenderOptions
from assay.client.resolve import Resolver, parse_reference
from assay.commitments.identifiers import model_id, version_id
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey
from assay.errors import RequestError
from assay.hub.client import HubClient
from assay.index.batch_file import BYTES_PER_SECOND, MAX_BATCH_BYTES
from assay.index.download import Limits, download
from assay.types import ZERO_HASH, Address, Hash32, SignedReceipt
from assay.watch.challenger import Challenger
from assay.watch.collector import Collector
from assay.watch.contracts import Contracts
from assay.watch.decision import Join, Rules
from assay.watch.evidence import Evidence
from assay.watch.examine import DEFAULT_MAX_MEMORY, signed_data
from assay.watch.examiner import DEFAULT_MAX_WORK, Examiner
from assay.watch.follower import ChainFollower, Position
from assay.watch.indexed import IndexedBatches
from assay.watch.policy import Policy
from assay.watch.programs import Programs
from assay.watch.store import Store
from assay.watch.summary import Summary, summarise_store
from assay.watch.traces import Traces
from assay.watch.values import ChallengeState, SeenReceipt
from assay.watch.watcher import Parts, Watcher

LOCAL_CHAINS: Final = {1337, 31337}
STATE_FILE, OUTBOX_FILE = "watch.sqlite3", "outbox.sqlite3"
ARTIFACTS, EVIDENCE = "artifacts", "evidence"
_VERSION_ID: Final = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`api_url` None: batches are found on the chain alone. `seed` None: the data folder's own."""

    rpc_urls: list[str]
    deployments: Path
    data: Path
    hub_url: str
    chain_id: int | None = None
    api_url: str | None = None
    rate: float = 0.1
    nodes: frozenset[Address] = field(default_factory=frozenset)
    versions: tuple[str, ...] = ()
    max_per_batch: int | None = None
    seed: bytes | None = None
    join: Join = Join.ALWAYS
    min_reward: int = 0
    max_open: int = 16
    max_work: int = DEFAULT_MAX_WORK
    max_memory: int = DEFAULT_MAX_MEMORY
    poll: float = 1.0
    timeout: float = 30.0
    max_bytes: int = 64 << 20
    max_batch_bytes: int = MAX_BATCH_BYTES
    allow_private: bool = False


@dataclass
class Watch:
    """An open watch: `run` it, ask how it stands, open disputes by hand."""

    contracts: Contracts
    store: Store
    outbox: Outbox
    evidence: Evidence
    me: Address | None
    parts: Parts
    watcher: Watcher

    def run(self, *, once: bool = False, on_step: Callable[[Position], None] = lambda position: None) -> None:
        """Returns after `stop`; raises what ended it."""
        (self.watcher.run_once if once else self.watcher.run)(on_step)

    def stop(self) -> None:
        self.watcher.stop()

    def catch_up(self) -> None:
        """Follow the chain to its head, nothing else."""
        while not self.parts.follower.step().at_head:
            pass

    def summary(self) -> Summary:
        return summarise_store(self.store, self.contracts.game, self.outbox, self.me)

    def status_line(self, position: Position) -> str:
        """For a line of progress."""
        tally = self.parts.examiner.tally
        disputes = len(self.store.challenges(ChallengeState.OPENED))
        return (
            f"block {position.number} of {position.head}, receipts: {tally.right} right, "
            f"{tally.wrong} wrong, {tally.withheld} withheld; {disputes} disputed"
        )


@contextmanager
def open_watch(
    options: WatchOptions, key: SigningKey | None, stopping: threading.Event | None = None
) -> Iterator[Watch]:
    """Without `key` nothing is disputed. Raises ConfigurationError, RequestError, FatalError."""
    stopping = stopping or threading.Event()
    with ExitStack() as stack:
        client = stack.enter_context(ChainClient(options.rpc_urls, options.chain_id))
        contracts = Contracts.of(client, Deployment.load(options.deployments, client.chain_id))
        settlement, nodes, game = contracts.settlement, contracts.nodes, contracts.game
        policy = policy_of(options, contracts.models)
        store = Store(options.data / STATE_FILE, contracts.domain, game.address)
        stack.callback(store.close)
        hub = stack.enter_context(HubClient(options.hub_url, attempts=2))
        limits = limits_of(options, client.chain_id)
        programs = Programs(contracts.models, hub, options.data / ARTIFACTS, should_stop=stopping.is_set)
        evidence = Evidence(options.data / EVIDENCE, limits)
        outbox = stack.enter_context(Outbox(options.data / OUTBOX_FILE))
        challenger, me = None, remembered_account(store)
        if key is not None:
            remember_account(store, me := key.address)
            sender = stack.enter_context(Sender(client, key, outbox, SenderOptions(bump_after=15.0)))
            rules = Rules(options.join, options.min_reward, options.max_open)
            traces = Traces(nodes, programs, evidence, max_memory=options.max_memory)
            challenger = Challenger(contracts, sender, store, traces, rules)
        seed = options.seed or store.seed
        indexed = None
        if options.api_url is not None:
            fetch = partial(download, should_stop=stopping.is_set)
            indexed = IndexedBatches(
                options.api_url, store, policy, replace(limits, allow_private=True), fetch
            )
        parts = Parts(
            store=store,
            follower=ChainFollower(settlement, game, store, policy, batches=indexed is None),
            collector=Collector(contracts, store, policy, seed, batch_limits_of(options, limits)),
            examiner=Examiner(
                nodes,
                store,
                programs,
                evidence,
                max_work=options.max_work,
                max_memory=options.max_memory,
            ),
            challenger=challenger,
            indexed=indexed,
        )
        keep = nodes.thaw_period() + settlement.dispute_window()
        watcher = Watcher(parts, poll=options.poll, keep_seconds=keep, stopping=stopping)
        yield Watch(contracts, store, outbox, evidence, me, parts, watcher)


@contextmanager
def open_judge(contracts: Contracts, folder: Path, hub_url: str) -> Iterator[tuple[Programs, Traces]]:
    """What recomputes a receipt for whoever asks, with what a watch in `folder` has kept."""
    with HubClient(hub_url, attempts=2) as hub:
        programs = Programs(contracts.models, hub, folder / ARTIFACTS)
        limits = Limits(allow_private=contracts.client.chain_id in LOCAL_CHAINS)
        yield programs, Traces(contracts.nodes, programs, Evidence(folder / EVIDENCE, limits))


def challenge_by_hand(watch: Watch, signed: SignedReceipt, tensors: bytes | None) -> Hash32:
    """Make it due. `tensors`: its data, where its node does not give them. Raises RequestError."""
    domain = watch.contracts.domain
    digest = receipt_digest(domain, signed.receipt)
    if tensors is not None:
        signed_data(signed.receipt, tensors)
        watch.evidence.keep(digest, tensors)
    watch.run(once=True)  # its batch, if it is in one
    watch.store.add_challenge(SeenReceipt(digest, signed, ZERO_HASH, None, is_public=False))
    return digest


def play(watch: Watch, is_it: Callable[[DisputeRecord], bool]) -> DisputeRecord | None:
    """Run until an own dispute is closed. None: stopped before."""
    assert watch.parts.challenger is not None
    ledger = watch.parts.challenger.ledger
    found: list[DisputeRecord] = []

    def look(_: Position) -> None:
        found[:] = [record for record in ledger.own().values() if is_it(record) and not record.is_open]
        if found:
            watch.stop()

    watch.run(on_step=look)
    return found[0] if found else None


def limits_of(options: WatchOptions, chain_id: int) -> Limits:
    allow_private = options.allow_private or chain_id in LOCAL_CHAINS
    return Limits(options.max_bytes, options.timeout, allow_private)


def batch_limits_of(options: WatchOptions, limits: Limits) -> Limits:
    """Batches are read from disk, so they may be larger than what is read at once, and take their time."""
    return replace(limits, bytes=options.max_batch_bytes, bytes_per_second=BYTES_PER_SECOND)


def policy_of(options: WatchOptions, models: ModelRegistry) -> Policy:
    versions = frozenset(resolve_version(text, models) for text in options.versions)
    return Policy(options.rate, options.nodes, versions, options.max_per_batch)


def resolve_version(text: str, models: ModelRegistry) -> Hash32:
    """A version id, or publisher/name@number. Raises RequestError."""
    if _VERSION_ID.fullmatch(text):
        return Hash32(bytes.fromhex(text[2:]))
    reference = parse_reference(text)
    if reference.number is None:
        raise RequestError(
            f"{text!r} names no version; write publisher/name@number, or its id", code="version_invalid"
        )
    publisher = Resolver(models).publisher(reference)
    return version_id(model_id(publisher, reference.name), reference.number)


def remember_account(store: Store, me: Address) -> None:
    store.set_meta("account", me)


def remembered_account(store: Store) -> Address | None:
    """Whose disputes this folder holds."""
    found = store.meta("account")
    return None if found is None else Address(found)
