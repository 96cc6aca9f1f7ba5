from __future__ import annotations

from typing import Any

import pytest
from assay.chain.abi import ContractAbi
from assay.commitments.identifiers import keccak
from assay.errors import FatalError
from eth_abi.abi import encode

A, B = "0x" + "11" * 20, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
ROW = [{"name": "who", "type": "address"}, {"name": "hashes", "type": "bytes32[]"}]
ABI: list[dict[str, Any]] = [
    {"type": "constructor", "inputs": [{"name": "owner_", "type": "address"}], "stateMutability": "payable"},
    {
        "type": "function",
        "name": "post",
        "stateMutability": "view",
        "inputs": [{"name": "rows", "type": "tuple[]", "components": ROW}, {"name": "n", "type": "uint64"}],
        "outputs": [{"name": "", "type": "tuple", "components": ROW}],
    },
    {
        "type": "event",
        "name": "Posted",
        "anonymous": False,
        "inputs": [
            {"name": "who", "type": "address", "indexed": True},
            {"name": "note", "type": "string", "indexed": False},
            {"name": "id", "type": "bytes32", "indexed": True},
        ],
    },
]
abi = ContractAbi(ABI)


def log(**changes: Any) -> dict[str, Any]:
    topics = [abi.topic("Posted"), "0x" + "00" * 12 + B[2:].lower(), "0x" + "22" * 32]
    return {
        "address": A,
        "topics": topics,
        "data": "0x" + encode(["string"], ["hello"]).hex(),
        "blockNumber": "0x10",
        "blockHash": "0x" + "33" * 32,
        "transactionHash": "0x" + "44" * 32,
        "logIndex": "0x2",
    } | changes


def test_encode_call__structs_in_arrays__selector_of_tuples_and_arguments() -> None:
    rows = [(B, [b"\x01" * 32, b"\x02" * 32]), (B, [])]
    selector = keccak(b"post((address,bytes32[])[],uint64)")[:4]
    expected = selector + encode(["(address,bytes32[])[]", "uint64"], [rows, 7])
    assert abi.encode_call("post", [rows, 7]) == expected


def test_decode_result__struct__addresses_checksummed() -> None:
    data = encode(["(address,bytes32[])"], [(B.lower(), [b"\x01" * 32])])
    assert abi.decode_result("post", data) == (B, (b"\x01" * 32,))


def test_decode_log__known_event__args_by_name_with_position() -> None:
    event = abi.decode_log(log())
    assert event.name == "Posted"
    assert event.args == {"who": B, "note": "hello", "id": b"\x22" * 32}
    assert (event.block_number, event.log_index) == (16, 2)


def test_decode_log__text_is_not_utf8__replaced_not_fatal() -> None:
    data = encode(["bytes"], [b"\xff\xfe"])
    assert abi.decode_log(log(data="0x" + data.hex())).args["note"] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "changes",
    [
        {"topics": ["0x" + "99" * 32]},
        {"topics": []},
        {"topics": [abi.topic("Posted")]},
        {"data": "0x"},
        {"data": "0x" + "ff" * 40},
    ],
)
def test_decode_log__undecodable__fatal(changes: dict[str, Any]) -> None:
    with pytest.raises(FatalError):
        abi.decode_log(log(**changes))


def test_constructor_names__trailing_underscore__dropped() -> None:
    assert abi.constructor_names == ["owner"]


@pytest.mark.parametrize("call", [("nope", ()), ("post", (1,)), ("post", ("x", "y"))])
def test_encode_call__does_not_fit__fatal(call: tuple[str, tuple[Any, ...]]) -> None:
    with pytest.raises(FatalError):
        abi.encode_call(*call)


def test_decode_result__no_code_there__fatal_says_so() -> None:
    with pytest.raises(FatalError, match="no such contract"):
        abi.decode_result("post", b"")
