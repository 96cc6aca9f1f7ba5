"""Error objects as real clients send them, and the exceptions that they become."""

from __future__ import annotations

import pytest
from assay.chain import errors
from assay.errors import AssayError, ContractRevert, FatalError, RetryableError
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

REASON = "settlement: batch is already posted"
REVERT = "0x08c379a0" + encode(["string"], [REASON]).hex()


def parse(error: object, method: str = "eth_call") -> AssayError:
    return errors.parse_error(error, method=method, endpoint="http://node")


@pytest.mark.parametrize(
    "error",
    [
        {"code": 3, "message": f"execution reverted: {REASON}", "data": REVERT},  # geth, Anvil, reth
        {"code": 3, "message": "execution reverted", "data": REVERT},
        {"code": -32015, "message": "VM execution error.", "data": f"Reverted {REVERT}"},  # Parity's heirs
        {"code": -32603, "message": "Internal error", "data": {"message": "x", "data": REVERT}},  # Hardhat
        {
            "code": -32000,
            "message": "revert",
            "data": {"0xab": {"error": "revert", "return": REVERT}},
        },  # Ganache
        {"code": -32000, "message": f"execution reverted: {REASON}"},  # no data at all
    ],
)
def test_parse_error__revert_data_in_any_place__contract_and_reason(error: dict[str, object]) -> None:
    revert = parse(error)
    assert isinstance(revert, ContractRevert)
    assert (revert.contract, revert.reason) == ("settlement", "batch is already posted")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("0x4e487b71" + encode(["uint256"], [0x11]).hex(), "panicked with code 0x11"),
        ("0xdeadbeef0011", "custom data 0xdeadbeef0011"),
        ("0x08c379a0ffff", "custom data 0x08c379a0ffff"),
    ],
)
def test_parse_error__panic_or_custom_error__named(data: str, told: str) -> None:
    assert told in str(parse({"code": 3, "message": "execution reverted", "data": data}))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("already known", errors.AlreadyKnown),
        ("transaction already imported", errors.AlreadyKnown),
        ("nonce too low: next nonce 5, tx nonce 4", errors.NonceTooLow),
        ("replacement transaction underpriced", errors.Underpriced),
        ("max fee per gas less than block base fee", errors.Underpriced),
        ("insufficient funds for gas * price + value", errors.InsufficientFunds),
    ],
)
def test_parse_error__broadcast_refused__typed_and_fatal(message: str, kind: type[AssayError]) -> None:
    error = parse({"code": -32000, "message": message}, "eth_sendRawTransaction")
    assert type(error) is kind
    assert isinstance(error, FatalError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": -32005, "message": "limit exceeded"}, errors.RpcUnavailable),
        ({"code": -32005, "message": "query returned more than 10000 results"}, errors.LogRangeTooLarge),
        ({"code": -32602, "message": "block range too large"}, errors.LogRangeTooLarge),
        ({"code": -32000, "message": "header not found"}, errors.BlockUnavailable),
        ({"code": -32602, "message": "BlockOutOfRangeError: block height is 0"}, errors.BlockUnavailable),
        ({"code": -32601, "message": "Method not found"}, errors.RpcError),
        ("oops", errors.RpcUnavailable),
    ],
)
def test_parse_error__other_refusals__typed(error: object, kind: type[AssayError]) -> None:
    assert type(parse(error)) is kind


@given(st.dictionaries(st.sampled_from(["code", "message", "data"]), st.integers() | st.text() | st.none()))
def test_parse_error__anything__is_one_of_ours(error: dict[str, object]) -> None:
    assert isinstance(parse(error), (RetryableError, FatalError, ContractRevert))
