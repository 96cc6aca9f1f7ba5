"""Who holds places while payments are in work, and that nothing is left of one that fails or is cut short.

Gate, log, writer and engine are the node's own; facilitator and chain do as they are told.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from assay.commitments.authorizations import Authorization, TokenDomain, authorization_digest, payment_id
from assay.commitments.signing import SigningKey
from assay.commitments.tensors import commit_tensors
from assay.errors import RequestError, RetryableError
from assay.node.engines.engine import Job
from assay.node.engines.local_engine import LocalEngine
from assay.node.errors import RunFailed, Unavailable
from assay.node.observability.metrics import Metrics
from assay.node.oip.protocol import InferRequest
from assay.node.places import Places
from assay.node.receipts.entries import LoggedReceipt
from assay.node.receipts.writer import Writer
from assay.node.service import Admitted, Service
from assay.node.x402.collecting import Collector, Depth
from assay.node.x402.facilitator import FacilitatorClient, Settled, Verdict
from assay.node.x402.paying import Bought, Till
from assay.node.x402.payments import PaymentStore
from assay.node.x402.transfers import Transfer, Transfers
from assay.node.x402.wire import Payment, PaymentTerms
from assay.types import ZERO_ADDRESS, Hash32

from tests.backend.unit.node.payments.test_gate import DOMAIN, NODE, PRICE, SIGNER, VERSION, Desk
from tests.support.engines import engine_of
from tests.support.onnx_models import linear_model

pytestmark = pytest.mark.network  # an event loop needs a socket pair

TOKEN = TokenDomain("Token", "1", 31337, ZERO_ADDRESS)
TERMS = PaymentTerms(TOKEN, NODE, 120)
LIMIT = 8
ONE, TWO = "10.0.0.1", "10.0.0.2"
ROW = np.ones((1, 4), np.float32)
HASH = Hash32(b"\x05" * 32)


class Watched:
    """An engine, with those whose share of its queue each job took."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self.consumers: list[str] = []

    def submit(self, job: Job) -> None:
        self.consumers.append(job.consumer)
        self._engine.submit(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Market:
    """A till in front of a facilitator and a chain that move what they are asked to, once `verifying` and
    `settling` let them; `failing` raises at one of them."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder)
        self.moved: set[Authorization] = set()
        self.verifying, self.settling = asyncio.Event(), asyncio.Event()
        self.asking_wallets = threading.Event()
        for gate in (self.verifying, self.settling, self.asking_wallets):
            gate.set()
        self.failing: dict[str, Exception] = {}
        self.refusing = ""
        self.in_verify = 0
        self.wallets = self.desk.ledger.wallets

    async def verify(self, payment: Payment) -> Verdict:
        self.in_verify += 1
        await self.verifying.wait()
        self._fail("verify")
        return Verdict(not self.refusing, self.refusing)

    async def settle(self, payment: Payment) -> Settled:
        await self.settling.wait()
        self._fail("settle")
        self.moved.add(payment.authorization)
        return Settled(True, "0x" + HASH.hex())

    def find(self, given: Authorization, hint: Hash32 | None) -> Transfer | None:
        self._fail("find")
        return Transfer(HASH, 1) if given in self.moved else None

    def wallet_accepts(self, payer: str, digest: bytes, signature: bytes) -> bool:
        assert self.asking_wallets.wait(10)
        self._fail("wallet")
        return signature in self.wallets

    async def close(self) -> None: ...

    def _fail(self, where: str) -> None:
        if where in self.failing:
            raise self.failing[where]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Till]:
        desk = self.desk
        await desk.follower.poll()
        writer = Writer(desk.log, SIGNER, lambda error: None)
        writer.start()
        parts: dict[str, Any] = {"catalog": None, "pool": None, "metrics": Metrics(1.0), "max_elements": 99}
        service = Service(
            domain=DOMAIN,
            node=NODE,
            signer=SIGNER.address,
            follower=desk.follower,
            gate=desk.gate,
            log=desk.log,
            writer=writer,
            **parts,
        )
        store = PaymentStore(desk.log.database)
        collector = Collector(cast(FacilitatorClient, self), cast(Transfers, self), Depth(1, 1.0))
        ledger: Any = self
        self.till = Till(service, TERMS, collector, store, ledger=ledger, key=SIGNER, max_waiting=LIMIT)
        served: Any = SimpleNamespace(version_id=VERSION, exact=None)
        self.engine = Watched(engine_of(linear_model()))
        self.admitted = Admitted(served, cast(LocalEngine, self.engine), PRICE)
        try:
            yield self.till
        finally:
            self.asking_wallets.set()
            await writer.stop()
            store.close()
            desk.log.close()

    async def buy(self, payment: Payment, peer: str = ONE, row: Any = ROW) -> Bought:
        inputs, till = (row,), self.till
        input_hash = commit_tensors(inputs)
        known = await till.look_up(payment, VERSION, input_hash)
        return await till.buy(
            self.admitted, InferRequest(inputs), input_hash, payment, peer=peer, known=known
        )

    def start(self, payments: list[Payment], peer: str = ONE) -> list[asyncio.Task[str]]:
        """Each on its way, as a task that gives `sold`, `repeated` or the refusal's code."""
        return [asyncio.create_task(self.outcome(payment, peer)) for payment in payments]

    async def outcome(self, payment: Payment, peer: str = ONE, row: Any = ROW) -> str:
        try:
            return "repeated" if (await self.buy(payment, peer, row)).repeated else "sold"
        except RequestError as error:
            return error.code

    def check_empty(self) -> None:
        room = self.till.room
        assert room.hosts == room.agreed == room.payers == Places(LIMIT)
        assert not self.till._locks

    def receipts(self) -> int:
        return int(self.desk.log.database.connect().execute("SELECT count(*) FROM receipts").fetchone()[0])


def payment(key: SigningKey, nonce: int = 1, signature: bytes | None = None) -> Payment:
    until = int(time.time()) + 60
    given = Authorization(key.address, NODE, PRICE, 0, until, Hash32(nonce.to_bytes(32, "big")))
    return Payment(given, signature or key.sign(authorization_digest(TOKEN, given)))


def fresh(number: int) -> list[Payment]:
    """Of as many payers."""
    return [payment(SigningKey.generate()) for _ in range(number)]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - threads are waited for, too
            await asyncio.sleep(0.005)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Market], Awaitable[None]]], None]:
    def run(scenario: Callable[[Market], Awaitable[None]]) -> None:
        async def inside() -> None:
            market = Market(tmp_path)
            async with market.open():
                await scenario(market)
                market.check_empty()

        asyncio.run(inside())

    return run


Run = Callable[[Callable[[Market], Awaitable[None]]], None]


def test_buy__one_host_by_many_fresh_keys__leaves_places_to_another(run: Run) -> None:
    """Their signatures are good, which costs nothing; whether there is money is not known yet."""

    async def scenario(market: Market) -> None:
        market.verifying.clear()
        crowd = market.start(fresh(3 * LIMIT))
        await until(lambda: sum(task.done() for task in crowd) == 3 * LIMIT - LIMIT // 2)
        other = market.start(fresh(1), TWO)
        await until(lambda: market.in_verify == LIMIT // 2 + 1)
        assert market.till.room.payers.taken == 0
        market.verifying.set()
        assert await asyncio.gather(*other) == ["sold"]
        assert sorted(await asyncio.gather(*crowd)) == ["busy"] * 20 + ["sold"] * 4

    run(scenario)


def test_buy__one_payer_of_slow_payments__leaves_places_to_others_of_its_host(run: Run) -> None:
    async def scenario(market: Market) -> None:
        market.settling.clear()
        greedy = SigningKey.generate()
        many = [payment(greedy, nonce) for nonce in range(3 * LIMIT)]
        outcomes = []
        for first in range(0, len(many), LIMIT // 2):
            outcomes += market.start(many[first : first + LIMIT // 2])
            await until(lambda: market.till.room.payers.taken == LIMIT // 2)
            await until(lambda: market.till.room.hosts.taken == 0)
        modest = market.start(fresh(2))
        await until(lambda: market.till.room.payers.taken == LIMIT // 2 + 2)
        market.settling.set()
        assert await asyncio.gather(*modest) == ["sold"] * 2
        assert sorted(await asyncio.gather(*outcomes)) == ["busy"] * 20 + ["sold"] * 4
        assert [await market.outcome(one) for one in many[:2]] == ["repeated"] * 2

    run(scenario)


def test_buy__strangers_name_a_payer__take_none_of_its_places(run: Run) -> None:
    """A wallet might have signed them, so the chain is asked, for their host."""

    async def scenario(market: Market) -> None:
        victim, stranger = SigningKey.generate(), SigningKey.generate()
        market.asking_wallets.clear()
        signature = payment(stranger).signature
        forged = market.start([payment(victim, nonce, signature) for nonce in range(LIMIT)])
        await until(lambda: sum(task.done() for task in forged) == LIMIT // 2)
        assert (market.till.room.hosts.taken, market.till.room.payers.taken) == (LIMIT // 2, 0)
        own = market.start([payment(victim, nonce) for nonce in range(2)], TWO)
        await until(lambda: market.in_verify == 2)
        market.asking_wallets.set()
        assert sorted(await asyncio.gather(*forged)) == ["busy"] * 4 + ["payment_signature"] * 4
        assert await asyncio.gather(*own) == ["sold"] * 2

    run(scenario)


def test_buy__old_payment_sent_again__takes_nothing_of_its_payers(run: Run) -> None:
    """Its signature is on the chain for all to see; who knows the inputs as well may have them run again."""

    async def scenario(market: Market) -> None:
        key = SigningKey.generate()
        old = payment(key)
        assert await market.outcome(old) == "sold"
        till, name = market.till, payment_id(TOKEN, key.address, old.authorization.nonce)
        async with till._alone(name):
            again = [asyncio.create_task(market.outcome(old, TWO, ROW * 2)) for _ in range(LIMIT)]
            await until(lambda: sum(task.done() for task in again) == LIMIT // 2)
            again += market.start([old] * LIMIT, TWO)
            await until(lambda: till.room.agreed.taken == LIMIT // 2)
            assert (till.room.hosts.taken, till.room.payers.taken) == (LIMIT // 2, 0)
            own = [payment(key, nonce) for nonce in range(2, 2 + LIMIT // 2)]
            assert await asyncio.gather(*market.start(own[:2])) == ["sold"] * 2
            assert await asyncio.gather(*market.start(own[2:])) == ["sold"] * 2
        codes = Counter(await asyncio.gather(*again))
        assert codes == {"payment_used": LIMIT // 2, "repeated": LIMIT // 2, "busy": LIMIT}
        assert await market.outcome(old) == "repeated"
        assert (market.engine.consumers[0], market.engine.consumers[-1]) == (key.address, "ip:" + ONE)

    run(scenario)


def test_buy__what_was_paid__is_given_while_its_host_or_its_payer_is_full(run: Run) -> None:
    async def scenario(market: Market) -> None:
        key = SigningKey.generate()
        paid, lost, late = payment(key), payment(key, 2), payment(key, 3)
        assert await market.outcome(paid) == "sold"
        market.failing["find"] = RetryableError("down")
        assert [await market.outcome(one) for one in (lost, late)] == ["payment_pending"] * 2
        assert {lost.authorization, late.authorization} < market.moved
        market.failing.clear()

        market.verifying.clear()
        strangers = market.start(fresh(LIMIT))  # of the same host
        await until(lambda: market.in_verify == LIMIT // 2 + 3)
        assert await market.outcome(payment(key, 4)) == "busy"
        assert [await market.outcome(one) for one in (paid, lost)] == ["repeated", "sold"]
        market.verifying.set()
        await asyncio.gather(*strangers)

        market.settling.clear()
        own = market.start([payment(key, nonce) for nonce in range(10, 10 + LIMIT // 2)], TWO)
        await until(lambda: market.till.room.payers.taken == LIMIT // 2)
        assert await market.outcome(payment(key, 4)) == "busy"
        assert [await market.outcome(one) for one in (paid, late)] == ["repeated", "sold"]
        market.settling.set()
        assert await asyncio.gather(*own) == ["sold"] * len(own)

    run(scenario)


FAILURES: dict[str, tuple[Exception, str]] = {
    "wallet": (RetryableError("down"), "payment_pending"),
    "verify": (Unavailable("down", code="payment_unavailable"), "payment_unavailable"),
    "settle": (Unavailable("down", code="payment_unavailable"), "payment_unavailable"),
    "find": (RetryableError("down"), "payment_pending"),
}


@pytest.mark.parametrize("where", FAILURES)
def test_buy__fails_anywhere__gives_its_place_back_and_is_sold_later(run: Run, where: str) -> None:
    async def scenario(market: Market) -> None:
        wallet = payment(SigningKey.generate(), signature=b"\x07" * 65)
        market.wallets.add(wallet.signature)
        error, code = FAILURES[where]
        market.failing[where] = error
        for _ in range(2):
            assert await market.outcome(wallet) == code
            market.check_empty()
        market.failing.clear()
        with pytest.raises(RunFailed):
            await market.buy(wallet, row=np.ones((1, 5), np.float32))
        market.check_empty()
        market.refusing = "insufficient_funds"
        assert await market.outcome(payment(SigningKey.generate())) == "payment_invalid"
        market.refusing = ""
        assert await market.outcome(wallet) == "sold"

    run(scenario)


class CutShort:
    """Work that is cancelled where it waits for the `number`-th time."""

    def __init__(self, work: Coroutine[Any, Any, Bought], number: int) -> None:
        self._work, self._number = work, number

    def __await__(self) -> Generator[Any, None, Bought]:
        try:
            for waits in itertools.count(1):
                waited = self._work.send(None)
                if waits == self._number:
                    waited = self._work.throw(asyncio.CancelledError())
                yield waited
        except StopIteration as done:
            return cast(Bought, done.value)
        raise AssertionError


@pytest.mark.parametrize("kind", ["account", "wallet", "repeated", "waiting"])
def test_buy__cut_short_wherever_it_waits__leaves_nothing_and_is_sold_once(run: Run, kind: str) -> None:
    async def scenario(market: Market) -> None:
        number = receipts = 0
        while True:
            number += 1
            key = SigningKey.generate()
            given = payment(key, signature=number.to_bytes(65, "big") if kind == "wallet" else None)
            market.wallets.add(given.signature)
            first = []
            if kind == "repeated":
                await market.buy(given)
            elif kind == "waiting":  # for the same payment, which is being settled
                market.settling.clear()
                first = market.start([given])
                await until(lambda: market.till.room.payers.taken == 1)
                asyncio.get_running_loop().call_later(0.02, market.settling.set)
            try:
                await CutShort(market.buy(given), number)
                is_whole = True
            except asyncio.CancelledError:
                is_whole = False
            await asyncio.gather(*first)
            market.check_empty()
            assert (await market.buy(given)).row.payment
            receipts += 1
            assert market.receipts() == receipts
            assert given.authorization in market.moved
            if is_whole:
                break
        assert number > 3

    run(scenario)


def test_buy__log_is_shared__is_not_waited_for_in_the_event_loop(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs would stop all other requests with it."""

    async def scenario(market: Market) -> None:
        log, threads = market.desk.log, set()
        monkeypatch.setattr(type(log), "is_shared", True)
        read = log.receipt_paid_by

        def watched(digest: bytes) -> LoggedReceipt | None:
            threads.add(threading.current_thread())
            return read(digest)

        monkeypatch.setattr(log, "receipt_paid_by", watched)
        given = payment(SigningKey.generate())
        assert [await market.outcome(given) for _ in range(2)] == ["sold", "repeated"]
        assert threads
        assert threading.current_thread() not in threads

    run(scenario)
