"""Evidence of an answer that did not check: one JSON file with the request, the reply and the reason, kept
for ever.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import orjson

from assay.client.wire import MAX_JSON_BYTES
from assay.types import Address, Hash32


def keep_evidence(
    folder: Path,
    *,
    node: Address,
    version_id: Hash32,
    step: str,
    reason: str,
    request: bytes | None,
    reply: bytes,
    reply_json_length: int | None,
) -> Path:
    """Write the file durably and return its path. `request` is None for a private request: its input is not
    kept.
    """
    document: dict[str, Any] = {
        "kept_at": int(time.time()),
        "node": node,
        "version_id": "0x" + version_id.hex(),
        "step": step,
        "reason": reason,
        "request_base64": None if request is None else base64.b64encode(request).decode(),
        "reply_base64": None if request is None else base64.b64encode(reply).decode(),
        "reply_header": _header(reply, reply_json_length),
    }
    path = folder / f"{time.time_ns()}-{node[2:10].lower()}-{step or 'reply'}.json"
    with path.open("x", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    return path


def _header(reply: bytes, json_length: int | None) -> Any:
    """The reply's parameters (they hold the signed receipt), without tensors; None if they cannot be read."""
    head = reply[:json_length]
    if len(head) > MAX_JSON_BYTES:
        return None
    try:
        header = orjson.loads(head)
        return {"parameters": header["parameters"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
