"""Which versions this node has offered, from the chain's events: what `serve_offers` serves. SYNC."""

from __future__ import annotations

from typing import Final

import structlog

from assay.chain.logs import scan_logs
from assay.commitments.identifiers import model_id
from assay.errors import ConfigurationError, RetryableError
from assay.node.models.catalog import Served
from assay.node.models.loader import VersionRecord
from assay.node.payments.chain_ledger import ChainLedger
from assay.types import Address, Hash32

REORG_BLOCKS: Final = 64
MAX_VERSIONS: Final = 1_000
"""Of one node; beyond them offers are not followed."""

_log = structlog.get_logger(__name__)


class OfferScan:
    """`find` gives each version once. It is for one thread at a time."""

    def __init__(self, ledger: ChainLedger) -> None:
        self._ledger = ledger
        self._next_block = ledger.deployment.block
        self._known: set[Hash32] = set()
        self._head = -1

    def find(self) -> list[VersionRecord]:
        """Versions offered since the last call, whether or not the offer still stands. Raises
        RetryableError."""
        nodes, head = self._ledger.nodes, self._ledger.client.block_number()
        if head == self._head:
            return []
        if head + 1 < self._next_block - REORG_BLOCKS:  # a local chain that was started anew
            self._next_block = self._ledger.deployment.block
        topics = [nodes.abi.topic("OfferSet"), address_topic(self._ledger.node)]
        logs = scan_logs(nodes, topics, self._next_block, head)
        offered = dict.fromkeys(Hash32(nodes.decode_log(entry).args["version_id"]) for entry in logs)
        found = []
        for version_id in offered:
            if version_id in self._known:
                continue
            if len(self._known) >= MAX_VERSIONS:
                _log.error("offer not served: there are too many", version_id="0x" + version_id.hex())
                continue
            self._known.add(version_id)
            try:
                found.append(describe_offered(self._ledger, version_id))
            except ConfigurationError as error:
                _log.error("offer not served", error=str(error))
            except RetryableError:
                self._known.discard(version_id)
                raise
        self._next_block = max(self._ledger.deployment.block, head + 1 - REORG_BLOCKS)
        self._head = head
        return found


def address_topic(address: Address) -> str:
    """An address as an indexed event argument."""
    return "0x" + address[2:].lower().rjust(64, "0")


def describe_offered(ledger: ChainLedger, version_id: Hash32) -> VersionRecord:
    """Raises ConfigurationError for one that is not on the chain, RetryableError."""
    version = ledger.models.version(version_id)
    if not version.exists:
        raise ConfigurationError(f"version 0x{version_id.hex()} is not in the model registry")
    model = ledger.models.model(version.model_id)
    publisher = registrant(ledger, version.model_id, model.publisher, model.name)
    assurance = ledger.deployment.assurance_of(has_program=version.has_program)
    served = Served(version_id, publisher, model.name, version.number, assurance)
    return VersionRecord(served, version.artifact, version.manifest_hash, version.program_root)


def registrant(ledger: ChainLedger, model: Hash32, owner: Address, name: str) -> Address:
    """Who registered a model: the names of its versions keep that account's address when it changes hands."""
    if model_id(owner, name) == model:
        return owner
    topics = [ledger.models.abi.topic("ModelRegistered"), "0x" + model.hex()]
    (entry,) = scan_logs(ledger.models, topics, ledger.deployment.block)
    return Address(ledger.models.decode_log(entry).args["publisher"])
