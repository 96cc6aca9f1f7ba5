"""`assay node status --watch`: how a node stands, drawn anew every few seconds until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from assay.cli.output import console
from assay.errors import RetryableError
from assay.node.engines.batching import Batching
from assay.node.observability.live import Live, Series, compare

Status = dict[str, Any]


def watch(
    fetch: Callable[[], Status], scrape: Callable[[], Series | None], interval: float, *, as_json: bool
) -> None:
    """Until Ctrl-C. With `as_json` one JSON line every `interval` seconds, `live` null while no node runs."""
    state: tuple[float, Series] | None = None
    screen = Screen(console=console(), auto_refresh=False, screen=False)
    with contextlib.nullcontext() if as_json else screen:
        while True:
            started = time.monotonic()
            status, problem = _try(fetch)
            found = scrape()
            live = compare(state[1], found, started - state[0]) if state and found else None
            state = (started, found) if found else None
            if as_json:
                click.echo(
                    json.dumps({"status": status, "problem": problem, "live": live and live.to_json()})
                )
            else:
                screen.update(render(status, problem, live), refresh=True)
            time.sleep(max(interval - (time.monotonic() - started), 0.1))


def _try(fetch: Callable[[], Status]) -> tuple[Status | None, str | None]:
    """A chain that cannot be read just now is shown, and asked again."""
    try:
        return fetch(), None
    except RetryableError as error:
        return None, str(error)


def render(status: Status | None, problem: str | None, live: Live | None) -> RenderableType:
    parts: list[RenderableType] = [_head(status, problem, live)]
    if live is not None:
        parts += [_requests(live), _models(live)]
    if status is not None:
        versions = [row | {"model": short_name(row["model"])} for row in status["versions"]]
        parts += [versions_table(versions)] if versions else []
        parts.append(_money(status))
    return Group(*parts)


def _head(status: Status | None, problem: str | None, live: Live | None) -> Text:
    if status is None:
        return Text(f"the chain cannot be read: {problem}", "red")
    good = status["ready"] and status["staked"] and status["funded"] and not status["disputes"]
    words = [
        f"Node {status['node']}",
        "ready" if status["ready"] else "running, not ready" if live or status["running"] else "not running",
        f"block {status['block']} ({status['block_age_seconds']} s ago)",
    ]
    words += role(status["settles"] if live is None or live.settles is None else live.settles)
    words += [] if status["staked"] else ["STAKE BELOW MINIMUM"]
    words += [] if status["funded"] else ["SIGNER NEEDS GAS"]
    words += [f"{len(status['disputes'])} DISPUTES"] if status["disputes"] else []
    return Text(" · ".join(words), "bold green" if good else "bold red")


def short_name(model: str) -> str:
    """The publisher's address cut, for a line of a terminal's width."""
    publisher, slash, name = model.partition("/")
    return f"{publisher[:6]}…{publisher[-4:]}/{name}" if slash and len(publisher) > 12 else model


def role(settles: bool | None) -> list[str]:
    """What this process is among those that share a log."""
    return [] if settles is None else ["settles" if settles else "stands by: another process settles"]


def versions_table(versions: list[dict[str, Any]]) -> Table:
    """Each version that the node knows: what state it is in, what it batches, who runs it, and why."""
    table = _table("version", "state", "batches", "executor")
    for column in table.columns[1:]:
        column.justify = "left"
    for row in versions:
        state = row["state"].lower() + (f": {row['problem']}" if row["problem"] else "")
        table.add_row(Text(row["model"]), Text(state), Text(_batching(row)), Text(_executor(row)))
    return table


def _batching(row: dict[str, Any]) -> str:
    found = row["batching"]
    return "" if found is None else str(Batching(**found))


def _executor(row: dict[str, Any]) -> str:
    found = row["executor"]
    if found is None:
        return "this process"
    failed = sum(found["failures"].values())
    words = [found["url"], "up" if found["up"] else "DOWN"]
    words += [f"p99 {seconds(found['p99_seconds'])}"] if found["p99_seconds"] is not None else []
    return ", ".join(words + ([f"{failed} failures"] if failed else []))


def _table(*columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, title_justify="left", expand=False)
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if i == 0 else "right")
    return table


def _requests(live: Live) -> Table:
    table = _table(
        "requests", "answers/s", "refusals/s", "in progress", "p50", "p99", *live.stages, "log queue"
    )
    table.add_row(
        "",
        f"{live.answers:,.0f}",
        f"{live.refusals:,.1f}",
        str(live.in_progress),
        seconds(live.p50),
        seconds(live.p99),
        *(seconds(value) for value in live.stages.values()),
        str(live.log_queue),
    )
    for code, rate in sorted(live.codes.items(), key=lambda item: -item[1]):
        table.add_row(code, "", f"{rate:,.1f}", "", "", "", *("" for _ in live.stages), "")
    return table


def _models(live: Live) -> Table:
    table = _table("model", "rows a run", "at most", "run p99", "waiting", "memory", "executor")
    for model in live.models:
        table.add_row(
            Text(short_name(model.name)),
            "" if model.rows is None else f"{model.rows:.1f}",
            "" if model.batch_limit is None else str(model.batch_limit),
            seconds(model.run_p99),
            str(model.waiting),
            f"{model.memory / (1 << 20):,.1f} MiB",
            {None: "", True: f"up {seconds(model.executor_p99)}", False: "DOWN"}[model.executor_up],
        )
    return table


def _money(status: Status) -> Table:
    table = _table("settlement", "")
    batches = ", ".join(f"{count} {state}" for state, count in sorted((status["batches"] or {}).items()))
    rows = {
        "receipts": f"{status['receipts']}, {status['open_receipts']} not in a batch yet",
        "batches": batches or "none",
        "owed and not settled": status["unsettled"],
        "in dispute windows": status["pending"],
        "to collect": f"{status['collectable']} in {status['collectable_batches']} batches",
        "to claim": status["claimable"],
        "stake": f"{status['stake']} of {status['min_stake']} needed",
        "gas money": f"{int(status['signer_wei']) / 1e18:.4f} ether",
    }
    rows |= {key.replace("_", " "): _plain(status[key]) for key in ("next_batch", "profit") if key in status}
    for dispute in status["disputes"]:
        rows[f"dispute {dispute.get('dispute_id')}"] = _plain(dispute)
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


def seconds(value: float | None) -> str:
    """A time as people read it."""
    if value is None:
        return ""
    if value >= 60:
        return str(timedelta(seconds=round(value)))
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"
