"""Contracts in titanoboa: deployers compiled once a process, events as plain values."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boa
from assay.commitments.identifiers import keccak

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
ZERO = "0x" + "00" * 20
ZERO_HASH = bytes(32)


@functools.cache
def deployer(name: str) -> Any:
    """The compiled `contracts/<name>.vy` or `contracts/mocks/<name>.vy`; `.deploy(*arguments)` it."""
    for folder in (CONTRACTS, CONTRACTS / "mocks"):
        if (path := folder / f"{name}.vy").exists():
            with _kept_for_good():
                return boa.load_partial(str(path))
    raise FileNotFoundError(f"no contract {name} in {CONTRACTS} or its mocks")


@contextlib.contextmanager
def _kept_for_good() -> Iterator[None]:
    """What is made here is not looked through for garbage: not while it is made, nor ever after. Of a
    contract's syntax tree that takes as long as compiling it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def overwrite(contract: Any, path: str, key: bytes | str, change: Callable[[int], int]) -> None:
    """Change what a mapping of words, such as `channels._line_counts`, holds for `key`.
    Straight in its storage, since boa's `eval` compiles the whole contract again.
    """
    place = contract.compiler_data.storage_layout["storage_layout"]
    for name in path.split("."):
        place = place[name]
    raw = bytes.fromhex(key[2:]) if isinstance(key, str) else key
    slot = int.from_bytes(keccak(place["slot"].to_bytes(32, "big") + raw.rjust(32, b"\0")), "big")
    boa.env.set_storage(contract.address, slot, change(boa.env.get_storage(contract.address, slot)))


def events(contract: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, fields) of every event that `contract` logged in its last call, in order."""
    found = []
    for log in contract.get_logs():
        if str(log.address) == str(contract.address):
            found.append(
                (type(log).__name__, {k: _plain(v) for k, v in log._asdict().items() if k != "address"})
            )
    return found


def fields(struct: Any) -> dict[str, Any]:
    """A returned struct as a dictionary."""
    return {key: _plain(value) for key, value in struct._asdict().items()}


def _plain(value: Any) -> Any:
    return str(value) if type(value).__name__ == "Address" else value
