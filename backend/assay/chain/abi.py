"""A contract's ABI: calls and constructor arguments encoded, results and logs decoded (by eth-abi)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode as abi_encode
from eth_abi.codec import ABIDecoder
from eth_abi.decoding import StringDecoder
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.registry import BaseEquals, registry

from assay.chain.values import EventData, LogReceipt, hash32
from assay.commitments.identifiers import checksum_address, keccak
from assay.errors import FatalError

Abi = list[dict[str, Any]]


def _lenient_decoder() -> ABIDecoder:
    """A contract's string may hold any bytes; one that is not UTF-8 must not stop whoever reads the chain."""
    decoders = registry.copy()  # type: ignore[no-untyped-call]
    decoders.unregister_decoder("string")
    is_string = BaseEquals("string", with_sub=False)  # type: ignore[no-untyped-call]
    replacing = StringDecoder(handle_string_errors="replace")  # type: ignore[no-untyped-call]
    decoders.register_decoder(is_string, replacing, label="string")
    return ABIDecoder(decoders)


_decoder = _lenient_decoder()


def canonical_type(entry: dict[str, Any]) -> str:
    """The type as signatures spell it: structs as tuples of their components."""
    kind = str(entry["type"])
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(canonical_type(component) for component in entry["components"])
    return f"({inner}){kind.removeprefix('tuple')}"


@dataclass(frozen=True, slots=True)
class _Function:
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    indexed: tuple[tuple[str, str], ...]
    plain: tuple[tuple[str, str], ...]


class ContractAbi:
    """Encodes and decodes by name. Raises `FatalError` where names, values or bytes do not fit the ABI."""

    def __init__(self, abi: Abi) -> None:
        self.raw = abi
        self._functions: dict[tuple[str, int], _Function] = {}
        self._events: dict[bytes, _Event] = {}
        self._constructor: list[dict[str, Any]] = []
        for entry in abi:
            if entry["type"] == "function":
                self._add_function(entry)
            elif entry["type"] == "event":
                self._add_event(entry)
            elif entry["type"] == "constructor":
                self._constructor = entry["inputs"]

    @property
    def constructor_names(self) -> list[str]:
        """Without the trailing underscore that keeps Vyper's parameters apart from its immutables."""
        return [str(entry["name"]).rstrip("_") for entry in self._constructor]

    @property
    def event_names(self) -> set[str]:
        return {event.name for event in self._events.values()}

    def topic(self, event_name: str) -> str:
        """The 0x hex topic 0 of an event."""
        for topic, event in self._events.items():
            if event.name == event_name:
                return "0x" + topic.hex()
        raise FatalError(
            f"the ABI has no event {event_name}; do deployment files and package belong together?"
        )

    def encode_constructor(self, args: Sequence[Any]) -> bytes:
        return _encode([canonical_type(entry) for entry in self._constructor], args, "constructor")

    def encode_call(self, name: str, args: Sequence[Any] = ()) -> bytes:
        """Selector and arguments; structs are tuples (dataclasses in field order)."""
        function = self._function(name, len(args))
        return function.selector + _encode(function.inputs, args, name)

    def decode_result(self, name: str, data: bytes, arguments: int | None = None) -> Any:
        """One output: its value; several: a tuple. Addresses come checksummed."""
        function = self._function(name, arguments)
        if not data and function.outputs:
            raise FatalError(f"{name}() answered nothing: no such contract at that address on this chain")
        values = _decode(function.outputs, data, f"{name}()")
        return values[0] if len(values) == 1 else values

    def decode_log(self, log: LogReceipt) -> EventData:
        """Raises `FatalError` on a log that this ABI does not explain: a cursor must not pass it."""
        where = f"log {log.get('logIndex')} of transaction {log.get('transactionHash')}"
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        event = self._events.get(topics[0]) if topics else None
        if event is None or len(topics) != len(event.indexed) + 1:
            raise FatalError(
                f"{where} at {log['address']} is none of the contract's events; is the ABI current?"
            )
        indexed = _decode([kind for _, kind in event.indexed], b"".join(topics[1:]), where)
        args = {name: value for (name, _), value in zip(event.indexed, indexed, strict=True)}
        plain = _decode([kind for _, kind in event.plain], bytes.fromhex(log["data"][2:]), where)
        args |= {name: value for (name, _), value in zip(event.plain, plain, strict=True)}
        return EventData(
            name=event.name,
            args=args,
            address=checksum_address(log["address"]),
            block_number=int(log["blockNumber"], 16),
            block_hash=hash32(log["blockHash"]),
            transaction_hash=hash32(log["transactionHash"]),
            log_index=int(log["logIndex"], 16),
        )

    def _add_function(self, entry: dict[str, Any]) -> None:
        inputs = tuple(canonical_type(item) for item in entry["inputs"])
        outputs = tuple(canonical_type(item) for item in entry["outputs"])
        selector = keccak(f"{entry['name']}({','.join(inputs)})".encode())[:4]
        self._functions[entry["name"], len(inputs)] = _Function(selector, inputs, outputs)

    def _add_event(self, entry: dict[str, Any]) -> None:
        items = [(bool(item["indexed"]), str(item["name"]), canonical_type(item)) for item in entry["inputs"]]
        topic = keccak(f"{entry['name']}({','.join(kind for _, _, kind in items)})".encode())
        indexed = tuple((name, kind) for is_indexed, name, kind in items if is_indexed)
        plain = tuple((name, kind) for is_indexed, name, kind in items if not is_indexed)
        self._events[topic] = _Event(str(entry["name"]), indexed, plain)

    def _function(self, name: str, arguments: int | None) -> _Function:
        if arguments is None:
            arguments = next((count for known, count in self._functions if known == name), 0)
        try:
            return self._functions[name, arguments]
        except KeyError:
            raise FatalError(
                f"the ABI has no function {name} of {arguments} arguments; "
                "do deployment files and package belong together?"
            ) from None


def _encode(types: Sequence[str], args: Sequence[Any], what: str) -> bytes:
    try:
        return abi_encode(types, args)
    except (EncodingError, TypeError, ValueError, OverflowError) as error:
        raise FatalError(f"arguments of {what} do not fit ({', '.join(types)}): {error}") from error


def _decode(types: Sequence[str], data: bytes, what: str) -> tuple[Any, ...]:
    try:
        values = _decoder.decode(types, data)
    except (DecodingError, OverflowError, ValueError) as error:
        raise FatalError(f"{what} does not decode as ({', '.join(types)}): {error}") from error
    return tuple(_checksummed(kind, value) for kind, value in zip(types, values, strict=True))


def _checksummed(kind: str, value: Any) -> Any:
    if kind == "address":
        return checksum_address(value)
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return tuple(_checksummed(inner, item) for item in value)
    if kind.startswith("("):
        return tuple(_checksummed(k, v) for k, v in zip(_split_tuple(kind), value, strict=True))
    return value


def _split_tuple(kind: str) -> list[str]:
    """The component types of `(a,(b,c),d)`."""
    parts, depth, start = [], 0, 1
    for position, character in enumerate(kind):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            parts.append(kind[start:position])
            start = position + 1
    return parts
