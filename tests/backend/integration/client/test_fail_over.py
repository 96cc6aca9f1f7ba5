"""Nodes that die, hang and come back: nobody is paid twice, nothing that was paid for is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from assay.client import Client, NodeUnreachable

from tests.backend.integration.client.test_infer import ROWS, held_by, state_of
from tests.support.stack import PRICE, Stack


@pytest.fixture(autouse=True)
def both_run(stack: Stack) -> Iterator[None]:
    yield
    for node in stack.nodes:
        if node.process is None:
            node.start()
        node.resume()


def test_infer__node_killed__another_answers_and_the_first_resumes(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    cheap, dear = stack.nodes
    client = open_client()
    assert client.infer(stack.model, ROWS).node == cheap.address
    cheap.kill()
    result = client.infer(stack.model, ROWS)
    assert result.node == dear.address
    assert isinstance(result.attempts[0], NodeUnreachable)
    assert client.infer(stack.model, ROWS).attempts == ()  # it is known to be down

    cheap.start()
    client.health.note(cheap.address, 1.0)
    again = client.infer(stack.model, ROWS)
    assert (again.node, again.receipt.receipt.sequence) == (cheap.address, 2)
    assert client.acknowledge() == []
    assert held_by(client, stack, cheap) == (2 * PRICE, 2, 2)
    assert held_by(client, stack, dear) == (4 * PRICE, 2, 2)


def test_infer__node_hangs_and_serves_late__the_late_answer_is_recovered_and_paid_once(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    cheap, dear = stack.nodes
    client = open_client(timeout=1.0)
    client.infer(stack.model, ROWS)
    cheap.pause()
    result = client.infer(stack.model, ROWS + 1)
    assert result.node == dear.address
    assert state_of(client, stack, cheap).outstanding == PRICE

    cheap.resume()
    client.health.note(cheap.address, 1.0)
    result = client.infer(stack.model, ROWS + 2)
    assert (result.node, result.is_recovered) == (cheap.address, False)
    state = state_of(client, stack, cheap)
    assert client.acknowledge() == []
    amount, count, sequence = held_by(client, stack, cheap)
    assert (amount, count, sequence) == (sequence * PRICE, sequence, sequence)
    assert (state.signed, state.count) == (amount, count)
    assert sequence in (2, 3)  # 2: the late request reached no node; 3: it did, and its receipt was fetched


def test_infer__answer_lost_and_asked_again__recovered_without_paying(
    stack: Stack, open_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = stack.nodes[0]
    client = open_client(max_nodes=1)
    client.infer(stack.model, ROWS)
    send = client.http.infer

    def lose(*args: object) -> object:
        send(*args)  # type: ignore[arg-type]
        raise NodeUnreachable("the answer was lost", sent=True)

    monkeypatch.setattr(client.http, "infer", lose)
    with pytest.raises(NodeUnreachable):
        client.infer(stack.model, ROWS + 1)
    monkeypatch.undo()
    client.health.note(cheap.address, 1.0)
    result = client.infer(stack.model, ROWS + 1)
    assert result.is_recovered
    assert np.array_equal(result.outputs["y"], client.infer(stack.model, ROWS + 1).outputs["y"])
    assert held_by(client, stack, cheap)[0] == 3 * PRICE


def test_close__answer_lost__is_left_to_whoever_asks_again(
    stack: Stack, open_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = stack.nodes[0]
    client = open_client(max_nodes=1)
    client.infer(stack.model, ROWS)
    send = client.http.infer

    def stop(*args: object) -> object:
        send(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(client.http, "infer", stop)
    with pytest.raises(KeyboardInterrupt):
        client.infer(stack.model, ROWS + 1)
    monkeypatch.undo()
    assert client.acknowledge() == []  # as `close` does
    again = open_client()
    assert held_by(again, stack, cheap) == (2 * PRICE, 1, 2)
    result = again.infer(stack.model, ROWS + 1)
    assert (result.node, result.is_recovered) == (cheap.address, True)
    assert again.acknowledge() == []
    assert held_by(again, stack, cheap) == (2 * PRICE, 2, 2)


def test_infer__node_restarted_between_requests__sequence_goes_on(
    stack: Stack, open_client: Callable[..., Client]
) -> None:
    cheap = stack.nodes[0]
    client = open_client()
    client.infer(stack.model, ROWS)
    cheap.kill()
    cheap.start()
    result = client.infer(stack.model, ROWS)
    assert (result.node, result.receipt.receipt.sequence, result.attempts) == (cheap.address, 2, ())
