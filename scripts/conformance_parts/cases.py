"""The conformance set: every operator of the profile with random and extreme inputs, and two networks.

Made once, by the machine that starts the comparison, so that all CPU classes get the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from assay.exact.lowering import check_model
from assay.exact.lowering.registry import REGISTRY
from numpy.typing import NDArray

from scripts.benches.resnet import build_resnet
from tests.support.exact_models import FACTORIES, digits, random_case
from tests.support.exactness import extremes, model, node

Array = NDArray[Any]
Named = tuple[str, bytes, Mapping[str, Array]]
"""(name, ONNX file, inputs by name)."""
NO_CASES = {("", "Constant")}
"""Compute nothing: programs are the same as with initialisers."""
SEEDS = range(6)
"""Of each quantised operator; every third one is of extremes. Those that the profile refuses are left out."""
INTEGERS = ("u1", "i1", "u2", "i2", "i4", "i8", "u4", "u8")
RANKED = ("f4", "u1", "i1", "i4")
SHAPE = (3, 4, 5, 9)


def write_cases(folder: Path) -> int:
    """One `.onnx` and one `.npz` a case; answers how many. Raises ValueError where an operator has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.onnx"), *folder.glob("*.npz")):
        old.unlink()
    covered: set[tuple[str, str]] = set()
    count = 0
    for name, artifact, feeds in build_cases():
        (folder / f"{name}.onnx").write_bytes(artifact)
        np.savez(folder / f"{name}.npz", **dict(feeds))
        covered |= {(one.domain, one.op_type) for one in onnx.ModelProto.FromString(artifact).graph.node}
        count += 1
    missing = sorted(REGISTRY.keys() - covered - NO_CASES)
    if missing:
        raise ValueError(f"the conformance set has no case of {missing}; add one to {Path(__file__).name}")
    return count


def build_cases() -> Iterator[Named]:
    for operator in FACTORIES:
        for seed in SEEDS:
            case = random_case(operator, seed)
            if check_model(case.artifact).is_exact:
                yield f"{operator.lower()}-{seed}", case.artifact, case.feeds
    yield from microsoft_aliases()
    yield from arithmetic()
    yield from shaping()
    yield from ranking()
    yield "model-digits", digits().artifact, digits().feeds
    image = np.random.default_rng(2).normal(size=(2, 3, 32, 32)).astype(np.float32)
    yield "model-resnet18-32", build_resnet(size=32, classes=10), {"image": image}


def microsoft_aliases() -> Iterator[Named]:
    """The two ONNX operators that onnxruntime has in its own domain as well."""
    random = np.random.default_rng(1)
    x = {"x": extremes("f4", (3, 64), random)}
    constants: dict[str, Array] = {"s": np.array(0.037, np.float32), "z": np.array(131, np.uint8)}
    quantised = node("QuantizeLinear", ["x", "s", "z"], domain="com.microsoft")
    yield "quantizelinear-microsoft", model([quantised], x, constants), x
    q = {"x": extremes("u1", (3, 64), random)}
    dequantised = node("DequantizeLinear", ["x", "s", "z"], domain="com.microsoft")
    yield "dequantizelinear-microsoft", model([dequantised], q, constants), q


def several(name: str, nodes: Sequence[Any], feeds: Mapping[str, Array], constants: Any = None) -> Named:
    """One model whose outputs are all tensors that no node reads, eight at most."""
    read = {one for made in nodes for one in made.input}
    outputs = [one for made in nodes for one in made.output if one not in read]
    return name, model(nodes, feeds, constants or {}, outputs=outputs), feeds


def arithmetic() -> Iterator[Named]:
    random = np.random.default_rng(3)
    for dtype in (*INTEGERS, "f4"):
        a, b = extremes(dtype, SHAPE, random), extremes(dtype, (3, 1, 5, 9), random)
        feeds = {"a": a, "b": b}
        binary = ("Add", "Sub", "Mul", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
        yield several(f"binary-{dtype}", [node(op, ["a", "b"], [op]) for op in binary], feeds)
        divisors = {"three": np.array([3, 7, 1, 2, 5, 9, 4, 100, 11]).astype(dtype)}
        yield several(f"div-{dtype}", [node("Div", ["a", "three"])], {"a": a}, divisors)
        targets = [
            node("Cast", ["a"], [f"to{to}"], to=to)
            for to in (1, 9, *(() if dtype == "f4" else (2, 3, 5, 6, 7, 13)))
        ]
        yield several(f"cast-{dtype}", targets, {"a": a})
        if dtype in ("u1", "i1", "i4", "i8", "u4"):
            feeds |= {"c": extremes("?", SHAPE, random)}
            ends = {"lo": np.array(1).astype(dtype), "hi": np.array(100).astype(dtype)}
            chosen = [node(op, ["a", "b"], [op]) for op in ("Min", "Max")]
            chosen += [node("Where", ["c", "a", "b"], ["w"]), node("Clip", ["a", "lo", "hi"], ["clip"])]
            chosen += [node("Relu", ["a"], ["relu"])] if dtype in ("i1", "i4") else []
            yield several(f"choice-{dtype}", chosen, feeds, ends)
    yield bounded_floats(random)
    feeds = {"a": extremes("?", SHAPE, random), "b": extremes("?", (3, 1, 5, 9), random)}
    logic = [node(op, ["a", "b"], [op]) for op in ("And", "Or", "Xor", "Equal")]
    yield several("logic", [*logic, node("Not", ["a"], ["Not"])], feeds)


def bounded_floats(random: np.random.Generator) -> Named:
    """float32 operators on values that hold no −0, or one side of which holds no zero."""
    feeds = {"q": extremes("u1", SHAPE, random), "x": extremes("f4", SHAPE, random)}
    feeds["x"][0, 0, 0] = -0.0
    constants = {
        "s": np.array(0.041, np.float32),
        "z": np.array(77, np.uint8),
        "lo": np.array(0.25, np.float32),
        "hi": np.array(9.5, np.float32),
    }
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Relu", ["d"], ["relu"]),
        node("MaxPool", ["d"], ["pool"], kernel_shape=[2, 3], pads=[1, 1, 0, 1]),
        node("Clip", ["x", "lo", "hi"], ["clipped"]),
        node("Div", ["x", "clipped"], ["quotient"]),
        node("Max", ["d", "clipped"], ["greatest"]),
        node("Min", ["d", "clipped"], ["least"]),
        node("ArgMax", ["x"], ["place"], axis=-1),
    ]
    return several("floats", nodes, feeds, constants)


def shaping() -> Iterator[Named]:
    random = np.random.default_rng(4)
    constants = {
        "shape": np.array([0, -1, 6], np.int64),
        "one": np.array([1], np.int64),
        "starts": np.array([-1, 1], np.int64),
        "ends": np.array([-9, 8], np.int64),
        "axes": np.array([1, 3], np.int64),
        "steps": np.array([-1, 2], np.int64),
        "pads": np.array([0, 1, 0, 2, 0, 0, 1, 2], np.int64),
        "picked": np.array([3, 0, -1, 2], np.int64),
    }
    for dtype in ("u1", "f4", "i8"):
        x = {"x": extremes(dtype, (3, 4, 3, 6), random)}
        nodes = [
            node("Slice", ["x", "starts", "ends", "axes", "steps"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
            node("Reshape", ["b", "shape"], ["c"]),
            node("Unsqueeze", ["c", "one"], ["d"]),
            node("Squeeze", ["d", "one"], ["e"]),
            node("Flatten", ["e"], ["flat"]),
            node("Identity", ["x"], ["same"]),
            *(
                node("Pad", ["x", "pads"], [mode], mode=mode)
                for mode in ("constant", "reflect", "edge", "wrap")
            ),
            node("Gather", ["x", "picked"], ["gathered"], axis=1),
            node("Concat", ["x", "x", "gathered"], ["joined"], axis=1),
        ]
        yield several(f"shaping-{dtype}", nodes, x, constants)


def ranking() -> Iterator[Named]:
    random = np.random.default_rng(5)
    for dtype in RANKED:
        few = np.append(extremes(dtype, (3,), random), np.zeros(1, dtype))
        x = {"x": random.choice(few, (3, 5, 41)).astype(dtype)}
        if dtype == "f4":
            x["x"][:, ::2, ::3] *= np.float32(-0.0)
        nodes = [
            node("ArgMax", ["x"], [f"{axis}{last}"], axis=axis, select_last_index=last)
            for axis in (1, 2)
            for last in (0, 1)
        ]
        yield several(f"argmax-{dtype}", nodes, x)
    for dtype in ("u1", "i1"):
        y = {"x": extremes(dtype, (2, 3, 9, 8), random)}
        pools = [
            node(
                "MaxPool", ["x"], ["p"], kernel_shape=[3, 2], pads=[1, 1, 1, 0], strides=[2, 1], ceil_mode=1
            ),
            node("MaxPool", ["x"], ["d"], kernel_shape=[2, 2], dilations=[2, 3]),
        ]
        yield several(f"maxpool-{dtype}", pools, y)
