"""ONNX files that are out to hurt whoever loads them, and with which code each is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.onnx_models import build_model, linear_model, tensor, value

X, Y = value("x", [1]), value("y", [1])
LONG = "a" * 1_000_000
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


@dataclass(frozen=True)
class Hostile:
    """`codes`: any of them is a right refusal; whether memory or a library's own limit ends it may differ."""

    name: str
    build: Callable[[], bytes]
    codes: tuple[str, ...]
    needs_child: bool = False
    """Rules alone do not refuse it: it must be parsed, loaded or run, which only the child does."""


def model_of(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    return build_model(nodes, [X], [Y], initializers)


def data_of(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    return bytes(model_of(*nodes, initializers=initializers).SerializeToString())


def loop_node(depth: int = 0) -> onnx.NodeProto:
    """2^62 iterations; around `depth` loops like it."""
    inner = [loop_node(depth - 1)] if depth else [helper.make_node("Identity", ["v"], ["v2"])]
    if depth:
        inner[0].input[2], inner[0].output[0] = "v", "v2"
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), *inner],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1])],
        [value("c2", [], TensorProto.BOOL), value("v2", [1])],
    )
    return helper.make_node("Loop", ["n", "t", "x"], ["y"], name="for_ever", body=body)


def loops(depth: int) -> bytes:
    stored = (tensor("n", np.int64(1 << 62)), tensor("t", np.bool_(True)))
    return data_of(loop_node(depth), initializers=stored)


def branches(depth: int) -> bytes:
    """`If` in `If` …: nested deeper than parsers go."""
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["z"], value_floats=[1.0])], "b", [], [value("z", [1])]
    )
    for _ in range(depth):
        node = helper.make_node("If", ["t"], ["z"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "b", [], [value("z", [1])])
        if len(graph.SerializeToString()) > 1 << 20:  # both branches double it
            break
    node = helper.make_node("If", ["t"], ["y"], then_branch=graph, else_branch=graph)
    return data_of(node, initializers=(tensor("t", np.bool_(True)),))


def nested_messages(depth: int = 2_000) -> bytes:
    """Attributes of graphs of nodes …, one message in another."""
    data = b""
    for _ in range(depth):
        data = field(
            6, field(5, field(1, data))
        )  # AttributeProto.g of NodeProto.attribute of GraphProto.node
    return field(7, data)  # ModelProto.graph


def field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def great_claim() -> bytes:
    """A graph of 2 GiB in a file of a dozen bytes."""
    return b"\x08\x0a\x3a" + varint((1 << 31) - 1) + b"\x0a\x02"


def external(location: str) -> bytes:
    weights = tensor("w", np.ones(1, np.float32))
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return data_of(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,))


def many_empty(prefix: bytes, count: int) -> bytes:
    """Two bytes each, and a hundred in memory."""
    head = linear_model()
    return head + field(7, prefix * count)


def many_attributes(count: int) -> bytes:
    return linear_model() + field(7, field(1, field(4, b"Relu") + b"\x2a\x00" * count))


def constant_of_shape(elements: int) -> bytes:
    shape = tensor("s", np.array([elements], np.int64))
    return data_of(
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["z"], keepdims=1),
        helper.make_node("Add", ["z", "x"], ["y"]),
        initializers=(shape,),
    )


def folded(elements: int = 50 << 20) -> bytes:
    """Twice 200 MiB while it is loaded, and none when it is."""
    return data_of(
        helper.make_node("ConstantOfShape", ["s"], ["big"], value=tensor("v", np.array([1.5], np.float32))),
        helper.make_node("ReduceSum", ["big"], ["z"], keepdims=1),
        helper.make_node("Add", ["z", "x"], ["y"]),
        initializers=(tensor("s", np.array([elements], np.int64)),),
    )


def expand_output() -> bytes:
    """A row of one number gives 200 MiB."""
    shape = tensor("s", np.array([50 << 20], np.int64))
    model = build_model(
        [helper.make_node("Expand", ["x", "s"], ["y"])], [X], [value("y", [50 << 20])], [shape]
    )
    return bytes(model.SerializeToString())


def doubled_strings(times: int = 40) -> bytes:
    nodes = [
        helper.make_node("StringConcat", [f"s{i}", f"s{i}"], [f"s{i + 1}"], name=f"double{i}")
        for i in range(times)
    ]
    model = build_model(
        nodes,
        [value("s0", ["rows"], TensorProto.STRING)],
        [value(f"s{times}", ["rows"], TensorProto.STRING)],
        opsets={"": 20},
    )
    return bytes(model.SerializeToString())


def tiled_strings() -> bytes:
    model = build_model(
        [helper.make_node("Tile", ["s", "n"], ["y"], name="tile")],
        [value("s", [1], TensorProto.STRING)],
        [value("y", [None], TensorProto.STRING)],
        [tensor("n", np.array([1 << 24], np.int64))],
    )
    return bytes(model.SerializeToString())


def long_labels(**labels: Any) -> bytes:
    """A megabyte for each number of a request but one."""
    node = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_int64s=[0], **labels)
    model = build_model(
        [node],
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n"], TensorProto.STRING)],
        opsets={"": 17, "ai.onnx.ml": 4},
    )
    return bytes(model.SerializeToString())


def picked_strings() -> bytes:
    """One of two texts for each number of a request."""
    model = build_model(
        [helper.make_node("OneHot", ["x", "depth", "texts"], ["y"])],
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n", 2], TensorProto.STRING)],
        [tensor("depth", np.int64(2)), tensor("texts", np.array([LONG, "b"], object))],
    )
    return bytes(model.SerializeToString())


def copied_strings(times: int = 200) -> bytes:
    """Keeps as many copies of a request's text at once."""
    nodes, ends = [], []
    for i in range(times):
        ends.append(tensor(f"end{i}", np.array([i + 100], np.int64)))
        nodes.append(helper.make_node("Slice", ["x", "zero", f"end{i}"], [f"copy{i}"]))
    nodes += [
        helper.make_node("SequenceConstruct", [f"copy{i}" for i in range(times)], ["all"]),
        helper.make_node("SequenceLength", ["all"], ["y"]),
    ]
    model = build_model(
        nodes,
        [value("x", ["n"], TensorProto.STRING)],
        [value("y", [], TensorProto.INT64)],
        [tensor("zero", np.array([0], np.int64)), *ends],
    )
    return bytes(model.SerializeToString())


def cyclic() -> bytes:
    return data_of(
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    )


def same_name_twice() -> bytes:
    return data_of(
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Exp", ["x"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    )


def bad_name() -> bytes:
    return data_of(helper.make_node("NotAName", ["x"], ["y"])).replace(b"NotAName", b"\xff\xfeAName")


def recursive_function() -> bytes:
    model = model_of(helper.make_node("f", ["x"], ["y"], domain="local"))
    function = helper.make_function(
        "local", "f", ["a"], ["b"], [helper.make_node("f", ["a"], ["b"], domain="local")], []
    )
    model.functions.append(function)
    return bytes(model.SerializeToString())


def sparse() -> bytes:
    model = model_of(IDENTITY)
    model.graph.sparse_initializer.add().dims.append(1 << 40)
    return bytes(model.SerializeToString())


def matrix_powers(count: int = 400, side: int = 4096) -> bytes:
    """Hours of multiplications on a row of one number."""
    nodes = [helper.make_node("Expand", ["x", "s"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("ReduceMax", [f"m{count}"], ["y"], keepdims=0)]
    sides = tensor("s", np.array([side, side], np.int64))
    model = build_model(nodes, [value("x", [1, 1])], [value("y", [])], [sides])
    return bytes(model.SerializeToString())


def asked(
    *nodes: onnx.NodeProto,
    inputs: dict[str, tuple[list[Any], int]],
    out: int,
    stored: tuple[onnx.TensorProto, ...] = (),
    opset: int = 17,
) -> bytes:
    """Runs on zeros; what it does on other inputs is another matter. Gives `y`."""
    ports = [value(name, dims, dtype) for name, (dims, dtype) in inputs.items()]
    made = build_model(
        nodes, ports, [helper.make_tensor_value_info("y", out, None)], stored, {"": opset, "com.microsoft": 1}
    )
    return bytes(made.SerializeToString())


def divided(operator: str) -> bytes:
    """x by x + 1: the least integer by -1 ends the process."""
    return asked(
        helper.make_node("Add", ["d", "one"], ["by"]),
        helper.make_node(operator, ["x", "by"], ["y"]),
        inputs={"x": (["n"], TensorProto.INT64), "d": (["n"], TensorProto.INT64)},
        out=TensorProto.INT64,
        stored=(tensor("one", np.array([1], np.int64)),),
    )


def two_of_a_name() -> bytes:
    """Which of two divisors is meant is anybody's guess."""
    return asked(
        helper.make_node("Constant", [], ["by"], value=tensor("two", np.array([2], np.int64))),
        helper.make_node("Div", ["x", "by"], ["y"]),
        inputs={"x": (["n"], TensorProto.INT64)},
        out=TensorProto.INT64,
        stored=(tensor("by", np.array([-1], np.int64)),),
    )


def least_among_sizes() -> bytes:
    """The least integer beside a length of an axis, by what is asked for."""
    return asked(
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Concat", ["size", "least"], ["of"], axis=0),
        helper.make_node("Sub", ["x", "one"], ["by"]),
        helper.make_node("Div", ["of", "by"], ["y"]),
        inputs={"x": ([2], TensorProto.INT64)},
        out=TensorProto.INT64,
        stored=(
            tensor("least", np.array([-(1 << 63)], np.int64)),
            tensor("one", np.array([2, 2], np.int64)),
        ),
    )


def asked_rank() -> bytes:
    """Beside a matrix, a tensor of as many axes as the request says: none of elements ends the process."""
    return asked(
        helper.make_node("Reshape", ["x", "shape"], ["other"]),
        helper.make_node("Concat", ["other", "m"], ["y"], axis=0),
        inputs={"x": (["n"], TensorProto.FLOAT), "shape": (["rank"], TensorProto.INT64)},
        out=TensorProto.FLOAT,
        stored=(tensor("m", np.ones((2, 2), np.float32)),),
    )


def asked_weights() -> bytes:
    """Of as many columns as the request leaves: with none, the convolution never ends."""
    return asked(
        helper.make_node("Sub", ["three", "less"], ["end"]),
        helper.make_node("Slice", ["w", "zero", "end", "two"], ["kept"]),
        helper.make_node("Conv", ["x", "kept"], ["y"], pads=[1, 1]),
        inputs={"x": ([1, 2, 5], TensorProto.FLOAT), "less": ([1], TensorProto.INT64)},
        out=TensorProto.FLOAT,
        stored=(
            tensor("w", np.ones((4, 2, 3), np.float32)),
            *(tensor(name, np.array([i], np.int64)) for name, i in (("zero", 0), ("two", 2), ("three", 3))),
        ),
    )


def emptied_sequence(operator: str = "GRU", gates: int = 3) -> bytes:
    """A recurrent network over what the request leaves of its input: none of it ends the process."""
    return asked(
        helper.make_node("Sub", ["four", "less"], ["end"]),
        helper.make_node("Slice", ["x", "zero", "end", "one"], ["part"]),
        helper.make_node(operator, ["part", "w", "r"], ["y"], hidden_size=2),
        inputs={"x": ([4, 4, 3], TensorProto.FLOAT), "less": ([1], TensorProto.INT64)},
        out=TensorProto.FLOAT,
        stored=(
            tensor("w", np.ones((1, 2 * gates, 3), np.float32)),
            tensor("r", np.ones((1, 2 * gates, 2), np.float32)),
            *(tensor(name, np.array([i], np.int64)) for name, i in (("zero", 0), ("one", 1), ("four", 4))),
        ),
    )


def narrow_pool() -> bytes:
    """Over windows wider than an image may be, channels last."""
    scale, zero = tensor("s", np.float32(1)), tensor("z", np.uint8(0))
    pool = helper.make_node(
        "QLinearAveragePool",
        ["x", "s", "z", "s", "z"],
        ["y"],
        domain="com.microsoft",
        kernel_shape=[2, 2],
        channels_last=1,
    )
    dims = [1, "height", "width", 1]
    return asked(pool, inputs={"x": (dims, TensorProto.UINT8)}, out=TensorProto.UINT8, stored=(scale, zero))


MEMORY = ("memory", "run_failed", "load_failed", "crashed")
HOSTILE = (
    Hostile("endless-loop", lambda: loops(0), ("control_flow",)),
    Hostile("nested-loops", lambda: loops(8), ("control_flow",)),
    Hostile("nested-branches", lambda: branches(200), ("control_flow", "not_onnx")),
    Hostile("nested-messages", nested_messages, ("not_onnx",)),
    Hostile("great-claim", great_claim, ("not_onnx",)),
    Hostile("truncated", lambda: linear_model()[:-40], ("not_onnx",)),
    Hostile("external-relative", lambda: external("weights.bin"), ("external_data",)),
    Hostile("external-absolute", lambda: external("/etc/passwd"), ("external_data",)),
    Hostile("external-traversal", lambda: external("../../../../etc/shadow"), ("external_data",)),
    Hostile("many-nodes", lambda: many_empty(b"\x0a\x00", 1_000_000), ("too_large",)),
    Hostile("many-initializers", lambda: many_empty(b"\x2a\x00", 1_000_000), ("too_large",)),
    Hostile("many-attributes", lambda: many_attributes(1_000_000), ("too_large",)),
    Hostile("bad-name", bad_name, ("not_onnx",)),
    Hostile("recursive-function", recursive_function, ("functions",)),
    Hostile("sparse", sparse, ("sparse",)),
    Hostile("doubled-strings", doubled_strings, ("strings",)),
    Hostile("tiled-strings", tiled_strings, ("strings",)),
    Hostile("long-default", lambda: long_labels(values_strings=["a"], default_string=LONG), ("strings",)),
    Hostile("long-label", lambda: long_labels(values_strings=[LONG]), ("strings",)),
    Hostile(
        "long-label-tensor",
        lambda: long_labels(values_tensor=tensor("v", np.array([LONG], object))),
        ("strings",),
    ),
    Hostile("picked-strings", picked_strings, ("strings",)),
    Hostile("copied-strings", copied_strings, ("strings",)),
    Hostile("asked-divisor", lambda: divided("Div"), ("hazard",)),
    Hostile("asked-modulus", lambda: divided("Mod"), ("hazard",)),
    Hostile("two-of-a-name", two_of_a_name, ("load_failed",)),
    Hostile("least-among-sizes", least_among_sizes, ("hazard",)),
    Hostile("asked-rank", asked_rank, ("hazard",)),
    Hostile("asked-weights", asked_weights, ("hazard",)),
    Hostile("emptied-gru", emptied_sequence, ("hazard",)),
    Hostile("emptied-lstm", lambda: emptied_sequence("LSTM", 4), ("hazard",)),
    Hostile("narrow-pool", narrow_pool, ("hazard",)),
    Hostile("custom-domain", lambda: custom_domain("com.example"), ("domain",)),
    Hostile(
        "unknown-operator", lambda: data_of(helper.make_node("Evil", ["x"], ["y"])), ("load_failed",), True
    ),
    Hostile("constant-of-shape", lambda: constant_of_shape(1 << 40), MEMORY, True),
    Hostile("folded", folded, ("memory",), True),
    Hostile("expanded-output", expand_output, ("output_size", *MEMORY), True),
    Hostile("cyclic", cyclic, ("load_failed",), True),
    Hostile("same-name-twice", same_name_twice, ("load_failed",), True),
    Hostile("matrix-powers", matrix_powers, ("time",), True),
)


def custom_domain(domain: str) -> bytes:
    node = helper.make_node("Evil", ["x"], ["y"], domain=domain)
    return bytes(build_model([node], [X], [Y], opsets={"": 17, domain: 1}).SerializeToString())
