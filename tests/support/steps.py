"""Calls of `StepVerifier` for a trace, and the contracts that answer them on Anvil.

    with on_anvil("StepVerifier") as (contract,):
        answers = contract.call("step", [step_arguments(trace, kernel, element, step, before), …])

A trace is what `assay.exact.trace.run_trace` gives, or a `PlainTrace` of `tests.support.small_programs`.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Final, NamedTuple

from assay.commitments.identifiers import keccak
from assay.commitments.tensors import hash_commitments, tensor_commitment
from assay.exact.program import Kernel, Program, Signature
from eth_abi.abi import decode, encode
from vyper.compiler.output import build_abi_output

from tests.support.anvil import ACCOUNTS, Anvil, anvil
from tests.support.contracts import deployer

GAS: Final = 1 << 40


def step_arguments(trace: Any, kernel: int, element: int, step: int, before: int) -> tuple[Any, ...]:
    """Of `step`: record, task, input roots, openings."""
    task = (kernel, len(trace.program.kernels), trace.rows, element, step, before, trace.root)
    openings = [
        (one.root, list(one.trace_siblings), one.chunk, list(one.siblings))
        for one in trace.openings(kernel, element, step)
    ]
    return trace.program.records[1 + kernel], task, list(trace.input_roots), openings


def every_step(trace: Any, kernel: int) -> Iterator[tuple[tuple[Any, ...], int]]:
    """(arguments, accumulator after it) of each step of each element of a kernel."""
    shape = trace.program.kernels[kernel]
    for element in range(trace.rows * shape.elements):
        accumulators = trace.accumulators(kernel, element, range(shape.steps + 1))
        for step, (before, after) in enumerate(pairwise(accumulators)):
            yield step_arguments(trace, kernel, element, step, before), after


def shape_arguments(program: Program, kernel: int) -> tuple[Any, ...]:
    """Of `kernel_shape`."""
    return program.root, program.records[1 + kernel], program.tree.proof(1 + kernel), kernel


def trace_arguments(trace: Any) -> tuple[Any, ...]:
    """Of `check_trace`."""
    program = trace.program
    kernels = [output.kernel for output in program.outputs]
    rows = (trace.rows,) if program.batched else ()
    return (
        program.root,
        program.records[0],
        program.tree.proof(0),
        trace.rows,
        list(trace.input_roots),
        [trace.roots[kernel] for kernel in kernels],
        [trace.tree.proof(kernel) for kernel in kernels],
        trace.root,
        _hash_of(program.inputs, trace.inputs, rows),
        _hash_of(program.outputs, [trace.tensor(kernel) for kernel in kernels], rows),
    )


def _hash_of(signature: Sequence[Signature], tensors: Sequence[Any], rows: tuple[int, ...]) -> bytes:
    """Of bytes or arrays as they are committed."""
    return hash_commitments(
        tensor_commitment(one.dtype, (*rows, *one.dims), data if isinstance(data, bytes) else data.tobytes())
        for one, data in zip(signature, tensors, strict=True)
    )


def step_gas(contract: OnAnvil, trace: Any) -> dict[str, int]:
    """By operator, the most gas of a transaction that only computes a step in the middle of a kernel."""
    found: dict[str, int] = {}
    for number, kernel in enumerate(trace.program.kernels):
        element, step = trace.rows * kernel.elements // 2, kernel.steps // 2
        (before,) = trace.accumulators(number, element, [step])
        gas = contract.gas("step", step_arguments(trace, number, element, step, before))
        name = kernel.op_type or f"kernel {number}"
        found[name] = max(gas, found.get(name, 0))
    return found


def program_of(
    kernels: Sequence[Kernel],
    inputs: Sequence[Signature] = (),
    constants: dict[bytes, Any] | None = None,
    *,
    batched: bool = False,
) -> Program:
    """A program whose one output is its last kernel."""
    output = Signature(kernels[-1].dtype, kernels[-1].domain, len(kernels) - 1)
    assert prod(output.dims) == kernels[-1].elements
    return Program(batched, tuple(inputs), (output,), tuple(kernels), constants or {})


class Refused(NamedTuple):
    """A call that reverted."""

    reason: str


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

    def call_encoded(self, function: str, calls: Sequence[bytes]) -> list[Any]:
        """`call` with what `encoded` made, or with garbage after its selector."""
        answers = self.call_raw(calls)
        outputs = self.abi[function][2]
        return [one if isinstance(one, Refused) else decode(outputs, one)[0] for one in answers]

    def call_raw(self, calls: Sequence[bytes], *, at_once: int = 100) -> list[bytes | Refused]:
        """The bytes that come back."""
        answers: list[dict[str, Any]] = []
        for start in range(0, len(calls), at_once):
            answers += self._post("eth_call", calls[start : start + at_once])
        return [_answer(answer) for answer in answers]

    def gas(self, function: str, arguments: Sequence[Any]) -> int:
        """Of a transaction that does nothing else: base, calldata, execution; EIP-7623's floor at least."""
        data = "0x" + self.encoded(function, arguments).hex()
        return int(_mined(self.chain, {"to": self.address, "data": data})["gasUsed"], 16)

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


def _answer(answer: dict[str, Any]) -> bytes | Refused:
    if "error" not in answer:
        return bytes.fromhex(answer["result"][2:])
    data = answer["error"].get("data") or ""
    if data.startswith("0x08c379a0"):
        return Refused(decode(["string"], bytes.fromhex(data[10:]))[0])
    return Refused(f"without a reason: {answer['error']}")


def _mined(chain: Anvil, transaction: dict[str, str]) -> dict[str, Any]:
    whole = {"from": ACCOUNTS[0], "gas": hex(20_000_000), **transaction}
    sent = chain.request("eth_sendTransaction", whole)
    while not (found := chain.request("eth_getTransactionReceipt", sent)):
        time.sleep(0.01)
    assert found["status"] == "0x1", found
    return dict(found)


def deploy_on(chain: Anvil, name: str) -> OnAnvil:
    """Deploys `contracts/<name>.vy`, which takes no arguments, from Anvil's first account."""
    made = deployer(name).compiler_data
    mined = _mined(chain, {"data": "0x" + made.bytecode.hex()})
    address = mined["contractAddress"]
    abi = {}
    for item in build_abi_output(made):
        if item["type"] == "function":
            inputs, outputs = (list(map(_abi_type, item[side])) for side in ("inputs", "outputs"))
            abi[item["name"]] = keccak(f"{item['name']}({','.join(inputs)})".encode())[:4], inputs, outputs
    return OnAnvil(chain, address, abi)


@contextlib.contextmanager
def on_anvil(*names: str) -> Iterator[list[OnAnvil]]:
    """Contracts on an Anvil of their own of the rules since Prague, whose calls may take any gas and size."""
    with anvil(
        hardfork="prague", arguments=("--disable-block-gas-limit", "--no-request-size-limit")
    ) as chain:
        yield [deploy_on(chain, name) for name in names]
