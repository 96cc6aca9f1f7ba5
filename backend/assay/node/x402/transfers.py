"""What the chain says of a payment: whether the token moved it, in which transaction, how deep that is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from assay.chain.client import ChainClient
from assay.chain.values import LogReceipt, TxReceipt, hash32
from assay.commitments.authorizations import TRANSFER_TOPIC, USED_TOPIC, Authorization, TokenDomain
from assay.commitments.identifiers import address_word, keccak
from assay.errors import ConfigurationError, ContractRevert, FatalError
from assay.types import Address, Hash32

LOOKBACK_BLOCKS: Final = 50_000
STEP_BLOCKS: Final = 5_000


DEEP_BLOCKS: Final = 64
"""What so many blocks stand on is not taken back."""
_STATE: Final = keccak(b"authorizationState(address,bytes32)")[:4]


class Fate(StrEnum):
    """What can still become of an authorization: `open`: it may go through; `moved`: it did; `spent`: its
    nonce went otherwise; `expired`: nobody used it in its time; `unknown`: it was used too long ago to say
    for what."""

    OPEN = "open"
    MOVED = "moved"
    SPENT = "spent"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payment on the chain. `depth` 1: in the newest block."""

    tx_hash: Hash32
    depth: int


class Transfers:
    """SYNC: call in threads. Raises RetryableError when the chain cannot be read."""

    def __init__(self, client: ChainClient, token: Address) -> None:
        self._client = client
        self._token = token

    def find(self, given: Authorization, hint: Hash32 | None = None) -> Transfer | None:
        """The transaction that moved what `given` says under its nonce: `hint` if it did, else whichever."""
        head = self._client.block_number()
        if hint is not None and (found := self._in(given, hint, head)):
            return found
        lowest = max(0, head - LOOKBACK_BLOCKS)
        topics = [_hex(USED_TOPIC), _hex(address_word(given.payer)), _hex(given.nonce)]
        upper = head
        while upper >= lowest:
            lower = max(lowest, upper - STEP_BLOCKS + 1)
            for log in self._client.get_logs(lower, upper, [self._token], topics):
                return self._in(given, hash32(log["transactionHash"]), head)
            upper = lower - 1
        return None

    def fate(self, given: Authorization, since: int) -> tuple[Fate, Hash32 | None]:
        """What has become of an authorization that nobody used before `since`, for good; of one that moved
        its sum, the transaction. As of `DEEP_BLOCKS` ago, but for that."""
        head = self._client.block_number()
        deep = self._client.get_block(max(0, head - DEEP_BLOCKS))
        if not self._is_used(given, deep.number):
            return Fate.EXPIRED if deep.timestamp >= given.valid_before else Fate.OPEN, None
        found = self.find(given)
        if found is not None:
            return Fate.MOVED, found.tx_hash
        seen_from = self._client.get_block(max(0, head - LOOKBACK_BLOCKS)).timestamp
        return Fate.SPENT if seen_from <= since else Fate.UNKNOWN, None

    def _is_used(self, given: Authorization, block: int) -> bool:
        return any(self._client.call(self._token, _STATE + address_word(given.payer) + given.nonce, block))

    def _in(self, given: Authorization, tx_hash: Hash32, head: int) -> Transfer | None:
        receipt = self._client.get_tx_receipt(tx_hash)
        if receipt is None or receipt.status != 1 or not moves(receipt, self._token, given):
            return None
        return Transfer(tx_hash, max(1, head - receipt.block_number + 1))


def moves(receipt: TxReceipt, token: Address, given: Authorization) -> bool:
    """Whether the token used the authorization's nonce and, as its next event, moved just this sum."""
    logs = [log for log in receipt.logs if log["address"].lower() == token.lower()]
    used = [_hex(USED_TOPIC), _hex(address_word(given.payer)), _hex(given.nonce)]
    moved = [_hex(TRANSFER_TOPIC), _hex(address_word(given.payer)), _hex(address_word(given.payee))]
    return any(
        _topics(first) == used and _topics(second) == moved and int(second["data"], 16) == given.value
        for first, second in itertools.pairwise(logs)
    )


def read_domain(client: ChainClient, token: Address, name: str = "", version: str = "") -> TokenDomain:
    """The token's EIP-712 domain, by EIP-5267, else by `name()` and `version()`; what is given is not asked.

    Raises ConfigurationError if the token tells neither, or has no transfers by authorization.
    """
    if _ask(client, token, _STATE + bytes(64), ["bool"]) is None:
        raise ConfigurationError(
            f"token {token} has no transfers by authorization (EIP-3009), so it cannot be paid with by x402; "
            "leave [x402] facilitator empty"
        )
    if not (name and version):
        types = ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"]
        found = _ask(client, token, keccak(b"eip712Domain()")[:4], types)
        if found is not None:
            name, version = name or found[1], version or found[2]
    for text, ask in (("name", not name), ("version", not version)):
        if ask and (answer := _ask(client, token, keccak(f"{text}()".encode())[:4], ["string"])):
            name, version = (answer[0], version) if text == "name" else (name, answer[0])
    if not (name and version):
        raise ConfigurationError(
            f"token {token} does not tell its EIP-712 domain; set token_name and token_version in [x402]"
        )
    return TokenDomain(name, version, client.chain_id, token)


def _ask(client: ChainClient, token: Address, data: bytes, types: list[str]) -> tuple[Any, ...] | None:
    """None where the token has no such view."""
    try:
        answer = client.call(token, data)
        return decode(types, answer) if answer else None
    except (ContractRevert, FatalError, DecodingError, ValueError):
        return None


def _topics(log: LogReceipt) -> list[str]:
    return [str(topic).lower() for topic in log["topics"]]


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
