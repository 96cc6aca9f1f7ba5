"""What an RPC endpoint's answers mean: the chain package's errors, and the parser that chooses among them.

RetryableError
├── RpcUnavailable        no usable answer: connection, time-out, 429, 5xx, malformed JSON
└── BlockUnavailable      the endpoint does not have (the state of) that block, perhaps not yet
FatalError
└── RpcError              the endpoint refused: unknown method, bad parameters, …; has `code`, `data`
    ├── LogRangeTooLarge  ask for fewer blocks
    ├── AlreadyKnown      the transaction pool holds this transaction: success for a sender
    ├── NonceTooLow       the nonce is used, by this transaction or another
    ├── Underpriced       replacement or base fee: raise the fee
    └── InsufficientFunds the account cannot pay gas and value
ContractRevert            of assay.errors: `"contract: reason"` from Error(string), panics and custom errors
"""
# ruff: noqa: N818 - named after what happened, as in assay.errors

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError

from assay.errors import AssayError, ContractRevert, FatalError, RetryableError

ERROR_SELECTOR = bytes.fromhex("08c379a0")  # Error(string)
PANIC_SELECTOR = bytes.fromhex("4e487b71")  # Panic(uint256), Solidity's and Vyper's assertion codes

RATE_LIMIT_CODES = {-32005, -32029, 429}  # EIP-1474 "limit exceeded", and two that providers use


class RpcUnavailable(RetryableError):
    """The endpoint gave no usable answer."""


class BlockUnavailable(RetryableError):
    """The endpoint does not have the block, or no longer its state."""


class RpcError(FatalError):
    """The endpoint refused the request. `code` and `data` are JSON-RPC's."""

    def __init__(self, message: str, *, code: int = 0, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class LogRangeTooLarge(RpcError):
    """`eth_getLogs` over too many blocks or results."""


class AlreadyKnown(RpcError):
    """The pool already holds this very transaction."""


class NonceTooLow(RpcError):
    """The account's nonce has moved past the transaction's."""


class Underpriced(RpcError):
    """The fee is too low, to enter the pool or to replace what is there."""


class InsufficientFunds(RpcError):
    """The account's balance does not cover gas and value."""


MESSAGES: tuple[tuple[str, type[AssayError]], ...] = (
    (r"already known|already imported|known transaction|already exists|alreadyknown", AlreadyKnown),
    (
        r"nonce (is )?too low|nonce_too_low|oldnonce|invalid nonce.*lower|nonce .*already been used",
        NonceTooLow,
    ),
    (r"underpriced|fee too low|feetoolow|less than block base fee|replacement_not_allowed", Underpriced),
    (r"insufficient funds|insufficient balance|sender doesn't have enough funds", InsufficientFunds),
    (
        r"more than \d+ (results|logs)|block range|range (is )?too (large|wide)|query (exceeds|timeout)"
        r"|response size|too many (results|logs)|limit the query",
        LogRangeTooLarge,
    ),
    (
        r"header not found|unknown block|block not found|missing trie node|blockoutofrange|out of range"
        r"|state .*not available|historical state|pruned|could not find block",
        BlockUnavailable,
    ),
    (
        r"rate.?limit|too many requests|exceeded .*(quota|capacity)|timed? ?out|temporarily|try again"
        r"|service unavailable|internal error|overloaded",
        RpcUnavailable,
    ),
)


def parse_error(
    error: Any, *, method: str, endpoint: str, hide: Callable[[str], str] = lambda text: text
) -> AssayError:
    """Turn a JSON-RPC error object into the exception to raise. `endpoint` is already redacted; `hide` takes
    out of a text what nobody is to see."""
    if not isinstance(error, dict):
        problem = hide(str(error)[:2000])[:200]
        return RpcUnavailable(f"{endpoint} answered {method} with a malformed error: {problem}")
    code = int(error["code"]) if isinstance(error.get("code"), int) else 0
    message, data = str(error.get("message", "")), error.get("data")
    text = f"{message} {data}" if isinstance(data, str) and not data.startswith("0x") else message
    described = f"{endpoint} refused {method}: {hide(text[:2000])[:300]} (code {code})"
    if method != "eth_sendRawTransaction" and (revert := parse_revert(message, data, code)):
        return revert
    for pattern, kind in MESSAGES:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(described, code=code, data=data) if issubclass(kind, RpcError) else kind(described)
    if code in RATE_LIMIT_CODES:
        return RpcUnavailable(described)
    return RpcError(described, code=code, data=data)


def parse_revert(message: str, data: Any, code: int) -> ContractRevert | None:
    """The revert that an error object of a call or an estimate stands for, or None.

    Clients put revert data in different places: geth, Anvil and reth in `error.data` (hex), Parity's heirs
    as `"Reverted 0x…"`, Hardhat in `error.data.data`, Ganache one level deeper under the transaction's hash.
    """
    revert_data = _find_revert_data(data)
    if revert_data:
        return ContractRevert(describe_revert(revert_data))
    if found := re.search(r"revert(?:ed)?(?: with reason string)?:? '?(.+?)'?$", message, re.IGNORECASE):
        return ContractRevert(found[1])
    if code == 3 or "revert" in message.lower():
        return ContractRevert("execution reverted without a reason")
    if re.search(r"out of gas|invalid opcode|stack (under|over)flow", message, re.IGNORECASE):
        return ContractRevert(f"execution failed: {message[:100]}")
    return None


def describe_revert(data: bytes) -> str:
    """`Error(string)`'s text, a panic's code, or the custom error's selector."""
    selector, body = data[:4], data[4:]
    try:
        if selector == ERROR_SELECTOR:
            return str(abi_decode(["string"], body)[0])
        if selector == PANIC_SELECTOR:
            return f"execution panicked with code 0x{abi_decode(['uint256'], body)[0]:02x}"
    except (DecodingError, OverflowError, ValueError):
        pass
    return f"execution reverted with custom data 0x{data[:68].hex()}"


def _find_revert_data(data: Any, depth: int = 0) -> bytes:
    if isinstance(data, str):
        found = re.fullmatch(r"(?:Reverted )?0x([0-9a-fA-F]*)", data.strip())
        return bytes.fromhex(found[1]) if found and len(found[1]) >= 8 and len(found[1]) % 2 == 0 else b""
    if isinstance(data, dict) and depth < 3:
        preferred = [data[key] for key in ("data", "result", "return", "output") if key in data]
        for value in [*preferred, *data.values()]:
            if nested := _find_revert_data(value, depth + 1):
                return nested
    return b""
