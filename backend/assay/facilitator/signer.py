"""What the x402 package asks of a chain and a key, over this project's client and sender.

Every transfer is on disk before it is broadcast, under a key made of its calldata: the same authorization is
sent once, through crashes, lost answers and stuck fees, and a node that asks again is told of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

import structlog
from x402.mechanisms.evm.types import TransactionReceipt

from assay.chain.abi import ContractAbi
from assay.chain.client import ChainClient, hex_bytes
from assay.chain.outbox import Intent
from assay.chain.sender import Sender
from assay.chain.values import Call
from assay.commitments.identifiers import checksum_address
from assay.errors import ContractRevert, RequestError, RetryableError, VerificationError
from assay.types import Address

REMEMBERED: Final = 4096

_log = structlog.get_logger(__name__)


class FacilitatorSigner:
    """The package's `FacilitatorEvmSigner`. Thread-safe."""

    def __init__(self, client: ChainClient, sender: Sender, *, wait_seconds: float) -> None:
        self._client = client
        self._sender = sender
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, Intent] = OrderedDict()
        self._calls = threading.local()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Around one call of the package in this thread, which takes a lost chain for a bad signature.

        Raises RetryableError if the chain could not be read or sent to meanwhile."""
        self._calls.lost = None
        yield
        if self._calls.lost is not None:
            raise self._calls.lost

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except RetryableError as error:
            self._calls.lost = error
            raise

    def get_addresses(self) -> list[str]:
        return [self._sender.address]

    def get_chain_id(self) -> int:
        return self._client.chain_id

    def read_contract(self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any) -> Any:
        """Raises ContractRevert with the contract's reason."""
        contract = ContractAbi(abi)
        data = contract.encode_call(function_name, args)
        try:
            with self._noting():
                answer = self._client.call(checksum_address(address), data, sender=self._sender.address)
        except ContractRevert as error:  # the package tells reverts from lost connections by this word
            raise ContractRevert(f"execution reverted: {error}") from None
        outputs = next(entry["outputs"] for entry in abi if entry.get("name") == function_name)
        return contract.decode_result(function_name, answer, len(args)) if outputs else None

    def verify_typed_data(  # noqa: PLR0917 - the package's order
        self,
        address: str,
        domain: Any,
        types: Any,
        primary_type: str,
        message: dict[str, Any],
        signature: bytes,
    ) -> bool:
        """Raises VerificationError: what is settled here are transfers by authorization, which the package
        checks by their digest."""
        raise VerificationError(
            f"typed data {primary_type!r} is not settled here; pay by EIP-3009", step="kind"
        )

    def write_contract(
        self,
        address: str,
        abi: list[dict[str, Any]],
        function_name: str,
        *args: Any,
        data_suffix: str | None = None,
    ) -> str:
        """The transaction's hash; one that was sent before is not sent again. Raises ContractRevert."""
        if data_suffix:
            raise RequestError("calldata with a suffix is not sent here; leave the extension out")
        to = checksum_address(address)
        data = ContractAbi(abi).encode_call(function_name, args)
        key = "x402:" + hashlib.sha256(to.encode() + data).hexdigest()
        with self._noting():
            intent = self._sender.submit(Call(to, data, label=f"x402 {function_name}"), key=key)
        name = hex_bytes(intent.newest.hash)
        with self._lock:
            self._sent[name] = intent
            while len(self._sent) > REMEMBERED:
                self._sent.popitem(last=False)
        return name

    def send_transaction(self, to: str, data: bytes) -> str:
        """Raises RequestError: it would deploy a wallet for whoever asks."""
        raise RequestError(f"nothing else than a payment is sent here; {to} is to be deployed by its owner")

    def wait_for_transaction_receipt(self, tx_hash: str) -> TransactionReceipt:
        """Raises RetryableError when it is not mined in time."""
        with self._lock:
            intent = self._sent.get(tx_hash)
        if intent is None:
            raise VerificationError(f"transaction {tx_hash} was not sent here", step="transaction")
        try:
            receipt = self._sender.wait(intent, timeout=self._wait_seconds)
        except ContractRevert as error:
            _log.warning("payment reverted", transaction=tx_hash, reason=str(error))
            return TransactionReceipt(status=0, block_number=0, tx_hash=tx_hash)
        return TransactionReceipt(
            status=receipt.status,
            block_number=receipt.block_number,
            tx_hash=hex_bytes(receipt.transaction_hash),
            logs=list(receipt.logs),
        )

    def get_balance(self, address: str, token_address: str) -> int:
        """Of the account in wei; the package asks for no token's."""
        return self._client.get_balance(Address(checksum_address(address)))

    def get_code(self, address: str) -> bytes:
        with self._noting():
            return self._client.get_code(Address(checksum_address(address)))
