"""Reads a window of blocks with its logs and refuses every answer that does not fit together.

A node that is behind, or a proxy in front of several nodes, may answer `eth_getLogs` with nothing. So each
window is checked: headers link to each other, every log's block hash is its header's, the last header is the
same before and after, and a block whose logsBloom names one of the contracts without a log of it is looked
up by its receipts.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.chain.abi import ContractAbi
from assay.chain.client import ChainClient
from assay.chain.deployments import CONTRACTS, Deployment
from assay.chain.errors import RpcError
from assay.chain.values import LogReceipt
from assay.errors import AssayError, FatalError, RetryableError
from assay.index.bloom import bloom_mask
from assay.types import Address, Hash32

FOLLOWED = (*CONTRACTS, "DisputeGame")
BATCH = 100  # JSON-RPC calls in one HTTP request; providers cap it


@dataclass(frozen=True, slots=True)
class Header:
    number: int
    hash: str
    parent_hash: str
    timestamp: int
    bloom: int


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """A decoded log. `args` as the ABI gives them: int, bytes, str, bool, checksummed addresses."""

    number: int
    block_hash: str
    tx_hash: str
    log_index: int
    timestamp: int
    contract: str
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Posting:
    """The transaction that logged a BatchPosted: whom it called and with what."""

    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks `headers[0]…headers[-1]`, complete."""

    headers: Sequence[Header]
    events: Sequence[ChainEvent]
    postings: Mapping[str, Posting] = field(default_factory=dict)


class Fetcher:
    """All that the index reads from the chain. Raises RetryableError when answers contradict each other."""

    @classmethod
    def of(cls, client: ChainClient, deployment: Deployment) -> Fetcher:
        names = [name for name in FOLLOWED if name in deployment.addresses]
        return cls(
            client, {deployment.addresses[name]: (name, deployment.contract_abi(name)) for name in names}
        )

    def __init__(self, client: ChainClient, contracts: Mapping[Address, tuple[str, ContractAbi]]) -> None:
        self._client = client
        self._contracts = {address.lower(): named for address, named in contracts.items()}
        self._masks = {address: bloom_mask(bytes.fromhex(address[2:])) for address in self._contracts}

    def head(self) -> Header:
        return parse_header(self._client.request("eth_getBlockByNumber", ["latest", False]))

    def finalized_number(self, head: Header, depth: int) -> int:
        """The chain's own finalized block, or `depth` below the head where it knows none."""
        try:
            block = self._client.request("eth_getBlockByNumber", ["finalized", False])
        except RpcError:
            block = None
        return int(block["number"], 16) if block else max(0, head.number - depth)

    def headers(self, numbers: Iterable[int]) -> list[Header]:
        calls = [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        return [parse_header(block) for block in self._batch(calls)]

    def window(self, start: int, stop: int) -> Window:
        """Blocks start…stop (both included) with every event of the contracts in them."""
        headers = self.headers(range(start, stop + 1))
        for parent, header in itertools.pairwise(headers):
            if header.parent_hash != parent.hash:
                raise RetryableError(
                    f"block {header.number} does not follow {parent.number}: chain is moving"
                )
        logs = self._client.request(
            "eth_getLogs",
            [{"fromBlock": hex(start), "toBlock": hex(stop), "address": list(self._contracts)}],
        )
        by_number = {header.number: header for header in headers}
        self._check_logs(logs, by_number)
        if self.headers([stop])[0].hash != headers[-1].hash:
            raise RetryableError(f"block {stop} changed while its logs were read")
        events = [self._decode(log, by_number) for log in logs]
        events.sort(key=lambda event: (event.number, event.log_index))
        return Window(headers, events, self._postings(events))

    def call_many(self, to: Address, datas: Sequence[bytes], block_hash: str) -> list[bytes]:
        """Views of one contract as of a block."""
        at = {"blockHash": block_hash}
        calls = [("eth_call", [{"to": to, "data": "0x" + data.hex()}, at]) for data in datas]
        return [bytes.fromhex(answer[2:]) for answer in self._batch(calls)]

    def view(self, deployment: Deployment, contract: str, name: str) -> int:
        """A contract's constant."""
        abi = deployment.contract_abi(contract)
        answer = self._client.call(deployment.addresses[contract], abi.encode_call(name))
        return int(abi.decode_result(name, answer))

    def _batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        answers: list[Any] = []
        for first in range(0, len(calls), BATCH):
            answers.extend(self._client.batch(list(calls[first : first + BATCH])))
        return answers

    def _check_logs(self, logs: Sequence[LogReceipt], headers: Mapping[int, Header]) -> None:
        seen: dict[int, set[str]] = defaultdict(set)
        for log in logs:
            header = headers.get(int(log["blockNumber"], 16))
            if header is None or header.hash != log["blockHash"] or log.get("removed"):
                raise RetryableError(f"log of block {log['blockHash']} is not of the chain that was read")
            seen[header.number].add(log["address"].lower())
        for header in headers.values():
            hinted = {a for a, mask in self._masks.items() if header.bloom & mask == mask}
            missing = hinted - seen[header.number]
            if missing and self._receipts_have(header, missing):
                raise RetryableError(
                    f"the RPC left out logs of block {header.number}; another RPC URL may be in better health"
                )

    def _receipts_have(self, header: Header, addresses: set[str]) -> bool:
        try:
            receipts = self._client.request("eth_getBlockReceipts", [header.hash])
            logs = [log for receipt in receipts or [] for log in receipt["logs"]]
        except RpcError:  # not every RPC has it
            logs = self._client.request(
                "eth_getLogs", [{"blockHash": header.hash, "address": sorted(addresses)}]
            )
        return any(log["address"].lower() in addresses for log in logs)

    def _decode(self, log: LogReceipt, headers: Mapping[int, Header]) -> ChainEvent:
        contract, abi = self._contracts[log["address"].lower()]
        header = headers[int(log["blockNumber"], 16)]
        where = (
            f"{contract} log {int(log['logIndex'], 16)} of block {header.number} ({log['transactionHash']})"
        )
        try:
            data = abi.decode_log(log)
        except (AssayError, ValueError) as error:
            raise FatalError(
                f"cannot decode {where}: {error}. The deployment's ABI does not match the contract: "
                "install the release that goes with this deployment, then start the index again"
            ) from error
        return ChainEvent(
            header.number,
            header.hash,
            log["transactionHash"],
            int(log["logIndex"], 16),
            header.timestamp,
            contract,
            data.name,
            data.args,
        )

    def _postings(self, events: Sequence[ChainEvent]) -> dict[str, Posting]:
        hashes = list(dict.fromkeys(event.tx_hash for event in events if event.name == "BatchPosted"))
        answers = self._batch([("eth_getTransactionByHash", [tx_hash]) for tx_hash in hashes])
        postings = {}
        for tx_hash, transaction in zip(hashes, answers, strict=True):
            if transaction is None:
                raise RetryableError(f"transaction {tx_hash} is unknown to the RPC that gave its log")
            data = bytes.fromhex(transaction["input"][2:])
            postings[tx_hash] = Posting((transaction.get("to") or "").lower(), data)
        return postings


def parse_header(block: Mapping[str, Any] | None) -> Header:
    """Raises RetryableError for null: the RPC does not have the block (yet)."""
    if block is None:
        raise RetryableError("the RPC does not have a block that it announced; it is behind or pruned")
    return Header(
        int(block["number"], 16),
        block["hash"],
        block["parentHash"],
        int(block["timestamp"], 16),
        int(block.get("logsBloom") or "0x0", 16),
    )


def hash_text(value: Hash32 | bytes) -> str:
    return "0x" + value.hex()
