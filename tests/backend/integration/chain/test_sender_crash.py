"""`kill -9` of a sending process at every step boundary: the next one finishes, nothing goes out twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from assay.chain.keys import create_keystore

from tests.backend.integration.chain.conftest import World
from tests.backend.integration.chain.sending_process import run
from tests.support.forking import run_forked

STEPS = ("prepared", "persisted", "broadcast", "mined", "recorded")


def run_sender(world: World, folder: Path, die_at: str) -> int:
    status, said = run_forked(
        run, world.chain.url, str(world.folder), str(folder / "key.json"), str(folder), die_at, 7
    )
    assert status in (0, -signal.SIGKILL), said
    return status


@pytest.mark.parametrize("step", STEPS)
def test_send__killed_at_step__next_process_sends_exactly_once(
    world: World, tmp_path: Path, step: str
) -> None:
    key = create_keystore(tmp_path / "key.json", "test", scrypt_n=1 << 10)
    world.chain.set_balance(key.address, 10**18)
    assert run_sender(world, tmp_path, step) == -signal.SIGKILL
    assert run_sender(world, tmp_path, "never") == 0
    assert run_sender(world, tmp_path, "never") == 0
    assert world.token.balance_of(key.address) == 7
    assert world.client.get_transaction_count(key.address) == 1
