"""One request paid by x402: checked, run, settled, then signed (SPEC.md §12).

verify → run → note → settle → see it on the chain → sign and store → answer. Nothing is signed that is not
paid; whatever is paid and not yet signed (a crash, a lost answer) is signed when the request comes again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from time import time
from typing import Final

from assay.commitments.authorizations import (
    authorization_digest,
    payment_id,
)
from assay.commitments.signing import SigningKey, recover
from assay.errors import RetryableError, VerificationError
from assay.node.engines.engine import Result, run_job
from assay.node.errors import InputError, PaymentConflict, PaymentError, Unavailable
from assay.node.oip import protocol as oip
from assay.node.oip.protocol import Array
from assay.node.payments.ledger import Ledger
from assay.node.receipts.database import IntegrityError
from assay.node.receipts.entries import ChannelKey, Issue, LoggedReceipt
from assay.node.service import Admitted, Service, check_repeated, receipt_content, wants_public
from assay.node.x402.collecting import Collector, pending
from assay.node.x402.payments import PaymentRow, PaymentStore
from assay.node.x402.stating import sign_statement
from assay.node.x402.transfers import Transfer
from assay.node.x402.waiting import Place, WaitingRoom
from assay.node.x402.wire import Payment, PaymentTerms
from assay.types import Hash32

GRACE_SECONDS: Final = 60
"""How long after its end an authorization may still be in a block that this node has not seen."""
MAX_VALID_SECONDS: Final = 86_400
"""An authorization that was noted and never settled is remembered until its end."""


class Known(StrEnum):
    """What the log says of a payment when its request comes: `new`: nothing of this request; `agreed`: it was
    noted for this very request, or has bought its receipt; `spent`: it has bought another's. What is not new
    keeps the price of its day, whatever the version costs now."""

    NEW = "new"
    AGREED = "agreed"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for and what pays for it."""

    admitted: Admitted
    request: oip.InferRequest
    input_hash: Hash32
    payment: Payment
    name: Hash32
    place: Place

    @property
    def version_id(self) -> Hash32:
        return self.admitted.served.version_id

    def row(self) -> PaymentRow:
        """What is noted of it before it is settled."""
        return PaymentRow(
            self.name,
            self.payment.identifier,
            self.version_id,
            self.input_hash,
            self.payment.authorization.value,
            self.payment.authorization,
        )


@dataclass(frozen=True, slots=True)
class Bought:
    """All outputs in signature order, the durable receipt, and what paid for it."""

    outputs: tuple[Array, ...]
    receipt: LoggedReceipt
    row: PaymentRow
    repeated: bool = False


class Till:
    """Belongs to the server's event loop."""

    def __init__(
        self,
        service: Service,
        terms: PaymentTerms,
        collector: Collector,
        store: PaymentStore,
        *,
        ledger: Ledger,
        key: SigningKey,
        max_waiting: int,
        clock: Callable[[], float] = time,
    ) -> None:
        self._service = service
        self._terms = terms
        self._collector = collector
        self._store = store
        self._ledger = ledger
        self._key = key
        self._clock = clock
        self.room = WaitingRoom(max_waiting)
        self._locks: dict[object, tuple[asyncio.Lock, int]] = {}

    async def buy(
        self,
        admitted: Admitted,
        request: oip.InferRequest,
        input_hash: Hash32,
        payment: Payment,
        *,
        peer: str,
        known: Known,
    ) -> Bought:
        """A request from remote host `peer`; `known` as `look_up` said.

        Raises RequestError of every kind; whatever it raises, what was paid is good for a repetition."""
        if any(field.startswith("voucher_") for field in request.parameters):
            raise InputError("send a voucher or PAYMENT-SIGNATURE, not both", code="input_payment")
        given = payment.authorization
        name = payment_id(self._terms.domain, given.payer, given.nonce)
        identified = (given.payer, payment.identifier) if payment.identifier else None
        is_agreed = known is Known.AGREED and self.is_by_account(payment)
        with self.room.place(peer, given.payer, is_agreed=is_agreed) as place:
            if not is_agreed:
                await self._check_signature(payment)
            if known is Known.NEW:
                place.check()
            order = Order(admitted, request, input_hash, payment, name, place)
            try:
                async with self._alone(name), self._alone(identified):
                    return await self._buy(order)
            except RetryableError as error:
                raise pending(f"this node's log is out of reach: {error}") from None

    async def look_up(self, payment: Payment, version_id: Hash32, input_hash: Hash32) -> Known:
        """Of this very authorization, or of a payment that has bought a receipt. Raises Unavailable."""
        given = payment.authorization
        name = payment_id(self._terms.domain, given.payer, given.nonce)
        asked = (version_id, input_hash)
        try:
            logged = await self._receipt_of(name)
            if logged is not None:
                receipt = logged.signed.receipt
                return Known.AGREED if (receipt.version_id, receipt.input_hash) == asked else Known.SPENT
            row = await asyncio.to_thread(self._store.find, name)
        except RetryableError as error:
            raise pending(f"this node's log is out of reach: {error}") from None
        if row is None:
            return Known.NEW
        if row.statement is not None:
            return Known.SPENT
        is_same = (row.version_id, row.input_hash, row.authorization) == (*asked, given)
        return Known.AGREED if is_same and row.price == given.value else Known.NEW

    async def _receipt_of(self, payment: Hash32) -> LoggedReceipt | None:
        """What a payment has bought; a shared log is not waited for in the event loop. Raises
        RetryableError."""
        log = self._service.log
        if log.is_shared:
            return await asyncio.to_thread(log.receipt_paid_by, payment)
        return log.receipt_paid_by(payment)

    @asynccontextmanager
    async def _alone(self, what: object) -> AsyncIterator[None]:
        """One at a time a payment, and an identifier."""
        if what is None:
            yield
            return
        lock, users = self._locks.get(what, (asyncio.Lock(), 0))
        self._locks[what] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[what]
            if users == 1:
                del self._locks[what]
            else:
                self._locks[what] = (lock, users - 1)

    async def _buy(self, order: Order) -> Bought:
        row = await self._identified(order) or await self._noted(order)
        logged = await self._receipt_of(row.payment if row else order.name)
        if logged is not None:
            return await self._repeat(order, logged, row or order.row())
        if row is not None:
            _check_unspent(row)
        found = await self._collector.transfer(row.authorization, row.tx_hash) if row else None
        if found is None and row is not None and row.payment != order.name:
            await self._give_up_earlier(row)
        if found is None:
            row, found = await self._verify(order)
        order.place.to_payer(is_owed=found is not None)
        return await self._sell(order, row or order.row(), found)

    async def _noted(self, order: Order) -> PaymentRow | None:
        return await asyncio.to_thread(self._store.find, order.name)

    async def _identified(self, order: Order) -> PaymentRow | None:
        """Another payment that the payer's identifier names already. Raises PaymentConflict."""
        identifier = order.payment.identifier
        if identifier is None:
            return None
        payer = order.payment.authorization.payer
        row = await asyncio.to_thread(self._store.identified, payer, identifier)
        if row is None:
            return None
        asked = (order.version_id, order.input_hash)
        if (row.version_id, row.input_hash) != asked:
            raise PaymentConflict(f"payment identifier {identifier} came with another request before")
        return row if row.payment != order.name else None

    async def _give_up_earlier(self, row: PaymentRow) -> None:
        """The identifier's first payment did not go through: it names the new one from now on.

        Raises Unavailable `payment_pending` if the first still can."""
        if row.authorization.valid_before + GRACE_SECONDS > self._clock():
            raise pending("the payment that first came with this identifier may still go through")
        await asyncio.to_thread(self._store.forget_identifier, row.payment)

    # New ones

    async def _verify(self, order: Order) -> tuple[PaymentRow | None, Transfer | None]:
        """Nothing, if the payment is good and can be settled; what was noted and found, if another process of
        this node settled it meanwhile. Raises PaymentError `payment_invalid`, Unavailable."""
        left = order.payment.authorization.valid_before - self._clock()
        if left <= 0:
            raise PaymentError("the authorization has expired; sign a new one", code="payment_invalid")
        if left > MAX_VALID_SECONDS:
            raise PaymentError(
                f"the authorization holds for more than {MAX_VALID_SECONDS} s; sign one that ends within "
                "maxTimeoutSeconds of PAYMENT-REQUIRED",
                code="payment_invalid",
            )
        verdict = await self._collector.verify(order.payment)
        if verdict.is_valid:
            return None, None
        row = await self._noted(order)
        if row is not None:
            _check_unspent(row)
        found = await self._collector.transfer(row.authorization, row.tx_hash) if row else None
        if found is None:
            raise PaymentError(
                f"the payment does not hold: {verdict.reason}; sign one that does", code="payment_invalid"
            )
        return row, found

    async def _sell(self, order: Order, row: PaymentRow, found: Transfer | None) -> Bought:
        """Run, be paid unless that was done before, sign."""
        asked = order.payment.authorization.value
        if found is not None and row.payment == order.name and row.price != asked:
            raise PaymentError(
                f"an authorization of this nonce has moved {row.price}, this request costs {asked}; sign one "
                "with another nonce",
                code="payment_mismatch",
            )
        public = wants_public(order.request.parameters)
        key = ChannelKey(order.version_id, row.authorization.payer)
        gate = self._service.gate
        ticket = await gate.admit_prepaid(key.consumer, key.version_id, 0 if found else row.price)
        try:
            result, content = await self._run(order)
            if found is None:
                if not await asyncio.to_thread(self._store.note, row):
                    raise pending("another payment came with this identifier at the same time")
                found = await self._collector.settle(order.payment)
            found = await self._collector.deep(row.authorization, found)
            await asyncio.to_thread(self._store.settled, row.payment, found.tx_hash)
            issue = Issue(
                key=key,
                input_hash=order.input_hash,
                output_hash=result.output_hash,
                price=row.price,
                payment=row.payment,
                data=content,
                public=public and content is not None,
                prepaid=True,
            )
            logged = await self._issue(issue)
        except BaseException as error:
            gate.give_up(ticket, error)
            raise
        if logged is None:  # another process was first
            gate.give_up(ticket)
            return await self._after_another(order, row)
        gate.finish(ticket, logged)
        self._service.metrics.receipts.inc()
        return await self._state(Bought(result.outputs, logged, row))

    async def _run(self, order: Order) -> tuple[Result, bytes | None]:
        """The outputs, and for an exact version what a dispute will be answered from."""
        engine, exact = order.admitted.engine, order.admitted.served.exact
        inputs = order.request.inputs
        rows = exact.check_inputs(engine.inputs, inputs) if exact else 0
        result = await run_job(engine, inputs, order.place.holder)
        if exact:
            exact.check_outputs(engine.outputs, result.outputs, rows)
        oip.requested_outputs(order.request, engine.outputs, result.outputs)
        return result, receipt_content(engine, inputs, result) if exact else None

    async def _issue(self, issue: Issue) -> LoggedReceipt | None:
        """None if the payment has bought a receipt already, by another process of this node."""
        try:
            logged = await self._service.writer.submit(issue)
        except (sqlite3.IntegrityError, IntegrityError, PaymentError):
            return None
        found = logged.signed.receipt if logged else None
        if found is None or found.version_id != issue.key.version_id:
            return None
        is_ours = (found.input_hash, found.output_hash) == (issue.input_hash, issue.output_hash)
        return logged if is_ours else None

    async def _after_another(self, order: Order, row: PaymentRow) -> Bought:
        logged = await self._receipt_of(row.payment)
        if logged is None:
            raise Unavailable("the receipts log refused the receipt; send the same request again")
        return await self._repeat(order, logged, row)

    def is_by_account(self, payment: Payment) -> bool:
        """Whether the payer's own key signed it, so that no wallet need be asked."""
        return self._account_problem(payment) is None

    def _account_problem(self, payment: Payment) -> str | None:
        """Why the payer's own key did not sign it; None if it did."""
        given = payment.authorization
        try:
            signer = recover(authorization_digest(self._terms.domain, given), payment.signature)
        except VerificationError as error:
            return str(error)
        return None if signer == given.payer else "it recovers to another account"

    async def _check_signature(self, payment: Payment) -> None:
        """Raises PaymentError `payment_signature`, Unavailable."""
        problem = self._account_problem(payment)
        if problem is None:
            return
        given = payment.authorization
        digest = authorization_digest(self._terms.domain, given)
        try:
            if await asyncio.to_thread(self._ledger.wallet_accepts, given.payer, digest, payment.signature):
                return
        except RetryableError as error:
            raise pending(f"this node cannot ask the payer's wallet: {error}") from None
        raise PaymentError(
            f"the authorization is not signed by {given.payer}: {problem}", code="payment_signature"
        )

    # Answering

    async def _repeat(self, order: Order, logged: LoggedReceipt, row: PaymentRow) -> Bought:
        """The stored receipt and its outputs. Raises PaymentError `payment_used`, NotReproducible."""
        receipt = logged.signed.receipt
        if (receipt.version_id, receipt.input_hash) != (order.version_id, order.input_hash):
            raise PaymentError(
                f"the payment has bought receipt 0x{logged.digest.hex()} of another request; sign a new one",
                code="payment_used",
            )
        result, _ = await self._run(order)
        check_repeated(logged, result)
        self._service.metrics.repeats.inc()
        return await self._state(Bought(result.outputs, logged, row, repeated=True))

    async def _state(self, bought: Bought) -> Bought:
        """With what the log knows of the payment, and the signer's statement that it bought the receipt."""
        row = await asyncio.to_thread(self._store.find, bought.row.payment) or bought.row
        statement = row.statement
        if statement is None:
            statement = sign_statement(self._key, self._service.domain, bought.receipt.digest, row.payment)
            await asyncio.to_thread(self._store.stated, row.payment, statement)
        return replace(bought, row=replace(row, statement=statement))


def _check_unspent(row: PaymentRow) -> None:
    """Of a payment without a receipt in the log. Raises PaymentError `payment_used`."""
    if row.statement is not None:
        raise PaymentError(
            "the payment has bought a receipt that this node keeps no more; sign a new one, with another "
            "payment identifier",
            code="payment_used",
        )
