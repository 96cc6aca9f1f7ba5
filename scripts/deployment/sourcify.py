"""Source verification on Sourcify (API v2, https://docs.sourcify.dev); a failure is told, never fatal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 120.0


def verify(
    server: str,
    home: Path,
    name: str,
    chain_id: int,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Submit one contract of the folder `home` and wait; answers what happened in a few words."""
    record = json.loads((home / f"{name}.json").read_text())
    if not record.get("input"):
        return "skipped: not deployed by this project"
    body = {
        "stdJsonInput": json.loads((home / record["input"]).read_text()),
        "compilerVersion": record["compiler"].removeprefix("vyper "),
        "contractIdentifier": record["identifier"],
        "creationTransactionHash": record["transaction"],
    }
    try:
        with httpx.Client(base_url=server.rstrip("/"), timeout=30.0) as http:
            reply = http.post(f"/v2/verify/{chain_id}/{record['address']}", json=body)
            answer = _object(reply)
            if reply.status_code == 409:
                return "verified before"
            if reply.status_code != 202 or "verificationId" not in answer:
                return (
                    f"failed: {server} answered HTTP {reply.status_code} {answer.get('message', '')}".strip()
                )
            return _await(http, str(answer["verificationId"]), sleep)
    except httpx.HTTPError as error:
        return f"failed: {server} cannot be reached ({type(error).__name__}); run again with --verify later"


def _await(http: httpx.Client, job: str, sleep: Callable[[float], None]) -> str:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        answer = _object(http.get(f"/v2/verify/{job}"))
        if answer.get("isJobCompleted"):
            match = (answer.get("contract") or {}).get("match")
            return f"verified: {match}" if match else f"failed: {(answer.get('error') or {}).get('message')}"
        sleep(POLL_SECONDS)
    return f"pending: job {job} was not done in {TIMEOUT_SECONDS:.0f} s"


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        answer = reply.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
