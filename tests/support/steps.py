"""Proofs of steps, made from the scalar interpreter alone, and the contracts that check them on Anvil.

`Prover` computes every tensor of a small program with `assay.exact.step`, one element at a time, and opens what
a step reads: slow, and independent of the evaluator and the trace that the node uses.

    with verifier() as contract:
        answers = contract.call("step", [prover.step_arguments(k, element, step), …])
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any, Final

from assay.commitments.identifiers import keccak
from assay.commitments.merkle import MerkleTree
from assay.exact.instructions import WIDTHS
from assay.exact.program import Kernel, Operand, Program, Signature, Source
from assay.exact.step import operand_elements, run_step
from eth_abi.abi import decode, encode
from vyper.compiler.output import build_abi_output

from tests.support.anvil import ACCOUNTS, Anvil, anvil
from tests.support.contracts import deployer

CHUNK: Final = 1024
NO_OPENING: Final = (bytes(32), [], b"", [])
GAS: Final = 1 << 40
Opening = tuple[bytes, Sequence[bytes], bytes, Sequence[bytes]]


def pack(values: Iterable[int], dtype: int) -> bytes:
    """Elements as committed: little-endian in the dtype's width."""
    width, signed = WIDTHS[dtype]
    return b"".join(value.to_bytes(width, "little", signed=signed) for value in values)


def unpack(data: bytes, dtype: int) -> list[int]:
    width, signed = WIDTHS[dtype]
    return [int.from_bytes(data[i : i + width], "little", signed=signed) for i in range(0, len(data), width)]


@dataclass(frozen=True)
class Tensor:
    """Committed elements, all rows."""

    values: Sequence[int]
    dtype: int

    @cached_property
    def data(self) -> bytes:
        return pack(self.values, self.dtype)

    @cached_property
    def tree(self) -> MerkleTree:
        return MerkleTree([self.data[i : i + CHUNK] for i in range(0, len(self.data), CHUNK)] or [b""])

    def chunk(self, element: int) -> tuple[bytes, list[bytes]]:
        """The chunk that an element is in and its siblings."""
        position = element * WIDTHS[self.dtype][0] // CHUNK
        return self.data[position * CHUNK : (position + 1) * CHUNK], [*self.tree.proof(position)]


@dataclass
class Prover:
    """A program with the values of its inputs, all rows, and of its constants by root."""

    program: Program
    inputs: Sequence[Tensor]
    constants: dict[bytes, Tensor] = field(default_factory=dict)
    rows: int = 1

    @cached_property
    def tensors(self) -> list[Tensor]:
        found: list[Tensor] = []
        for kernel in self.program.kernels:
            elements = range(self.rows * kernel.elements)
            values = [self._accumulators(kernel, element, found)[-1] for element in elements]
            found.append(Tensor(values, kernel.dtype))
        return found

    @cached_property
    def trace(self) -> MerkleTree:
        return MerkleTree([tensor.tree.root for tensor in self.tensors])

    def accumulators(self, number: int, element: int) -> list[int]:
        """Before the first step and after each."""
        return self._accumulators(self.program.kernels[number], element, self.tensors)

    def _accumulators(self, kernel: Kernel, element: int, earlier: list[Tensor]) -> list[int]:
        row, inner = divmod(element, kernel.elements)
        read = self._reader(kernel, earlier)
        found = [kernel.init]
        for step in range(kernel.steps):
            found.append(run_step(kernel, row, inner, step, found[-1], read))
        return found

    def _reader(self, kernel: Kernel, earlier: list[Tensor]) -> Callable[[int, int], int]:
        return lambda number, element: self._source(kernel.operands[number], earlier).values[element]

    def _source(self, operand: Operand, earlier: list[Tensor]) -> Tensor:
        if operand.source is Source.CONSTANT:
            return self.constants[operand.root]
        return (self.inputs if operand.source is Source.INPUT else earlier)[operand.index]

    def openings(self, number: int, element: int, step: int) -> list[Opening]:
        kernel = self.program.kernels[number]
        row, inner = divmod(element, kernel.elements)
        read = self._reader(kernel, self.tensors)
        elements = operand_elements(kernel, row, inner, step, read)
        return [self._open(operand, at) for operand, at in zip(kernel.operands, elements, strict=True)]

    def _open(self, operand: Operand, element: int | None) -> Opening:
        if element is None:
            return NO_OPENING
        chunk, siblings = self._source(operand, self.tensors).chunk(element)
        if operand.source is not Source.KERNEL:
            return bytes(32), [], chunk, siblings
        return (
            self.tensors[operand.index].tree.root,
            self.trace.proof(operand.index),
            chunk,
            siblings,
        )

    @property
    def input_roots(self) -> list[bytes]:
        return [tensor.tree.root for tensor in self.inputs]

    def task(self, number: int, element: int, step: int, before: int) -> tuple[Any, ...]:
        """IStepVerifier.Step."""
        kernels = len(self.program.kernels)
        return (number, kernels, self.rows, element, step, before, self.trace.root)

    def step_arguments(self, number: int, element: int, step: int, before: int) -> tuple[Any, ...]:
        """Of `StepVerifier.step`."""
        record = self.program.records[1 + number]
        task = self.task(number, element, step, before)
        return record, task, self.input_roots, self.openings(number, element, step)

    def shape_arguments(self, number: int) -> tuple[Any, ...]:
        """Of `StepVerifier.kernel_shape`."""
        proof = self.program.tree.proof(1 + number)
        return self.program.root, self.program.records[1 + number], proof, number

    def trace_arguments(self) -> tuple[Any, ...]:
        """Of `StepVerifier.check_trace`."""
        outputs = [self.tensors[output.kernel] for output in self.program.outputs]
        return (
            self.program.root,
            self.program.records[0],
            self.program.tree.proof(0),
            self.rows,
            self.input_roots,
            [tensor.tree.root for tensor in outputs],
            [self.trace.proof(output.kernel) for output in self.program.outputs],
            self.trace.root,
            self._hash(self.program.inputs, self.inputs),
            self._hash(self.program.outputs, outputs),
        )

    def _hash(self, signature: Sequence[Signature], tensors: Sequence[Tensor]) -> bytes:
        """SPEC.md §2, spelled out here once more."""
        whole = b"\x03"
        for one, tensor in zip(signature, tensors, strict=True):
            dims = ((self.rows,) if self.program.batched else ()) + one.dims
            shape = bytes((one.dtype, len(dims))) + b"".join(dim.to_bytes(4, "big") for dim in dims)
            whole += sha256(b"\x02" + shape + tensor.tree.root).digest()
        return sha256(whole).digest()

    def every_step(self, number: int) -> Iterator[tuple[tuple[Any, ...], int]]:
        """(arguments, accumulator after it) of each step of each element of a kernel."""
        kernel = self.program.kernels[number]
        for element in range(self.rows * kernel.elements):
            accumulators = self.accumulators(number, element)
            for step, (before, after) in enumerate(zip(accumulators, accumulators[1:], strict=False)):
                yield self.step_arguments(number, element, step, before), after


def program_of(
    kernels: Sequence[Kernel], inputs: Sequence[Signature] = (), *, batched: bool = False
) -> Program:
    """A program whose output is its last kernel."""
    last = kernels[-1]
    output = Signature(last.dtype, last.domain or (1,), len(kernels) - 1)
    assert prod(output.dims) == last.elements
    return Program(batched, tuple(inputs), (output,), tuple(kernels))


class Refused(Exception):
    """A call that reverted; `reason` is the contract's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _abi_type(item: dict[str, Any]) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(map(_abi_type, item['components']))}){item['type'][5:]}"


@dataclass
class OnAnvil:
    """A deployed contract whose calls go out by the hundred."""

    chain: Anvil
    address: str
    abi: dict[str, tuple[bytes, list[str], list[str]]]

    def encoded(self, function: str, arguments: Sequence[Any]) -> bytes:
        selector, inputs, _ = self.abi[function]
        return selector + encode(inputs, arguments)

    def call(self, function: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers in order: a value (a tuple for a struct), or `Refused`."""
        return self.call_encoded(function, [self.encoded(function, arguments) for arguments in calls])

    def call_encoded(self, function: str, calls: Sequence[bytes], *, at_once: int = 100) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(calls), at_once):
            answers += self._post("eth_call", calls[start : start + at_once])
        return [self._answer(function, answer) for answer in answers]

    def gas(self, function: str, arguments: Sequence[Any]) -> int:
        """Of a transaction that does nothing else: base, calldata and execution (EIP-7623 not before Prague)."""
        (answer,) = self._post("eth_estimateGas", [self.encoded(function, arguments)])
        return int(answer["result"], 16)

    def _post(self, method: str, calls: Sequence[bytes]) -> list[dict[str, Any]]:
        bodies = [
            {
                "jsonrpc": "2.0",
                "id": i,
                "method": method,
                "params": [{"to": self.address, "data": "0x" + data.hex(), "gas": hex(GAS)}, "latest"],
            }
            for i, data in enumerate(calls)
        ]
        request = urllib.request.Request(
            self.chain.url, json.dumps(bodies).encode(), headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return sorted(json.load(reply), key=lambda answer: int(answer["id"]))

    def _answer(self, function: str, answer: dict[str, Any]) -> Any:
        if "error" in answer:
            data = answer["error"].get("data") or ""
            if data.startswith("0x08c379a0"):
                return Refused(decode(["string"], bytes.fromhex(data[10:]))[0])
            return Refused(f"without a reason: {answer['error']}")
        return decode(self.abi[function][2], bytes.fromhex(answer["result"][2:]))[0]


def deploy_on(chain: Anvil, name: str) -> OnAnvil:
    """Deploys `contracts/<name>.vy`, which takes no arguments, from Anvil's first account."""
    made = deployer(name).compiler_data
    sent = chain.request(
        "eth_sendTransaction", {"from": ACCOUNTS[0], "data": "0x" + made.bytecode.hex(), "gas": hex(20_000_000)}
    )
    while not (mined := chain.request("eth_getTransactionReceipt", sent)):
        time.sleep(0.01)
    address = mined["contractAddress"]
    abi = {}
    for item in build_abi_output(made):
        if item["type"] == "function":
            inputs, outputs = (list(map(_abi_type, item[side])) for side in ("inputs", "outputs"))
            abi[item["name"]] = keccak(f"{item['name']}({','.join(inputs)})".encode())[:4], inputs, outputs
    return OnAnvil(chain, address, abi)


@contextlib.contextmanager
def on_anvil(*names: str) -> Iterator[list[OnAnvil]]:
    """Contracts on an Anvil of their own whose calls may take any gas and size."""
    with anvil(arguments=("--disable-block-gas-limit", "--no-request-size-limit")) as chain:
        yield [deploy_on(chain, name) for name in names]
