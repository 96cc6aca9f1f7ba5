from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from assay.node.grpc.messages import load_messages

from scripts.benches.load.grpc import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    GrpcStream,
    frame,
    grpc_request,
)
from scripts.benches.peers.protobuf import infer_message, raw_output

ANSWER = b"\0\0\0\0\3abc"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(2)
    with ours, theirs:
        yield ours, theirs


pytestmark = pytest.mark.network


def test_receive__answer_in_pieces__is_whole_at_the_trailers(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    stream = GrpcStream()
    stream.request(*grpc_request("/s/m", b"x"))
    data = frame(HEADERS, 4, 1, b"\x88") + frame(DATA, 0, 1, ANSWER) + frame(HEADERS, 5, 1, b"\x80")
    pieces = [stream.receive(pair[0], data[i : i + 1]) for i in range(len(data))]
    assert pieces == [None] * (len(data) - 1) + [ANSWER]


@pytest.mark.parametrize("end", [frame(HEADERS, 5, 1, b"\x80"), frame(RESET, 0, 1, bytes(4))])
def test_receive__call_that_failed__is_empty(pair: tuple[socket.socket, socket.socket], end: bytes) -> None:
    stream = GrpcStream()
    assert stream.receive(pair[0], end) == b""


def test_receive__settings_and_ping__are_acknowledged(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    stream = GrpcStream()
    assert (
        stream.receive(ours, frame(SETTINGS, 0, 0, b"\0\4\0\0\1\0") + frame(PING, 0, 0, b"12345678")) is None
    )
    wanted = frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"12345678")
    assert theirs.recv(100) == wanted
    assert stream.receive(ours, wanted) is None  # theirs of ours: no answer to an answer


def test_request__window_used_up__holds_the_data_until_there_is_room(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    stream = GrpcStream()
    block, message = grpc_request("/s/m", bytes(WINDOW // 2))
    assert stream.request(block, message).endswith(message)
    assert stream.request(block, message)[9:] == block  # the headers alone
    assert stream.receive(ours, frame(WINDOW_UPDATE, 0, 1, (1 << 16).to_bytes(4, "big"))) is None
    assert stream.held  # that was the stream's window, not the connection's
    stream.receive(ours, frame(WINDOW_UPDATE, 0, 0, (1 << 16).to_bytes(4, "big")))
    assert theirs.recv(1 << 17) == frame(DATA, END_STREAM, 3, message)
    assert stream.window == WINDOW + (1 << 16) - 2 * len(message)


def test_receive__server_ends_the_connection__raises(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ConnectionError, match="too many pings"):
        GrpcStream().receive(pair[0], frame(GOAWAY, 0, 0, bytes(8) + b"too many pings"))


def test_infer_message__request__is_read_by_the_nodes_messages() -> None:
    row = np.arange(300, dtype=np.float32).reshape(1, 300)
    request = load_messages().ModelInferRequest.FromString(infer_message("mlp", "x", row))
    assert request.model_name == "mlp"
    assert (request.inputs[0].name, request.inputs[0].datatype) == ("x", "FP32")
    assert list(request.inputs[0].shape) == [1, 300]
    assert request.raw_input_contents[0] == row.tobytes()


def test_raw_output__response_of_the_nodes_messages__is_its_first_output() -> None:
    row = np.arange(10, dtype=np.float32)
    response = load_messages().ModelInferResponse(
        model_name="mlp", id="7", raw_output_contents=[row.tobytes(), b"1234"]
    )
    message = response.SerializeToString()
    np.testing.assert_array_equal(raw_output(b"\0" + len(message).to_bytes(4, "big") + message), row)


def test_raw_output__response_without_raw_outputs__raises() -> None:
    with pytest.raises(ValueError, match="without raw outputs"):
        raw_output(b"\0\0\0\0\2\x0a\0")
