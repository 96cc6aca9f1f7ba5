"""The fast reader gives what `oip` gives, or leaves the request to it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY, commit_tensors
from assay.errors import RequestError
from assay.node.oip import protocol as oip
from assay.node.oip.fast_request import FastReader
from assay.node.payments.terms import parse_terms
from assay.node.receipts.entries import HeldVoucher
from assay.types import Address, Hash32, TensorSpec
from hypothesis import given, settings
from hypothesis import strategies as st

INPUTS = (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("n", "INT64", (2,)))
OUTPUTS = (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("z", "FP32", (-1,)))
MOST = 400


def request(*changes: tuple[tuple[str | int, ...], Any], rows: int = 2, order: bool = False) -> bytes:
    """A right request with `changes` made to its JSON: (path, value)."""
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [rows, 4],
                "parameters": {"binary_data_size": rows * 16},
            },
            {"name": "n", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        ],
        "parameters": {"binary_data_output": True},
    }
    if order:
        document["inputs"].reverse()
    for path, value in changes:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
    return json.dumps(document).encode()


def tensors(rows: int = 2, order: bool = False, seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    parts = [generator.normal(size=(rows, 4)).astype(np.float32).tobytes(), np.arange(2).tobytes()]
    return b"".join(reversed(parts) if order else parts)


def both(reader: FastReader, head: bytes, raw: bytes) -> tuple[Any, Any]:
    """(what the fast reader gives, what `oip` gives or refuses with)."""
    body, length = head + raw, len(head)
    try:
        slow = oip.parse_request(body, length, INPUTS, OUTPUTS, max_elements=MOST)
    except RequestError as error:
        return reader.read(body, length), error
    return reader.read(body, length), slow


def check(head: bytes, raw: bytes) -> bool:
    """Whether the fast reader took it; asked twice, for it remembers heads."""
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    took = []
    for _ in range(2):
        found, slow = both(reader, head, raw)
        took.append(found is not None)
        if found is None:
            continue
        assert isinstance(slow, oip.InferRequest), slow
        assert found.voucher is None and found.consumer is None
        fast, digest = found.request, found.input_hash
        for left, right in zip(fast.inputs, slow.inputs, strict=True):
            assert (left.dtype, left.shape) == (right.dtype, right.shape)
            assert left.flags.aligned
            np.testing.assert_array_equal(left, right)
        assert digest == commit_tensors(slow.inputs)
        assert (fast.outputs, fast.binary_default, fast.id) == (slow.outputs, slow.binary_default, slow.id)
        assert fast.parameters == slow.parameters
    assert len(set(took)) == 1
    return took[0]


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("padding", range(4))
def test_read__usual_request__is_taken_whatever_its_alignment(order: bool, padding: int) -> None:
    assert check(request(order=order) + b" " * padding, tensors(order=order))


@pytest.mark.parametrize(
    "change",
    [
        (("id",), "7"),
        (("outputs",), [{"name": "y", "parameters": {"binary_data": False}}]),
        (("outputs",), []),
        (("parameters", "binary_data_output"), False),
        (("parameters", "priority"), 3),
    ],
)
def test_read__usual_options__are_taken(change: tuple[tuple[str, ...], Any]) -> None:
    assert check(request(change), tensors())


CONSTANTS = [None, True, False, 0, 1, 2, -1, 4, 16, 32, 1.0, 1 << 40, "1", "x", "y", "n", "FP32", "INT64"]
SHAPES = [[], [2, 4], [2], [True, 4], [2.0, 4]]
OBJECTS = [{}, [{}], {"binary_data_size": 32}, {"binary_data_size": True}]
VALUES = st.sampled_from([*CONSTANTS, *SHAPES, *OBJECTS])
PATHS = st.sampled_from(
    [
        ("inputs",),
        ("inputs", 0),
        ("inputs", 0, "name"),
        ("inputs", 0, "datatype"),
        ("inputs", 0, "shape"),
        ("inputs", 0, "data"),
        ("inputs", 0, "parameters"),
        ("inputs", 0, "parameters", "binary_data_size"),
        ("inputs", 1),
        ("inputs", 1, "name"),
        ("inputs", 1, "shape"),
        ("outputs",),
        ("id",),
        ("parameters",),
        ("parameters", "binary_data_output"),
        ("parameters", "sequence_id"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    path=PATHS,
    value=VALUES,
    rows=st.integers(0, 3),
    cut=st.integers(-3, 3),
    length=st.sampled_from([0, -1, 1, 10_000]),
)
def test_read__anything_changed__is_as_oip_has_it_or_left_to_it(
    path: tuple[str | int, ...], value: Any, rows: int, cut: int, length: int
) -> None:
    try:
        head = request((path, value), rows=rows)
    except KeyError:
        return
    raw = tensors(rows)
    raw = raw[:cut] if cut < 0 else raw + b"\0" * cut
    check(head, raw)
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    if length:
        assert reader.read(head + raw, len(head) + length) is None or length < 0


@pytest.mark.parametrize(
    "change",
    [
        *[(("outputs",), value) for value in ({}, 0, "", False)],
        (("inputs", 0, "parameters", "shared_memory_region"), "region"),
    ],
)
def test_read__refused_by_oip__is_left_to_it(change: tuple[tuple[str | int, ...], Any]) -> None:
    assert not check(request(change), tensors())


@pytest.mark.parametrize(("shape", "size"), [([-1, -1], 4), ([-1, 1], 4), ([0, 0], 0), ([-2, -2], 16)])
def test_read__shape_that_is_no_shape__is_left_to_oip_which_refuses_it(shape: list[int], size: int) -> None:
    """-1 is what a signature says, and never what a tensor has."""
    spec = TensorSpec("x", "FP32", (-1, -1))
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert FastReader((spec,), OUTPUTS, MOST).read(head + bytes(size), len(head)) is None
    with pytest.raises(RequestError) as caught:
        oip.parse_request(head + bytes(size), len(head), (spec,), OUTPUTS, max_elements=MOST)
    assert caught.value.code == "input_shape"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_read__not_finite__is_left_to_oip(value: float) -> None:
    array = np.ones((2, 4), np.float32)
    array[1, 3] = value
    assert not check(request(), array.tobytes() + np.arange(2).tobytes())


def test_read__great_finite_numbers__are_taken() -> None:
    array = np.full((2, 4), np.finfo(np.float32).max)
    assert check(request(), array.tobytes() + np.arange(2).tobytes())


@pytest.mark.parametrize("dtype", ["BOOL", "BYTES"])
def test_read__other_types__are_left_to_oip(dtype: str) -> None:
    reader = FastReader((TensorSpec("x", dtype, (1,)),), OUTPUTS, MOST)
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": dtype, "shape": [1], "parameters": {"binary_data_size": 1}}]}
    ).encode()
    assert reader.read(head + b"\1", len(head)) is None


@pytest.mark.parametrize("dtype", [name for name in OIP_TO_NUMPY if name not in ("BOOL", "BYTES")])
def test_read__each_type_of_number__hashes_as_oip(dtype: str) -> None:
    spec = TensorSpec("x", dtype, (-1, 700))
    array = np.arange(1400).reshape(2, 700).astype(OIP_TO_NUMPY[dtype])
    tensor: dict[str, object] = {"name": "x", "datatype": dtype, "shape": [2, 700]}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    found = FastReader((spec,), OUTPUTS, 10_000).read(head + array.tobytes(), len(head))
    assert found is not None
    assert found.input_hash == commit_tensors([array])


NODE, VERSION = Address("0x" + "11" * 20), Hash32(b"\1" * 32)
CONSUMER = "0x" + "ab" * 20
DECIMALS = st.one_of(
    st.integers(0, 1 << 130).map(str), st.sampled_from(["", "00", "-1", "+1", "1.0", "1e3", " 1", "\u0661"])
)
SIGNATURES = st.one_of(
    st.binary(min_size=65, max_size=65).map(lambda raw: "0x" + raw.hex()),
    st.sampled_from(["0x", "", "0x" + "AB" * 65, "0x" + "ab" * 66, "ab" * 65, "0x" + "zz" * 65]),
)


@settings(max_examples=300, deadline=None)
@given(
    vouchers=st.lists(st.tuples(DECIMALS, DECIMALS, SIGNATURES), min_size=1, max_size=4),
    order=st.permutations(("voucher_consumer", "voucher_amount", "voucher_count", "voucher_signature")),
    more=st.dictionaries(
        st.sampled_from(["voucher_amount", "x", 'voucher_count": "7', "\\", "public"]), DECIMALS, max_size=2
    ),
    last=st.booleans(),
    compact=st.booleans(),
)
def test_read__vouchers__are_as_terms_reads_them(
    vouchers: list[tuple[str, str, str]], order: list[str], more: dict[str, str], last: bool, compact: bool
) -> None:
    """One reader, so that what it remembers of the first is put to use for the others."""
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    for amount, count, signature in vouchers:
        values = {
            "voucher_consumer": CONSUMER,
            "voucher_amount": amount,
            "voucher_count": count,
            "voucher_signature": signature,
        }
        fields = {name: values[name] for name in order}
        parameters = {"binary_data_output": True, **({**fields, **more} if last else {**more, **fields})}
        document = json.loads(request()) | {"parameters": parameters}
        head = json.dumps(document, separators=(",", ":") if compact else None).encode()
        found, slow = both(reader, head, tensors())
        assert found is not None and isinstance(slow, oip.InferRequest)
        if found.voucher is None:
            assert found.request.parameters == slow.parameters
            continue
        terms = parse_terms(slow.parameters, 1, NODE, VERSION)
        assert (found.consumer, found.voucher) == (terms.consumer, terms.held)
        others = {name: value for name, value in slow.parameters.items() if name not in values}
        assert found.request.parameters == others


def test_read__voucher_named_twice__is_not_cut_out() -> None:
    """The last one counts; the first stands where the values are cut out."""
    values = f'"voucher_amount":"5","voucher_count":"1","voucher_signature":"0x{"ab" * 65}"'
    parameters = f'{{"voucher_consumer":"{CONSUMER}",{values},{values}}}'
    head = json.dumps(json.loads(request()) | {"parameters": 0}).replace(
        '"parameters": 0', f'"parameters":{parameters}'
    )
    found = FastReader(INPUTS, OUTPUTS, MOST).read(head.encode() + tensors(), len(head))
    assert found is not None and found.voucher is None


def test_read__usual_voucher__is_cut_out_and_remembered() -> None:
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    for amount in ("5", "10"):
        voucher = {
            "voucher_consumer": CONSUMER,
            "voucher_amount": amount,
            "voucher_count": "1",
            "voucher_signature": "0x" + "cd" * 65,
        }
        head = request((("parameters",), voucher))
        found = reader.read(head + tensors(), len(head))
        assert found is not None and found.voucher is not None
        assert found.voucher == HeldVoucher(int(amount), 1, b"\xcd" * 65)
    assert len(reader._heads) == 1
    (gap,) = reader._heads
    assert reader.read(gap + tensors(), len(gap)) is None  # what is remembered is no JSON


def test_read__more_parameters_than_clients_send__are_not_remembered() -> None:
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    head = request((("parameters",), {f"p{n}": n for n in range(100)}))
    assert reader.read(head + tensors(), len(head)) is not None
    assert not reader._heads


@pytest.mark.parametrize("value", [[[]] * 100, {"a": {}}])
def test_read__lists_among_parameters__are_kept_by_neither(value: Any) -> None:
    """They would take twenty times their JSON for as long as the request waits."""
    head = request((("parameters", "a"), value), (("parameters", "public"), value))
    assert check(head, tensors())
    _, slow = both(FastReader(INPUTS, OUTPUTS, MOST), head, tensors())
    assert slow.parameters == {"binary_data_output": True, "a": None, "public": None}


SIGNED = "0x" + "ab" * 65
NAMES = st.sampled_from(
    [
        "voucher_consumer",
        "voucher_amount",
        "voucher_count",
        "voucher_signature",
        "public",
        "binary_data_output",
    ]
)
SCALARS = st.sampled_from(
    [
        f'"{CONSUMER}"',
        f'"{SIGNED}"',
        '"5"',
        '"05"',
        "5",
        "true",
        "null",
        "[]",
        '{"voucher_amount":"5"}',
        "1e999",
    ]
)
GOOD = [
    ("voucher_consumer", f'"{CONSUMER}"'),
    ("voucher_amount", '"5"'),
    ("voucher_count", '"1"'),
    ("voucher_signature", f'"{SIGNED}"'),
]
SPACES = st.sampled_from(["", " ", "\n", "  "])


def text_of(pairs: list[tuple[str, str]], comma: str, colon: str) -> str:
    """A JSON object with its names in this order, also twice."""
    return "{" + f",{comma}".join(f'"{name}":{colon}{value}' for name, value in pairs) + "}"


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Requests as no serialiser writes them: names twice, in any order, spaced anyhow; most are right."""
    comma, colon = draw(SPACES), draw(SPACES)
    tensors_given = []
    for name, datatype, shape, size in draw(
        st.permutations([("x", "FP32", "[2,4]", "32"), ("n", "INT64", "[2]", "16")])
    ):
        pairs = [("name", f'"{name}"'), ("datatype", f'"{datatype}"'), ("shape", shape)]
        pairs.append(("parameters", text_of([("binary_data_size", size)], comma, colon)))
        more = st.sampled_from(
            [*pairs, ("name", '"x"'), ("shape", "[1,4]"), ("parameters", "{}"), ("data", "[1]")]
        )
        pairs += draw(st.lists(more, max_size=1))
        tensors_given.append(text_of(pairs, comma, colon))
    parameters = [*GOOD, *draw(st.lists(st.tuples(NAMES, SCALARS), max_size=2))]
    if draw(st.booleans()):
        parameters = draw(st.permutations(parameters))
    inputs = "[" + ",".join(tensors_given) + "]"
    top = [("inputs", inputs), ("parameters", text_of(parameters, comma, colon))]
    others = [("id", '"a\\u0000b"'), ("id", '"c"'), ("outputs", '[{"name":"y"}]'), ("outputs", "[]")]
    others += [("parameters", "{}"), ("inputs", "[]"), ("parameters", text_of(GOOD, comma, colon))]
    return text_of(top + draw(st.lists(st.sampled_from(others), max_size=2)), comma, colon)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts(), min_size=1, max_size=3))
def test_read__names_twice_and_spaced_anyhow__are_as_oip_and_terms_read_them(heads: list[str]) -> None:
    """One reader for several requests, each of them twice: what it remembers must fit no other."""
    reader = FastReader(INPUTS, OUTPUTS, MOST)
    for head in [text for text in heads for _ in range(2)]:
        found, slow = both(reader, head.encode(), tensors())
        if found is None:
            continue
        assert isinstance(slow, oip.InferRequest), slow
        assert found.input_hash == commit_tensors(slow.inputs)
        fast = found.request
        assert (fast.outputs, fast.binary_default, fast.id) == (slow.outputs, slow.binary_default, slow.id)
        if found.voucher is None:
            assert fast.parameters == slow.parameters
            continue
        terms = parse_terms(slow.parameters, 1, NODE, VERSION)
        assert (found.consumer, found.voucher) == (terms.consumer, terms.held)
        assert fast.parameters == {
            name: value for name, value in slow.parameters.items() if "voucher_" not in name
        }
