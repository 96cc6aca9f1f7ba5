"""JSON-RPC to an EVM chain over one or several URLs: batches, fail-over, typed errors, bounded retries.

Synchronous and thread-safe. No web3: an `eth_call` costs about a tenth of web3's (design.md §8).
"""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from assay.chain.endpoint import Endpoint, open_endpoint
from assay.chain.errors import BlockUnavailable, RpcError, RpcUnavailable, parse_error
from assay.chain.values import Block, LogReceipt, TxReceipt, parse_block, parse_tx_receipt
from assay.errors import AssayError, ConfigurationError, FatalError, RetryableError
from assay.types import Address, Hash32

T = TypeVar("T")
RpcCall = tuple[str, Sequence[Any]]
"""Method and parameters."""
BlockId = int | str
"""A block number or a tag: `latest`, `safe`, `finalized`, `pending`, `earliest`."""

MAX_BATCH = 100
FIRST_WAIT_SECONDS = 0.1
MAX_WAIT_SECONDS = 3.0
PROBE_TIMEOUT_SECONDS = 3.0


class ChainClient:
    """Endpoints are tried in the order given; failing, lagging and backward-running ones are avoided.

    `chain_id` None takes the first endpoint's; every endpoint must be on that chain, else `FatalError`.
    `timeout` is per HTTP request in seconds; `attempts` bounds the rounds over all endpoints.
    `max_lag` is how many blocks an endpoint may be behind the best one.
    """

    def __init__(
        self,
        urls: Sequence[str] | str,
        chain_id: int | None = None,
        timeout: float = 10.0,
        *,
        attempts: int = 5,
        max_lag: int = 5,
        health_interval: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        urls = [urls] if isinstance(urls, str) else list(urls)
        if not urls:
            raise ConfigurationError(
                "no RPC URL is given; set ASSAY_RPC_URLS to one, or to several with commas"
            )
        self.endpoints = [open_endpoint(url, timeout) for url in urls]
        self.timeout = timeout
        self._chain_id = chain_id
        self._attempts, self._max_lag, self._health_interval = attempts, max_lag, health_interval
        self._clock, self._sleep = clock, sleep
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._next_probe = clock()

    def __enter__(self) -> ChainClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.http.close()

    @property
    def chain_id(self) -> int:
        """Asked once, then remembered."""
        if self._chain_id is None:
            self._with_retries(lambda endpoint: None)
        assert self._chain_id is not None
        return self._chain_id

    # --- raw access ---------------------------------------------------------------------------------------

    def request(self, method: str, params: Sequence[Any] = ()) -> Any:
        """One call; raises the errors of `assay.chain.errors` and `ContractRevert`."""
        return self._with_retries(lambda endpoint: self._single(endpoint, method, params))

    def batch(self, calls: Sequence[RpcCall], *, return_errors: bool = False) -> list[Any]:
        """Results in order, in as few HTTP requests as possible, each request answered by one endpoint.

        The first error raises, or with `return_errors` stands in its place in the list.
        """
        results: list[Any] = []
        for start in range(0, len(calls), MAX_BATCH):
            part = calls[start : start + MAX_BATCH]
            results += self._with_retries(
                functools.partial(self._batch, calls=part, return_errors=return_errors)
            )
        return results

    # --- typed access -------------------------------------------------------------------------------------

    def call(
        self, to: Address, data: bytes, block: BlockId = "latest", sender: Address | None = None
    ) -> bytes:
        """`eth_call`; raises `ContractRevert`."""
        result = self.request("eth_call", [call_object(to, data, sender), block_param(block)])
        return parse_bytes(result)

    def call_many(self, calls: Sequence[tuple[Address, bytes]], block: BlockId = "latest") -> list[bytes]:
        """Many `eth_call`s at one block in JSON-RPC batches."""
        tag = block_param(block)
        return [
            parse_bytes(r) for r in self.batch([("eth_call", [call_object(t, d), tag]) for t, d in calls])
        ]

    def block_number(self) -> int:
        """The head's number; notices an endpoint that runs backwards."""

        def ask(endpoint: Endpoint) -> int:
            head = int(self._single(endpoint, "eth_blockNumber", ()), 16)
            before = endpoint.head
            endpoint.note_head(head)
            if head < before and len(self.endpoints) > 1:
                self._probe()
                if endpoint.stale:
                    raise RpcUnavailable(f"{endpoint.name} went back from block {before} to {head}")
            return head

        return self._with_retries(ask)

    def get_block(self, block: BlockId = "latest") -> Block:
        """Header of a block; `BlockUnavailable` where the chain has none of that number (yet)."""
        found = self.request("eth_getBlockByNumber", [block_param(block), False])
        if found is None:
            raise BlockUnavailable(f"the chain has no block {block} yet")
        return parse_block(found)

    def get_logs(
        self,
        from_block: int,
        to_block: int,
        addresses: Sequence[Address],
        topics: Sequence[str | Sequence[str] | None] = (),
    ) -> list[LogReceipt]:
        """Logs of an inclusive block range.

        The same HTTP request shows that the endpoint has `to_block`: one that lags answers an empty list.
        """
        query: dict[str, Any] = {
            "fromBlock": hex(from_block),
            "toBlock": hex(to_block),
            "address": list(addresses),
        }
        if topics:
            query["topics"] = list(topics)

        def ask(endpoint: Endpoint) -> list[LogReceipt]:
            calls: list[RpcCall] = [
                ("eth_getLogs", [query]),
                ("eth_getBlockByNumber", [hex(to_block), False]),
            ]
            logs, last = self._batch(endpoint, calls, return_errors=False)
            if last is None:
                raise BlockUnavailable(f"{endpoint.name} does not have block {to_block} yet")
            if not isinstance(logs, list):
                raise RpcUnavailable(f"{endpoint.name} answered eth_getLogs with {type(logs).__name__}")
            return logs

        return self._with_retries(ask)

    def get_tx_receipt(self, transaction_hash: Hash32) -> TxReceipt | None:
        """None while it is not mined."""
        found = self.request("eth_getTransactionReceipt", [hex_bytes(transaction_hash)])
        return None if found is None else parse_tx_receipt(found)

    def get_balance(self, account: Address, block: BlockId = "latest") -> int:
        return int(self.request("eth_getBalance", [account, block_param(block)]), 16)

    def get_code(self, account: Address, block: BlockId = "latest") -> bytes:
        return parse_bytes(self.request("eth_getCode", [account, block_param(block)]))

    def get_transaction_count(self, account: Address, block: BlockId = "latest") -> int:
        return int(self.request("eth_getTransactionCount", [account, block_param(block)]), 16)

    def send_raw_transaction(self, raw: bytes) -> None:
        """Hand a signed transaction to the pool; `AlreadyKnown` and `NonceTooLow` may mean success."""
        self.request("eth_sendRawTransaction", [hex_bytes(raw)])

    # --- fail-over ----------------------------------------------------------------------------------------

    def _with_retries(self, ask: Callable[[Endpoint], T]) -> T:
        """Rounds over the endpoints, growing waits with jitter between; other errors leave at once."""
        for attempt in itertools.count(1):
            try:
                return self._round(ask)
            except RetryableError:
                if attempt >= self._attempts:
                    raise
            wait = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**attempt)
            self._sleep(wait * (0.5 + random.random() / 2))
        raise AssertionError("unreachable")

    def _round(self, ask: Callable[[Endpoint], T]) -> T:
        last: RetryableError | None = None
        for endpoint in self._order():
            try:
                self._check_chain(endpoint)
                result = ask(endpoint)
            except BlockUnavailable as error:
                last = error
            except RetryableError as error:
                last = error
                endpoint.note_failure(self._clock())
            else:
                if endpoint.failures:
                    endpoint.note_success()
                return result
        assert last is not None
        raise last

    def _order(self) -> list[Endpoint]:
        """Healthy ones first, in the order given; resting and stale ones as a last resort."""
        if len(self.endpoints) == 1:
            return self.endpoints
        now = self._clock()
        if now >= self._next_probe:
            self._next_probe = now + self._health_interval
            self._probe()
        return sorted(self.endpoints, key=lambda e: (e.rests_until > now, e.stale))

    def _probe(self) -> None:
        """Compare all heads; mark those that lag, or that went back and are not at the front."""
        for endpoint in self.endpoints:
            if endpoint.rests_until > self._clock():
                continue
            try:
                payload = {"jsonrpc": "2.0", "id": 0, "method": "eth_blockNumber", "params": []}
                answer = endpoint.post(payload, min(self.timeout, PROBE_TIMEOUT_SECONDS))
                endpoint.note_head(int(answer["result"], 16))
            except (AssayError, KeyError, TypeError, ValueError):
                endpoint.note_failure(self._clock())
        best = max((e.head for e in self.endpoints if e.rests_until <= self._clock()), default=-1)
        for endpoint in self.endpoints:
            lag = best - endpoint.head
            endpoint.stale = lag > self._max_lag or (endpoint.went_back and lag > 0)

    def _check_chain(self, endpoint: Endpoint) -> None:
        if endpoint.is_checked:
            return
        found = int(self._single(endpoint, "eth_chainId", ()), 16)
        with self._lock:
            if self._chain_id is None:
                self._chain_id = found
        if found != self._chain_id:
            raise FatalError(
                f"{endpoint.name} is on chain {found}, expected {self._chain_id}; check RPC URLs and chain id"
            )
        endpoint.is_checked = True

    # --- wire ---------------------------------------------------------------------------------------------

    def _single(self, endpoint: Endpoint, method: str, params: Sequence[Any]) -> Any:
        number = next(self._ids)
        payload = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        answer = endpoint.post(payload, self.timeout)
        if not isinstance(answer, dict) or answer.get("id") not in (number, None):
            raise RpcUnavailable(f"{endpoint.name} answered another request than {method}")
        return _result(answer, method, endpoint)

    def _batch(self, endpoint: Endpoint, calls: Sequence[RpcCall], return_errors: bool) -> list[Any]:
        numbers = [next(self._ids) for _ in calls]
        payload = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in zip(numbers, calls, strict=True)
        ]
        answers = endpoint.post(payload, self.timeout)
        if isinstance(answers, dict):  # an endpoint without batches answers one error object
            return [self._one_of(endpoint, method, params, return_errors) for method, params in calls]
        by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
        results: list[Any] = []
        for number, (method, _) in zip(numbers, calls, strict=True):
            if number not in by_id:
                raise RpcUnavailable(f"{endpoint.name} left {method} out of its batch answer")
            try:
                results.append(_result(by_id[number], method, endpoint))
            except RetryableError:
                raise
            except AssayError as error:
                if not return_errors:
                    raise
                results.append(error)
        return results

    def _one_of(self, endpoint: Endpoint, method: str, params: Sequence[Any], return_errors: bool) -> Any:
        try:
            return self._single(endpoint, method, params)
        except RetryableError:
            raise
        except AssayError as error:
            if not return_errors:
                raise
            return error


def _result(answer: dict[str, Any], method: str, endpoint: Endpoint) -> Any:
    if answer.get("error") is not None:
        raise parse_error(answer["error"], method=method, endpoint=endpoint.name, hide=endpoint.hide)
    if "result" not in answer:
        raise RpcUnavailable(f"{endpoint.name} answered {method} with neither result nor error")
    return answer["result"]


def block_param(block: BlockId) -> str:
    return hex(block) if isinstance(block, int) else block


def hex_bytes(data: bytes) -> str:
    return "0x" + data.hex()


def parse_bytes(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise RpcError(f"expected 0x hex from the RPC endpoint, got {str(value)[:80]!r}")
    return bytes.fromhex(value[2:])


def call_object(to: Address, data: bytes, sender: Address | None = None) -> dict[str, str]:
    call = {"to": to, "data": hex_bytes(data)}
    return call if sender is None else call | {"from": sender}
