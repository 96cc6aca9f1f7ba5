from __future__ import annotations

import json

import numpy as np
import pytest

from scripts.benches.load.wire import InferRequest, answer_length, plain_request, receipt_of, status_of

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 10, len(HEAD) - 1])
def test_answer_length__head_not_whole__is_zero(cut: int) -> None:
    assert answer_length(HEAD[:cut]) == 0


@pytest.mark.parametrize("head", [HEAD, HEAD.upper(), HEAD.lower()])
def test_answer_length__head_in_any_case__is_head_and_body(head: bytes) -> None:
    assert answer_length(head + b"hel") == len(HEAD) + 5


def test_answer_length__chunked_answer__raises() -> None:
    with pytest.raises(ValueError, match="without Content-Length"):
        answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_status_of__answer__is_its_status() -> None:
    assert status_of(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") == 503


@pytest.mark.parametrize("as_text", [True, False])
def test_receipt_of__receipt_as_text_or_as_object__is_sequence_and_digest(as_text: bool) -> None:
    receipt = {"sequence": 417, "digest": "0x" + "ab" * 32}
    shown = json.dumps(receipt, separators=(",", ":")) if as_text else receipt
    answer = HEAD + json.dumps({"parameters": {"receipt": shown}}, separators=(",", ":")).encode()
    assert receipt_of(answer) == (417, b"\xab" * 32)


def test_receipt_of__answer_without_one__is_none() -> None:
    assert receipt_of(HEAD + b"{}") is None


def test_render__row__is_one_request_with_the_tensor_last() -> None:
    row = np.arange(4, dtype=np.float32).reshape(1, 4)
    lines, raw = InferRequest.of("/v2/models/m/versions/1", "x", row).render({"voucher_count": "3"})
    head, _, document = lines.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert head.startswith(b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\n")
    assert raw == row.tobytes()
    assert int(fields[b"inference-header-content-length"]) == len(document)
    assert int(fields[b"content-length"]) == len(document) + len(raw)
    assert json.loads(document) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
        ],
        "parameters": {"binary_data_output": True, "voucher_count": "3"},
    }


def test_plain_request__body__has_its_length() -> None:
    request = plain_request("/predict", b"abc", {"content-type": "application/json"})
    assert request.startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"\r\ncontent-length: 3\r\n" in request and request.endswith(b"\r\n\r\nabc")
