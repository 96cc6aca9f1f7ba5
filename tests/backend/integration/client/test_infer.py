"""Paying and inferring against real node processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from assay.client import Client, EscrowShort, InputInvalid, ModelUnknown, PriceTooHigh
from assay.client.channels import ChannelState
from assay.client.store import ChannelKey
from assay.types import Assurance

from tests.support.onnx_models import linear_model
from tests.support.stack import PRICE, RunningNode, Stack

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def expected(rows: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes here."""
    import onnxruntime

    session = onnxruntime.InferenceSession(linear_model())
    return session.run(["y"], {"x": rows})[0]


def state_of(client: Client, stack: Stack, node: RunningNode) -> ChannelState:
    key = ChannelKey(client.domain, client.consumer, node.address, stack.version_id)
    state = client.store.load(key)
    assert state is not None
    return state


def held_by(client: Client, stack: Stack, node: RunningNode) -> tuple[int, int, int]:
    """(amount, count, sequence) that the node says it holds."""
    held = client.http.channel(node.endpoint, stack.version_id, client.consumer).held
    return held.amount, held.count, held.sequence


def test_infer__fresh_consumer__deposits_pays_and_checks(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    results = [client.infer(stack.model, ROWS, max_price=PRICE) for _ in range(3)]

    for sequence, result in enumerate(results, 1):
        assert np.array_equal(result.outputs["y"], expected(ROWS))
        assert result.node == stack.nodes[0].address
        assert result.price == PRICE
        assert result.receipt.receipt.sequence == sequence
        assert result.assurance is Assurance.SIGNED
        assert client.store.receipt("0x" + result.digest.hex()) is not None
    assert stack.settlement.escrow(client.consumer, results[0].node).balance == 10 * PRICE
    assert client.acknowledge() == []
    assert held_by(client, stack, stack.nodes[0]) == (3 * PRICE, 3, 3)


def test_infer__inputs_by_name_and_float64__are_taken(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    result = open_client().infer(stack.model + "@1", {"x": ROWS.astype(np.float64)})
    assert np.array_equal(result.outputs["y"], expected(ROWS))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((2, 5), np.float32), "shape"),
        (np.full((1, 4), np.nan, np.float32), "not finite"),
        ({"z": ROWS}, "the model takes 'x'"),
        (np.array([["a", "b", "c", "d"]]), "convert it"),
    ],
)
def test_infer__inputs_do_not_fit__refused_before_anything_is_signed(
    stack: Stack, open_client: Callable[..., Client], inputs: object, words: str
) -> None:
    client = open_client()
    with pytest.raises(InputInvalid, match=words):
        client.infer(stack.model, inputs)  # type: ignore[arg-type]
    assert client.store.channels(client.domain, client.consumer) == []


def test_infer__no_escrow_and_no_permission__says_how_to_fund(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    client = open_client(auto_fund=None)
    with pytest.raises(EscrowShort, match="assay channel fund") as caught:
        client.infer(stack.model, ROWS, max_price=PRICE)
    assert caught.value.needed == PRICE
    client.fund(stack.nodes[0].address, PRICE)
    client.infer(stack.model, ROWS, max_price=PRICE)
    with pytest.raises(EscrowShort):
        client.infer(stack.model, ROWS, max_price=PRICE)
    assert state_of(client, stack, stack.nodes[0]).signed == PRICE


def test_infer__automatic_deposits_at_their_bound__refused(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    from assay.client import AutoFund

    client = open_client(auto_fund=AutoFund(PRICE, 2 * PRICE))
    for _ in range(2):
        client.infer(stack.model, ROWS, max_price=PRICE)
    with pytest.raises(EscrowShort, match="reached their bound"):
        client.infer(stack.model, ROWS, max_price=PRICE)
    assert stack.settlement.escrow(client.consumer, stack.nodes[0].address).balance == 2 * PRICE


def test_infer__no_tokens_for_a_deposit__uses_nothing_of_its_bound(
    stack: Stack, open_client: Callable[..., Client], tmp_path: Path
) -> None:
    from assay.client import AutoFund

    poor = stack.new_consumer(tokens=0)
    client = open_client(key=poor, auto_fund=AutoFund(PRICE, PRICE), data=tmp_path / "poor")
    with pytest.raises(EscrowShort, match="get tokens"):
        client.infer(stack.model, ROWS, max_price=PRICE)
    stack.mint(poor.address, PRICE)
    assert client.infer(stack.model, ROWS, max_price=PRICE).price == PRICE


def test_infer__too_dear__names_the_cheapest(stack: Stack, open_client: Callable[..., Client]) -> None:
    with pytest.raises(PriceTooHigh) as caught:
        open_client().infer(stack.model, ROWS, max_price=PRICE - 1)
    assert caught.value.cheapest == PRICE


@pytest.mark.parametrize("name", ["nothing", "linear@7"])
def test_infer__unknown_model__refused(stack: Stack, open_client: Callable[..., Client], name: str) -> None:
    with pytest.raises(ModelUnknown):
        open_client().infer(f"{stack.publisher}/{name}", ROWS)


def test_infer__many_threads_and_two_clients__one_gapless_channel(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    clients = [open_client(), open_client()]
    clients[0].infer(stack.model, ROWS, max_price=PRICE)

    def ask(i: int) -> int:
        return clients[i % 2].infer(stack.model, ROWS + i, max_price=PRICE).receipt.receipt.sequence

    with ThreadPoolExecutor(4) as pool:
        sequences = list(pool.map(ask, range(12)))
    assert sorted(sequences) == list(range(2, 14))
    assert clients[0].acknowledge() == []
    assert held_by(clients[0], stack, stack.nodes[0]) == (13 * PRICE, 13, 13)


def test_infer__state_lost__goes_on_from_the_signed_voucher(
    stack: Stack, open_client: Callable[..., Client], tmp_path: Path
) -> None:
    first = open_client()
    first.infer(stack.model, ROWS, max_price=PRICE)
    first.infer(stack.model, ROWS, max_price=PRICE)
    second = open_client(data=tmp_path / "other")
    result = second.infer(stack.model, ROWS, max_price=PRICE)
    assert result.receipt.receipt.sequence == 3
    assert state_of(second, stack, stack.nodes[0]).signed == 3 * PRICE


def test_infer__private__keeps_no_body_on_disk(
    stack: Stack, open_client: Callable[..., Client], tmp_path: Path
) -> None:
    marker = np.full((1, 4), 1234.5, np.float32)
    open_client().infer(stack.model, marker, max_price=PRICE, private=True)
    open_client().close()
    files = [path for path in (tmp_path / "client").rglob("*") if path.is_file()]
    assert files
    assert not any(marker.tobytes() in path.read_bytes() for path in files)


def test_infer__price_changes_on_the_chain__pays_the_new_one(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    cheap = stack.nodes[0]
    client = open_client()
    client.infer(stack.model, ROWS)
    try:
        for price in (PRICE + 7, PRICE - 7):
            stack.send(cheap.address, stack.registry.offer(stack.version_id, price))
            wait_until_noticed(cheap, price)
            result = client.infer(stack.model, ROWS, max_price=PRICE + 7)
            assert (result.node, result.price) == (cheap.address, price)
    finally:
        stack.send(cheap.address, stack.registry.offer(stack.version_id, PRICE))
        wait_until_noticed(cheap, PRICE)
    state = state_of(client, stack, cheap)
    assert (state.charged, state.count) == (3 * PRICE, 3)


def wait_until_noticed(node: RunningNode, price: int) -> None:
    for _ in range(100):
        (offer,) = httpx.get(f"{node.endpoint}/v1/node").json()["offers"]
        if offer["price"] == str(price):
            return
        time.sleep(0.1)
    raise AssertionError("the node never noticed the price")
