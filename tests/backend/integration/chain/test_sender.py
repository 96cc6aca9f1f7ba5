"""The sender on a real chain: idempotency, bumps, gaps, reorgs, foreign transactions, reverts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from assay.chain.outbox import Intent, Outbox
from assay.chain.sender import Sender, SenderOptions
from assay.commitments.signing import SigningKey
from assay.errors import ConfigurationError, ContractRevert, FatalError, RetryableError
from assay.types import Hash32

from tests.backend.integration.chain.conftest import World


@dataclass
class Clock:
    """Time that only moves when somebody sleeps; `on_sleep` plays the miner."""

    now: float = 1_000.0
    on_sleep: Callable[[], None] = lambda: None
    steps: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)
        self.on_sleep()

    def note(self, step: str, intent: Intent) -> None:
        self.steps.append(step)


OPTIONS = SenderOptions(timeout=200, bump_after=10, displacement_seconds=5)


@pytest.fixture
def key(world: World) -> SigningKey:
    key = SigningKey.generate()
    world.chain.set_balance(key.address, 10**18)
    return key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite3") as outbox:
        yield outbox


@pytest.fixture
def sender(world: World, key: SigningKey, outbox: Outbox, clock: Clock) -> Iterator[Sender]:
    with Sender(
        world.client, key, outbox, OPTIONS, on_step=clock.note, clock=clock, sleep=clock.sleep
    ) as sender:
        yield sender


def test_send__same_key_again__first_receipt_and_nothing_sent(world: World, sender: Sender) -> None:
    first = sender.send(world.token.mint(sender.address, 5), key="once")
    again = sender.send(world.token.mint(sender.address, 6), key="once")
    assert again.transaction_hash == first.transaction_hash
    assert world.token.balance_of(sender.address) == 5


def test_send__would_revert__reason_and_nonce_not_used(world: World, sender: Sender, outbox: Outbox) -> None:
    with pytest.raises(ContractRevert) as caught:
        sender.send(world.models.accept_model(Hash32(bytes(32))))
    assert caught.value.contract == "models"
    assert outbox.next_nonce(world.chain.chain_id, sender.address) == 0


def test_wait__mined_but_reverted__reason_of_the_simulation(
    world: World, sender: Sender, clock: Clock
) -> None:
    call = world.models.register_model("same", "")
    world.chain.set_automine(False)
    world.chain.request("anvil_impersonateAccount", sender.address)
    world.chain.request(
        "eth_sendTransaction", {"from": sender.address, "to": call.to, "data": "0x" + call.data.hex()}
    )
    intent = sender.submit(call, key="twice")  # fine as of the latest block, not after the pending one
    clock.on_sleep = world.chain.mine
    for _ in range(2):
        with pytest.raises(ContractRevert, match="already registered") as caught:
            sender.wait(intent)
        assert caught.value.contract == "models"
    with pytest.raises(ContractRevert):
        sender.send(call, key="twice")
    assert world.client.get_transaction_count(sender.address) == 2


def test_wait__stuck_fee__replaced_on_the_same_nonce(
    world: World, sender: Sender, clock: Clock, outbox: Outbox
) -> None:
    world.chain.set_automine(False)
    intent = sender.submit(world.token.mint(sender.address, 5))

    def mine_after_two_bumps() -> None:
        if clock.steps.count("bumped") == 2:
            world.chain.mine()

    clock.on_sleep = mine_after_two_bumps
    sender.wait(intent)
    attempts = outbox.get(intent.id).attempts
    assert len(attempts) == 3
    for old, new in itertools.pairwise(attempts):
        assert old.fees.priority_fee is not None and new.fees.priority_fee is not None
        assert new.fees.max_fee * 10 >= old.fees.max_fee * 11
        assert new.fees.priority_fee * 10 >= old.fees.priority_fee * 11
    assert world.client.get_transaction_count(sender.address) == 1
    assert world.token.balance_of(sender.address) == 5


def test_wait__never_mined__retryable_and_kept(world: World, sender: Sender, outbox: Outbox) -> None:
    world.chain.set_automine(False)
    with pytest.raises(RetryableError, match="resume"):
        sender.send(world.token.mint(sender.address, 5), timeout=3)
    assert len(outbox.pending(world.chain.chain_id, sender.address)) == 1
    world.chain.set_automine(True)
    world.chain.mine()
    assert [receipt.status for receipt in sender.resume()] == [1]


def test_wait__pool_lost_the_transaction__stored_bytes_sent_again(
    world: World, sender: Sender, clock: Clock, outbox: Outbox
) -> None:
    world.chain.set_automine(False)
    intents = [sender.submit(world.token.mint(sender.address, 1)) for _ in range(3)]
    world.chain.request("anvil_dropTransaction", "0x" + intents[0].newest.hash.hex())
    clock.on_sleep = world.chain.mine
    for intent in intents:
        sender.wait(intent)
    assert world.token.balance_of(sender.address) == 3
    assert len(outbox.get(intents[0].id).attempts) == 1


def test_resume__reorg_dropped_what_was_mined__sent_again(world: World, sender: Sender) -> None:
    for number in range(3):
        sender.send(world.token.mint(sender.address, 1), key=str(number))
    world.chain.reorg(2)
    assert world.client.get_transaction_count(sender.address) == 1
    sender.resume()
    assert world.token.balance_of(sender.address) == 3
    sender.send(world.token.mint(sender.address, 1), key="2")
    assert world.token.balance_of(sender.address) == 3


def test_wait__nonce_used_by_foreign_program__new_nonce_after_a_while(
    world: World, sender: Sender, clock: Clock, key: SigningKey, tmp_path: Path
) -> None:
    world.chain.set_automine(False)
    intent = sender.submit(world.token.mint(sender.address, 5))
    world.chain.request("anvil_dropTransaction", "0x" + intent.newest.hash.hex())
    with (
        Outbox(tmp_path / "foreign.sqlite3") as other,
        Sender(world.client, key, other, SenderOptions(timeout=5)) as foreign,
    ):
        rival = foreign.submit(world.token.mint(sender.address, 100))
        world.chain.set_automine(True)
        world.chain.mine()
        foreign.wait(rival)
    receipt = sender.wait(intent)
    assert clock.steps.count("renumbered") == 1
    assert receipt.status == 1 and world.token.balance_of(sender.address) == 105


def test_wait__confirmations__waits_for_depth(world: World, sender: Sender, clock: Clock) -> None:
    mined: list[int] = []

    def mine() -> None:
        world.chain.mine()
        mined.append(1)

    clock.on_sleep = mine
    receipt = sender.send(world.token.mint(sender.address, 5), confirmations=4)
    assert world.client.block_number() - receipt.block_number + 1 >= 4
    assert len(mined) == 3


def test_submit__no_base_fee__legacy_transaction(
    world: World, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = world.client.batch

    def without_base_fee(calls: list[Any], **options: Any) -> list[Any]:
        answers = honest(calls, **options)
        return [
            {k: v for k, v in a.items() if k != "baseFeePerGas"}
            if isinstance(a, dict) and "miner" in a
            else a
            for a in answers
        ]

    monkeypatch.setattr(world.client, "batch", without_base_fee)
    receipt = sender.send(world.token.mint(sender.address, 5))
    found = world.chain.request("eth_getTransactionByHash", "0x" + receipt.transaction_hash.hex())
    assert found["type"] == "0x0"


def test_submit__cannot_pay__told_and_continued_when_funded(world: World, outbox: Outbox) -> None:
    poor = SigningKey.generate()
    with Sender(world.client, poor, outbox, OPTIONS) as sender:
        with pytest.raises((FatalError, ContractRevert)):
            sender.send(world.token.mint(poor.address, 5), key="mint")
        world.chain.set_balance(poor.address, 10**18)
        sender.send(world.token.mint(poor.address, 5), key="mint")
    assert world.token.balance_of(poor.address) == 5


def test_sender__second_with_the_same_key__refused(world: World, sender: Sender, key: SigningKey) -> None:
    with pytest.raises(ConfigurationError, match="already sends"):
        Sender(world.client, key, sender.outbox)
