"""A second implementation of SPEC.md §2, §10 and §11 as a watcher needs them: trees, records, traces, moves.

Written from the text alone, without `assay`, as somebody would in another language; slow, and plain Python
but for binary32, which is numpy's. The vectors hold both implementations to the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CHUNK, LEVELS, PARTS = 1_024, 4, 256
WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 12: 4, 13: 8}
SIGNED = {3, 5, 6, 7}
NAN = 0x7FC00000
ADDRESSES = ("challenger", "node")
HASHES = ("batch_id", "digest", "program_root", "trace_root", "inputs", "record", "claim")
NUMBERS = (
    *("phase", "deadline", "rows", "kernels", "kernel", "length", "level", "position", "element", "dtype"),
    *("low", "high", "before", "after"),
)

# --- §2: trees and tensors ----------------------------------------------------------------------------------


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Levels from the padded leaves up to the root alone."""
    depth = (len(leaves) - 1).bit_length()
    levels = [[*leaves, *[bytes(32)] * ((1 << depth) - len(leaves))]]
    for _ in range(depth):
        below = levels[-1]
        pairs = zip(below[::2], below[1::2], strict=True)
        levels.append([hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs])
    return levels


def root(levels: list[list[bytes]]) -> bytes:
    return levels[-1][0]


def chunks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, max(len(data), 1), CHUNK)]


def tensor_tree(data: bytes) -> list[list[bytes]]:
    return tree([leaf(chunk) for chunk in chunks(data)])


def hash_of(tensors: Sequence[tuple[int, Sequence[int], bytes]]) -> bytes:
    """`input_hash` or `output_hash` of (dtype, dims, bytes)."""
    hashed = hashlib.sha256(b"\x03")
    for dtype, dims, data in tensors:
        head = bytes([2, dtype, len(dims)]) + b"".join(dim.to_bytes(4, "big") for dim in dims)
        hashed.update(hashlib.sha256(head + root(tensor_tree(data))).digest())
    return hashed.digest()


def values_of(dtype: int, data: bytes) -> list[int]:
    width = WIDTHS[dtype]
    parts = (data[at : at + width] for at in range(0, len(data), width))
    return [int.from_bytes(part, "little", signed=dtype in SIGNED) for part in parts]


def wrap(dtype: int, value: int) -> int:
    (wrapped,) = values_of(dtype, bytes_of(dtype, [value]))
    return wrapped


def bytes_of(dtype: int, values: Sequence[int]) -> bytes:
    width = WIDTHS[dtype]
    return b"".join((value % (1 << 8 * width)).to_bytes(width, "little") for value in values)


# --- §10: records -------------------------------------------------------------------------------------------


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def signed(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big", signed=True)

    def several(self, read: Callable[[], Any]) -> list[Any]:
        return [read() for _ in range(self.unsigned(1))]

    def dims(self) -> list[int]:
        return self.several(lambda: self.unsigned(4))


class Form(NamedTuple):
    base: int
    terms: list[tuple[int, int]]

    def at(self, variables: Sequence[int]) -> int:
        return self.base + sum(factor * variables[which] for which, factor in self.terms)


class Operand(NamedTuple):
    source: int
    dtype: int
    elements: int
    reference: Any
    pad: int
    indirect: int
    coefficient: int
    form: Form
    bounds: list[tuple[Form, int]]

    def element(self, variables: Sequence[int], values: Sequence[int]) -> int | None:
        at = self.form.at(variables) + (self.coefficient * values[self.indirect - 1] if self.indirect else 0)
        inside = all(0 <= form.at(variables) < extent for form, extent in self.bounds)
        return at if inside and 0 <= at < self.elements else None


class Kernel(NamedTuple):
    dtype: int
    domain: list[int]
    reduction: list[int]
    init: int
    operands: list[Operand]
    code: bytes


def read_form(reader: Reader) -> Form:
    return Form(reader.signed(4), reader.several(lambda: (reader.unsigned(1), reader.signed(4))))


def read_operand(reader: Reader) -> Operand:
    source, dtype, elements = reader.unsigned(1), reader.unsigned(1), reader.unsigned(4)
    reference: Any = reader.take(32) if source == 0 else reader.unsigned(4)
    pad, indirect = reader.signed(8), reader.unsigned(1)
    coefficient = reader.signed(4) if indirect else 0
    form = read_form(reader)
    bounds = reader.several(lambda: (read_form(reader), reader.unsigned(4)))
    return Operand(source, dtype, elements, reference, pad, indirect, coefficient, form, bounds)


def read_kernel(record: bytes) -> Kernel:
    reader = Reader(record)
    dtype, axes, reduced = reader.unsigned(1), reader.unsigned(1), reader.unsigned(1)
    extents = [reader.unsigned(4) for _ in range(axes + reduced)]
    init = reader.signed(8)
    operands = reader.several(lambda: read_operand(reader))
    code = reader.take(reader.unsigned(1))
    assert reader.at == len(record)
    return Kernel(dtype, extents[:axes], extents[axes:], init, operands, code)


def read_inputs(header: bytes) -> list[tuple[int, list[int]]]:
    """dtype and dims of each; profile, batched and the count of kernels stand before."""
    reader = Reader(header[6:])
    return reader.several(lambda: (reader.unsigned(1), reader.dims()))


# --- §10: expressions ---------------------------------------------------------------------------------------


def number(pattern: int) -> Any:
    return np.array(pattern, np.uint32).view(np.float32)[()]


def pattern(value: Any) -> int:
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    return NAN if np.isnan(rounded) else int(rounded.view(np.uint32))


def int256(value: int) -> int:
    return (value + 2**255) % 2**256 - 2**255


def quotient(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def integer(value: int, *, nearest: bool) -> int:
    found = float(number(value))
    if math.isnan(found):
        return 0
    if math.isinf(found):
        return -(2**63) if found < 0 else 2**63 - 1
    return max(-(2**63), min(2**63 - 1, round(found) if nearest else int(found)))


def nearest_float(value: int) -> int:
    """Sixty bits and whether there were more decide the rounding."""
    shift = max(0, abs(value).bit_length() - 60)
    kept = abs(value) >> shift | (abs(value) % (1 << shift) != 0)
    return pattern(math.copysign(math.ldexp(float(np.float32(np.int64(kept))), shift), value))


def on_floats(operation: Callable[[Any, Any], Any]) -> Callable[[int, int], int]:
    def run(a: int, b: int) -> int:
        with np.errstate(all="ignore"):
            return pattern(operation(number(a), number(b)))

    return run


def least(a: Any, b: Any) -> Any:
    return math.nan if np.isnan(a) or np.isnan(b) else a if a < b else b


def greatest(a: Any, b: Any) -> Any:
    return math.nan if np.isnan(a) or np.isnan(b) else a if a > b else b


BINARY: Mapping[int, Callable[[int, int], int]] = {
    0x10: lambda a, b: int256(a + b),
    0x11: lambda a, b: int256(a - b),
    0x12: lambda a, b: int256(a * b),
    0x13: lambda a, b: int256(quotient(a, b)),
    0x14: lambda a, b: 0 if b == 0 else a - b * quotient(a, b),
    0x15: min,
    0x16: max,
    0x17: lambda a, b: a & b,
    0x18: lambda a, b: a | b,
    0x19: lambda a, b: a ^ b,
    0x1A: lambda a, b: int256(a << b) if 0 <= b <= 255 else 0,
    0x1B: lambda a, b: a >> b if 0 <= b <= 255 else -int(a < 0),
    0x1C: lambda a, b: int(a == b),
    0x1D: lambda a, b: int(a < b),
    0x1E: lambda a, b: int(a <= b),
    0x30: on_floats(np.add),
    0x31: on_floats(np.subtract),
    0x32: on_floats(np.multiply),
    0x33: on_floats(np.divide),
    0x34: on_floats(least),
    0x35: on_floats(greatest),
    0x36: lambda a, b: int(number(a) == number(b)),
    0x37: lambda a, b: int(number(a) < number(b)),
    0x38: lambda a, b: int(number(a) <= number(b)),
}


def run(code: bytes, accumulator: int, operands: Sequence[int], variables: Sequence[int]) -> int:
    reader, stack = Reader(code), list[int]()
    pushes: Mapping[int, Callable[[], int]] = {
        0x00: lambda: accumulator,
        0x01: lambda: operands[reader.unsigned(1)],
        0x02: lambda: variables[reader.unsigned(1)],
        0x03: lambda: reader.unsigned(4),
        0x04: lambda: reader.signed(8),
        0x05: lambda: stack[-1 - reader.unsigned(1)],
        0x20: lambda: wrap(reader.unsigned(1), stack.pop()),
        0x39: lambda: nearest_float(stack.pop()),
        0x3A: lambda: integer(stack.pop(), nearest=True),
        0x3B: lambda: integer(stack.pop(), nearest=False),
    }
    while reader.at < len(code):
        op = reader.unsigned(1)
        if op in pushes:
            stack.append(pushes[op]())
        else:
            b, a = stack.pop(), stack.pop()
            stack.append((a if stack.pop() else b) if op == 0x1F else BINARY[op](a, b))
    return stack[-1]


# --- §10: traces --------------------------------------------------------------------------------------------


class Trace:
    """Every tensor of a request; `constants` by tensor root."""

    def __init__(
        self, records: Sequence[bytes], constants: Mapping[bytes, bytes], inputs: Sequence[bytes], rows: int
    ) -> None:
        self.kernels = [read_kernel(record) for record in records[1:]]
        self.constants = constants
        kinds = read_inputs(records[0])
        self.inputs = [values_of(dtype, data) for (dtype, _), data in zip(kinds, inputs, strict=True)]
        self.values: list[list[int]] = []
        for place, kernel in enumerate(self.kernels):
            count = rows * math.prod(kernel.domain)
            self.values.append([self.accumulator(place, element) for element in range(count)])
        pairs = zip(self.kernels, self.values, strict=True)
        self.tensors = [bytes_of(kernel.dtype, values) for kernel, values in pairs]
        self.trees = [tensor_tree(data) for data in self.tensors]
        self.tree = tree([leaf(root(one)) for one in self.trees])

    def accumulator(self, place: int, element: int, steps: int | None = None) -> int:
        """After so many steps; None: after all."""
        kernel = self.kernels[place]
        row, inside = divmod(element, math.prod(kernel.domain))
        fixed = [int(at) for at in np.unravel_index(inside, kernel.domain)] if kernel.domain else []
        found = kernel.init
        for moving in itertools.islice(itertools.product(*map(range, kernel.reduction)), steps):
            variables = [*fixed, *moving]
            operands: list[int] = []
            for operand in kernel.operands:
                at = operand.element(variables, operands)
                operands.append(operand.pad if at is None else self.read(operand, row, at))
            found = wrap(kernel.dtype, run(kernel.code, found, operands, variables))
        return found

    def read(self, operand: Operand, row: int, at: int) -> int:
        if operand.source == 0:
            width = WIDTHS[operand.dtype]
            data = self.constants[operand.reference][at * width : (at + 1) * width]
            return values_of(operand.dtype, data)[0]
        source = self.inputs if operand.source == 1 else self.values
        return source[operand.reference][row * operand.elements + at]


# --- §11: the challenger ------------------------------------------------------------------------------------


def read_state(encoded: bytes) -> dict[str, Any]:
    """2 addresses and 7 hashes as bytes, then unsigned integers; `before` and `after` are signed."""
    words = [encoded[at : at + 32] for at in range(0, len(encoded), 32)]
    numbers = (int.from_bytes(word, "big", signed=at >= 21) for at, word in enumerate(words) if at >= 9)
    found = [*(word[-20:] for word in words[:2]), *words[2:9], *numbers]
    return dict(zip((*ADDRESSES, *HASHES, *NUMBERS), found, strict=True))


def cuts(low: int, high: int) -> list[int]:
    steps = high - low
    parts = steps if steps <= PARTS else math.isqrt(steps - 1) + 1 if steps <= PARTS**2 else PARTS
    return [low + steps * part // parts for part in range(parts + 1)]


def first_difference(claimed: Sequence[Any], own: Sequence[Any]) -> Iterator[int]:
    """The first place alone, or nothing."""
    places = (at for at, (a, b) in enumerate(zip(claimed, own, strict=True)) if a != b)
    return itertools.islice(places, 1)


def answer(state: Mapping[str, Any], data: bytes, own: Trace) -> tuple[Any, ...] | None:
    """(function, further arguments) of the challenger's move; None: the node is right, or it is its move."""
    kernel, dtype = state["kernel"], state["dtype"]
    match state["phase"]:
        case 3:
            down, position = min(LEVELS, state["level"]), state["position"]
            children = [data[at : at + 32] for at in range(0, len(data), 32)]
            levels = own.trees[kernel] if any(state["record"]) else own.tree
            mine = levels[state["level"] - down][position << down : (position + 1) << down]
            for at in first_difference(children, mine):
                above = tree(children)
                siblings = tuple(above[height][(at >> height) ^ 1] for height in range(down))
                return "select", at, children[at], siblings
        case 6:
            for at in first_difference(data, chunks(own.tensors[kernel])[state["position"]]):
                return "select_element", data, at // WIDTHS[dtype]
        case 8:
            ends = [*values_of(dtype, data), state["after"]]
            steps = cuts(state["low"], state["high"])[1:]
            mine = [own.accumulator(kernel, state["element"], step) for step in steps]
            for at in first_difference(ends, mine):
                return "select_segment", data, at
    return None
