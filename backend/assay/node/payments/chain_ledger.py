"""`Ledger` over the contracts: each call is one header, if it has none yet, and one JSON-RPC batch for each
hundred reads, all at that header's block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from eth_abi.abi import encode

from assay.chain.client import ChainClient, RpcCall, block_param, call_object, hex_bytes, parse_bytes
from assay.chain.contract import Read
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, read_many
from assay.chain.deployments import Deployment
from assay.errors import ContractRevert, FatalError
from assay.node.payments.ledger import AccountView, NodeView
from assay.types import Address, Hash32

ERC1271_MAGIC: Final = bytes.fromhex("1626ba7e")
"""`isValidSignature(bytes32,bytes)`: selector and magic value (EIP-1271)."""
WALLET_GAS: Final = 200_000
"""What Settlement gives the wallet; the transaction around it comes on top."""


class ChainLedger:
    """Reads of one node's world. Thread-safe, as the client is."""

    def __init__(self, client: ChainClient, deployment: Deployment, node: Address) -> None:
        self.client = client
        self.deployment = deployment
        self.node = node
        self.models = ModelRegistry(client, deployment)
        self.nodes = NodeRegistry(client, deployment)
        self.settlement = Settlement(client, deployment)
        self._signer: Address | None = None
        """As it was seen last: its balance is asked for in the same batch."""

    def node_view(self, versions: Iterable[Hash32]) -> NodeView:
        ids = tuple(versions)
        block = self.client.get_block("latest")
        reads = [self.nodes.view(name, self.node) for name in ("standing", "nodes")]
        reads += [self.nodes.view("min_stake")]
        reads += [self.nodes.view("offers", self.node, version_id) for version_id in ids]
        reads += [self.models.view("versions", version_id) for version_id in ids]
        (standing, node, min_stake, *rest), wei = self._read_with_balance(reads, block.number)
        offers, found = rest[: len(ids)], rest[len(ids) :]
        return NodeView(
            block=block.number,
            timestamp=block.timestamp,
            signer=standing.signer,
            active=standing.active,
            offers=dict(zip(ids, offers, strict=True)),
            statuses={version_id: version.status for version_id, version in zip(ids, found, strict=True)},
            stake=node.stake,
            min_stake=min_stake,
            signer_wei=wei,
        )

    def _read_with_balance(self, reads: Sequence[Read], block: int) -> tuple[list[Any], int]:
        """What `reads` answer, `standing` first, and the wei of the signer that it names."""
        asked, tag = self._signer, block_param(block)
        calls: list[RpcCall] = [("eth_call", [call_object(read.to, read.data), tag]) for read in reads]
        if asked is not None:
            calls.append(("eth_getBalance", [asked, tag]))
        answers = self.client.batch(calls)
        found = [read.parse(parse_bytes(raw)) for read, raw in zip(reads, answers, strict=False)]
        self._signer = found[0].signer
        if self._signer == asked:
            return found, int(answers[-1], 16)
        return found, self.client.get_balance(found[0].signer, block)

    def account_views(
        self, channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        wanted = [(consumer, tuple(versions)) for consumer, versions in channels.items()]
        number = self.client.block_number() if block is None else block
        reads = [self.settlement.view("escrows", consumer, self.node) for consumer, _ in wanted]
        for consumer, versions in wanted:
            reads += [self.settlement.view("channel", consumer, self.node, version) for version in versions]
        answers: list[Any] = read_many(self.client, reads, number)
        rest = iter(answers[len(wanted) :])
        return {
            consumer: AccountView(escrow, {version_id: next(rest).settled for version_id in versions})
            for (consumer, versions), escrow in zip(wanted, answers, strict=False)
        }

    def wallet_accepts(self, consumer: Address, digest: bytes, signature: bytes) -> bool:
        """`isValidSignature` with bounded gas; an account without code accepts nothing."""
        if not self.client.get_code(consumer):
            return False
        data = ERC1271_MAGIC + encode(["bytes32", "bytes"], [digest, signature])
        call = {"to": consumer, "data": hex_bytes(data), "gas": hex(WALLET_GAS + 21_000 + 16 * len(data))}
        try:
            answer = parse_bytes(self.client.request("eth_call", [call, "latest"]))
        except (ContractRevert, FatalError):
            return False
        return len(answer) >= 32 and answer[:32] == ERC1271_MAGIC + bytes(28)
