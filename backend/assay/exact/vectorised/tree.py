"""An expression as a graph of its values, and how its fold can be computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from assay.exact.instructions import parse, pops
from assay.exact.opcodes import Op
from assay.exact.vectorised import floats, integers
from assay.exact.vectorised.values import Floats, Ints, Value, common, scalar, to_floats, to_ints, wrapped


class Node(NamedTuple):
    op: Op
    value: int = 0
    arguments: tuple[int, ...] = ()
    """Earlier nodes."""


@dataclass(frozen=True)
class Tree:
    """Nodes in the order in which they can be computed; equal ones are one."""

    nodes: tuple[Node, ...]
    root: int
    _below: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _programs: dict[tuple[int, ...], list[tuple[int, Node, tuple[int, ...]]]] = field(default_factory=dict)

    def below(self, root: int) -> tuple[int, ...]:
        """The nodes that `root` needs, itself last."""
        if root not in self._below:
            self._below[root] = self._find_below(root)
        return self._below[root]

    def _find_below(self, root: int) -> tuple[int, ...]:
        needed = {root}
        for number in range(root, -1, -1):
            if number in needed:
                needed.update(self.nodes[number].arguments)
        return tuple(sorted(needed))

    def program(self, order: tuple[int, ...]) -> list[tuple[int, Node, tuple[int, ...]]]:
        """Of each node of `order` itself and the nodes that are used by it last."""
        if order not in self._programs:
            found: list[tuple[int, Node, tuple[int, ...]]] = []
            seen: set[int] = set()
            for number in reversed(order):
                last = set(self.nodes[number].arguments) - seen
                seen |= last
                found.append((number, self.nodes[number], tuple(last)))
            self._programs[order] = found[::-1]
        return self._programs[order]

    def uses(self, root: int, op: Op) -> frozenset[int]:
        """The immediates of all `op` that `root` needs."""
        return frozenset(
            self.nodes[number].value for number in self.below(root) if self.nodes[number].op is op
        )


def build(code: bytes) -> Tree:
    """The graph of an expression. Raises RecordError if it cannot run."""
    nodes: dict[Node, int] = {}
    stack: list[int] = []
    for op, value in parse(code):
        if op is Op.DUP:
            stack.append(stack[-1 - value])
            continue
        taken = pops(op)
        arguments = tuple(stack[len(stack) - taken :])
        del stack[len(stack) - taken :]
        stack.append(nodes.setdefault(Node(op, value, arguments), len(nodes)))
    return Tree(tuple(nodes), stack[-1])


@dataclass(frozen=True)
class Leaves:
    """Where a tree's operands, loop variables and accumulator come from."""

    operand: Callable[[int], Value]
    variable: Callable[[int], Value]
    accumulator: Value | None = None


def compute(tree: Tree, order: tuple[int, ...], leaves: Leaves) -> Value:
    """The value of the last node of `order`, which `Tree.below` gives."""
    known: dict[int, Value] = {}
    for number, node, last in tree.program(order):
        known[number] = _apply(node, [known[argument] for argument in node.arguments], leaves)
        # What is freed at once is allocated again by the next instruction, and still in the cache.
        for one in last:
            del known[one]
    return known[order[-1]]


def _leaf(node: Node, leaves: Leaves) -> Value:
    if node.op is Op.OPERAND:
        return leaves.operand(node.value)
    if node.op is Op.VAR:
        return leaves.variable(node.value)
    if node.op is Op.ACC:
        assert leaves.accumulator is not None
        return leaves.accumulator
    return scalar(node.value)


def _apply(node: Node, arguments: list[Value], leaves: Leaves) -> Value:
    op = node.op
    if op <= Op.DUP:
        return _leaf(node, leaves)
    if op is Op.SELECT:
        return _select(*arguments)
    return _binary(op, *arguments) if len(arguments) == 2 else _unary(node, arguments[0])


def _unary(node: Node, a: Value) -> Value:
    if node.op is Op.WRAP:
        return wrapped(to_ints(a), node.value)
    return floats.from_ints(to_ints(a)) if node.op is Op.I2F else floats.to_integers(node.op, to_floats(a))


def _binary(op: Op, a: Value, b: Value) -> Value:
    if op < Op.FADD:
        return integers.binary(op, to_ints(a), to_ints(b))
    left, right = to_floats(a), to_floats(b)
    if op <= Op.FDIV:
        return floats.arithmetic(op, left, right)
    return floats.extremum(op, left, right) if op <= Op.FMAX else floats.compare(op, left, right)


def _select(condition: Value, a: Value, b: Value) -> Value:
    chosen = to_ints(condition).array != 0
    if isinstance(a, Floats) and isinstance(b, Floats):
        array = np.where(chosen, a.array, b.array)
        return Floats(array, min(a.low, b.low), max(a.high, b.high), a.nan or b.nan)
    left, right = to_ints(a), to_ints(b)
    dtype = common(left, right) or np.dtype(object)
    array = np.where(chosen, left.array.astype(dtype, copy=False), right.array.astype(dtype, copy=False))
    return Ints(array, min(left.low, right.low), max(left.high, right.high))


class Fold(NamedTuple):
    """`acc ∘ term` with a term that does not depend on the accumulator; `op` None: no such shape."""

    op: Op | None
    plus: tuple[int, ...] = ()
    """ADD: the nodes that are added up."""
    minus: tuple[int, ...] = ()
    """ADD: the nodes that are subtracted."""


_SEQUENTIAL: Final = Fold(None)
_MAX_ADDENDS: Final = 8


def fold_of(tree: Tree, dtype: int) -> Fold:
    """How the expression folds: ADD of terms, MIN or MAX of one, or step by step."""
    root = tree.root
    while tree.nodes[root].op is Op.WRAP and tree.nodes[root].value == dtype:
        root = tree.nodes[root].arguments[0]
    node = tree.nodes[root]
    if node.op in (Op.MIN, Op.MAX):
        free = [one for one in node.arguments if not tree.uses(one, Op.ACC)]
        accumulators = [one for one in node.arguments if tree.nodes[one].op is Op.ACC]
        return Fold(node.op, (free[0],)) if len(free) == len(accumulators) == 1 else _SEQUENTIAL
    plus: list[int] = []
    minus: list[int] = []
    _addends(tree, root, plus, minus)
    accumulators = [one for one in plus if tree.nodes[one].op is Op.ACC]
    terms = [one for one in plus if tree.nodes[one].op is not Op.ACC]
    if len(accumulators) != 1 or any(tree.uses(one, Op.ACC) for one in (*terms, *minus)):
        return _SEQUENTIAL
    return Fold(Op.ADD, tuple(terms), tuple(minus))


def _addends(tree: Tree, root: int, plus: list[int], minus: list[int]) -> None:
    """The sums and differences that a node consists of; beyond _MAX_ADDENDS whole ones."""
    node = tree.nodes[root]
    if node.op in (Op.ADD, Op.SUB) and len(plus) + len(minus) < _MAX_ADDENDS:
        left, right = node.arguments
        _addends(tree, left, plus, minus)
        _addends(tree, right, *((plus, minus) if node.op is Op.ADD else (minus, plus)))
    else:
        plus.append(root)
