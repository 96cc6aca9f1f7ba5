"""One request paid by x402: ask the price, sign, remember, send, check, accept (under the channel's lock).

An x402 payment has no channel, but its receipts are numbered in the one of payer, node and version, so there
is one open payment at most in a channel, and no voucher is signed there meanwhile. What was signed is on disk
before it is sent; the same request goes on with it, at any later time, and is paid once.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from assay.chain.registries import Token
from assay.client import channels
from assay.client.channels import ChannelState, Pending
from assay.client.errors import (
    BalanceShort,
    ChannelBlocked,
    NodeRefused,
    NodeUnreachable,
    NotSold,
    PaymentOpen,
    PaymentRefused,
    ReceiptRefused,
)
from assay.client.evidence import keep_evidence
from assay.client.open_payment import OpenPayment
from assay.client.requests import Answer, Target, Work
from assay.client.session import Session, public_parameters
from assay.client.store import ChannelKey, Store
from assay.client.transport import NodeHttp, Reply, model_path
from assay.client.wallet import Wallet
from assay.client.wire import encode_request
from assay.commitments.authorizations import authorization_to_json, statement_digest
from assay.commitments.parsing import parse_hash
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import recover
from assay.errors import AssayError, VerificationError
from assay.types import SignedReceipt

logger = logging.getLogger(__name__)

TRIES: Final = 3
PATIENCE: Final = 60.0
"""Seconds for all tries of one payment while its node says that it is on its way."""
MAX_PAUSE: Final = 5.0
GRACE: Final = 60
"""Seconds after its end in which an authorization may still be in a block that is not seen yet."""
UNSETTLED: Final = frozenset({"run_failed", "output_nan", "output_shape", "not_reproducible"})
"""Codes of 500 after which nothing is settled any more (SPEC.md §12)."""


class Buyer:
    """Of one account. `session` checks receipts and knows the channels."""

    def __init__(
        self,
        session: Session,
        store: Store,
        http: NodeHttp,
        wallet: Wallet,
        token: Token,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session, self._store, self._http = session, store, http
        self._wallet, self._token = wallet, token
        self._clock, self._sleep = clock, sleep

    def buy(self, target: Target, work: Work) -> Answer:
        """Pay at most `target.price` and infer.

        Raises NotSold, BalanceShort, PaymentRefused, PaymentOpen, ReceiptRefused, ChannelBlocked,
        NodeRefused, NodeUnreachable.
        """
        key = self._session.channel_key(target.node, target.version_id)
        with self._store.lock(key):
            earlier = self._store.open_payment(key)
            if earlier is not None:
                answer = self._finish(key, target, work, earlier)
                if answer is not None and earlier.input_hash == work.input_hash:
                    return replace(answer, recovered=True)
            known = self._store.load(key)
            _, recovered = self._session.reconciled(
                key, target, work.outputs, force=known is not None and bool(known.released)
            )
            if recovered is not None and recovered.receipt.receipt.input_hash == work.input_hash:
                return recovered
            is_same = earlier is not None and earlier.input_hash == work.input_hash
            identifier = earlier.identifier if earlier and is_same else f"pay_{uuid.uuid4().hex}"
            payment, body = self._sign(key, target, work, identifier)
            return self._send(key, target, work, payment, body)

    def finish(self, target: Target, work: Work) -> None:
        """End a payment that another request at this node left open, so that vouchers can be used there.

        Raises ChannelBlocked while nobody can say what becomes of it.
        """
        key = self._session.channel_key(target.node, target.version_id)
        if self._store.open_payment(key) is None:
            return
        with self._store.lock(key):
            earlier = self._store.open_payment(key)
            if earlier is None:
                return
            try:
                self._finish(key, target, work, earlier)
            except PaymentOpen as error:
                raise ChannelBlocked(f"{error}. {error.cure}") from error
            except (PaymentRefused, ReceiptRefused) as error:
                logger.warning("an earlier x402 payment has bought nothing: %s", error)

    def forgive(self, target: Target) -> int:
        """Give up an open payment; returns its base units if the chain says that they are gone."""
        key = self._session.channel_key(target.node, target.version_id)
        with self._store.lock(key):
            payment = self._store.open_payment(key)
            if payment is None:
                return 0
            is_paid = self._is_used(payment)
            self._give_up(key, target, payment)
            return payment.authorization.value if is_paid else 0

    # --- a new payment ------------------------------------------------------------------------------------

    def _sign(
        self, key: ChannelKey, target: Target, work: Work, identifier: str
    ) -> tuple[OpenPayment, bytes]:
        """The request goes out unpaid first, to be told what it costs and who is paid."""
        body, length = encode_request(work.inputs, work.arrays, public_parameters(work), work.request_id)
        reply = self._http.infer(target.endpoint, model_path(target.model, target.number), body, length)
        if reply.status == 200:
            raise NotSold(f"{target.endpoint} answered without being paid; its answer is not used")
        if reply.status != 402:
            raise reply.error(target.endpoint)
        asked = self._wallet.read(reply.payment_required, target.endpoint)
        if asked.amount > target.price:
            raise NotSold(
                f"{target.endpoint} asks for {asked.amount} base units, its offer on the chain is "
                f"{target.price}",
                code="x402_price",
            )
        balance = self._token.balance_of(self._wallet.address)
        if balance < asked.amount:
            raise BalanceShort(
                f"account {self._wallet.address} has {balance} base units of token "
                f"{self._token.address}, the request costs {asked.amount}; send it tokens "
                "(an x402 payment needs no coins for gas)",
                needed=asked.amount,
                balance=balance,
            )
        signed = self._wallet.sign(asked, identifier)
        payment = OpenPayment(
            payment=signed.payment,
            authorization=signed.authorization,
            header=signed.header,
            identifier=identifier,
            input_hash=work.input_hash,
            body=None if work.private else body,
            json_length=length,
            started_at=int(self._clock()),
        )
        self._store.keep_payment(key, payment)
        return payment, body

    def _send(self, key: ChannelKey, target: Target, work: Work, payment: OpenPayment, body: bytes) -> Answer:
        try:
            return self._exchange(key, target, work, payment, body)
        except NodeUnreachable:
            self._store.drop_payment(payment)  # it never left this machine
            raise

    # --- an earlier one -----------------------------------------------------------------------------------

    def _finish(self, key: ChannelKey, target: Target, work: Work, payment: OpenPayment) -> Answer | None:
        """Its answer; None if it is dead and nothing was paid.

        Raises PaymentOpen, PaymentRefused, ReceiptRefused, ChannelBlocked.
        """
        if payment.refused:
            raise ChannelBlocked(
                f"x402 payment {payment.text} bought a receipt that does not check: {payment.refused}. Use "
                "another node, or write it off with `assay channel forgive` (Client.forgive)"
            )
        if self._is_over(payment) and not self._is_used(payment):
            self._store.drop_payment(payment)
            return None
        is_same = payment.input_hash == work.input_hash
        body = payment.body
        if body is None and is_same:
            body, length = encode_request(work.inputs, work.arrays, public_parameters(work), work.request_id)
            payment = replace(payment, json_length=length)
        if body is None:
            raise self._left_open(
                target, payment, "payment_private", "the private request that it pays for is not kept here"
            )
        try:
            return self._exchange(key, target, work, payment, body)
        except NodeUnreachable as error:
            raise self._left_open(target, payment, "node_unreachable", str(error)) from error
        except PaymentRefused as error:
            if is_same:
                raise
            raise ChannelBlocked(f"{error}. It was for another request") from error

    # --- one exchange -------------------------------------------------------------------------------------

    def _exchange(
        self, key: ChannelKey, target: Target, work: Work, payment: OpenPayment, body: bytes
    ) -> Answer:
        started = time.perf_counter()
        reply = self._post(target, payment, body)
        if reply.status == 200:
            answer = self._accepted(key, target, work, payment, body if payment.body else None, reply)
            return replace(answer, latency_ms=(time.perf_counter() - started) * 1000)
        error = reply.error(target.endpoint)
        if reply.status >= 500 and error.code not in UNSETTLED:
            raise self._left_open(target, payment, error.code, str(error))
        if self._is_used(payment):
            evidence = self._witness(target, payment, reply)
            with suppress(NodeRefused, NodeUnreachable):  # else it is given up the next time
                self._give_up(key, target, payment)
            what = f"{error}; yet the token says that payment {payment.text} is used; see {evidence}"
            raise ReceiptRefused(what, step="payment", evidence=evidence)
        what = (
            f"{error}; nothing was paid, but whoever has payment {payment.text} can bring it to the "
            f"chain until {payment.end} UTC: until then no other is signed for this node"
        )
        raise PaymentRefused(what, status=error.status, code=error.code, cure=error.cure)

    def _post(self, target: Target, payment: OpenPayment, body: bytes) -> Reply:
        """The same bytes and payment, again while they may only be on their way.

        Raises PaymentOpen; NodeUnreachable if nothing reached the node.
        """
        path = model_path(target.model, target.number)
        deadline, is_sent = time.monotonic() + PATIENCE, False
        for attempt in range(1, 1_000):
            try:
                reply = self._http.infer(target.endpoint, path, body, payment.json_length, payment.header)
            except NodeUnreachable as error:
                is_sent |= error.sent
                lost: NodeUnreachable | None = error
                code, why, pause = "node_unreachable", str(error), 0.2 * attempt
            else:
                if reply.status != 503:
                    return reply
                is_sent, lost = True, None
                refusal = reply.error(target.endpoint)
                code, why = refusal.code, str(refusal)
                pause = min(reply.retry_after or 1.0, MAX_PAUSE)
            is_last = attempt >= TRIES and code != "payment_pending"
            if is_last or time.monotonic() + pause > deadline:
                if lost is not None and not is_sent:
                    raise lost
                raise self._left_open(target, payment, code, why)
            self._sleep(pause)
        raise AssertionError("unreachable")

    def _accepted(  # noqa: PLR0917 - one value each
        self,
        key: ChannelKey,
        target: Target,
        work: Work,
        payment: OpenPayment,
        kept: bytes | None,
        reply: Reply,
    ) -> Answer:
        """Outputs and receipt, checked as after a voucher, and what the node states of the payment."""
        state = self._store.load(key) or ChannelState(key.consumer, key.node, key.version_id)
        price = payment.authorization.value
        request = Pending(0, 0, price, payment.input_hash, kept, payment.json_length, payment.started_at)
        stated: dict[str, Any] = {}

        def check_payment(signed: SignedReceipt, parameters: dict[str, Any]) -> None:
            stated.update(self._check_statement(payment, signed, parameters))

        try:
            outputs, signed = self._session.check(
                target, work.outputs, request, reply, key.consumer, state.sequence + 1, price, check_payment
            )
        except ReceiptRefused as error:
            self._store.keep_payment(key, replace(payment, refused=f"{error}"))
            raise
        state = channels.accept_prepaid(state, signed.receipt)
        row = self._session.receipt_row(signed)
        self._store.save(key, state, row, (payment.text, json.dumps(stated)))
        return Answer(outputs, signed, 0.0, payment=stated)

    def _check_statement(
        self, payment: OpenPayment, signed: SignedReceipt, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """This payment's object (SPEC.md §12), bound to the receipt by the key that signed it.

        Raises VerificationError, step `payment` or `price`.
        """
        digest = receipt_digest(self._session.domain, signed.receipt)
        try:
            stated = orjson.loads(parameters["payment"])
            statement = bytes.fromhex(stated["statement"].removeprefix("0x"))
            is_named = stated["payment"].lower() == payment.text
            transaction = stated["transaction"] and parse_hash(stated["transaction"], "transaction").hex()
            claimed = recover(statement_digest(self._session.domain, digest, payment.payment), statement)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError, AssayError) as error:
            raise VerificationError(f"the reply states no payment: {error!r}", step="payment") from None
        if not is_named or claimed != recover(digest, signed.signature):
            raise VerificationError(
                f"the receipt's signer does not state that payment {payment.text} bought it", step="payment"
            )
        if signed.receipt.price != payment.authorization.value:
            raise VerificationError(
                f"the receipt's price is {signed.receipt.price}, {payment.authorization.value} were paid",
                step="price",
            )
        return {
            "payment": payment.text,
            "network": self._wallet.network,
            "asset": self._token.address,
            "authorization": authorization_to_json(payment.authorization),
            "transaction": transaction and "0x" + transaction,
            "statement": "0x" + statement.hex(),
        }

    # --- what becomes of it -------------------------------------------------------------------------------

    def _is_over(self, payment: OpenPayment) -> bool:
        """By the chain's time, whatever this machine's clock says."""
        return payment.authorization.valid_before + GRACE <= self._token.client.get_block("latest").timestamp

    def _is_used(self, payment: OpenPayment) -> bool:
        given = payment.authorization
        return self._token.is_authorization_used(given.payer, given.nonce)

    def _witness(self, target: Target, payment: OpenPayment, reply: Reply) -> Path:
        return keep_evidence(
            self._store.folder / "evidence",
            node=target.node,
            version_id=target.version_id,
            step="payment",
            reason=f"payment {payment.text} is used on the chain and was refused",
            request=payment.body,
            reply=reply.content,
            reply_json_length=reply.json_length,
        )

    def _give_up(self, key: ChannelKey, target: Target, payment: OpenPayment) -> None:
        """Go on without its receipt, whose number the node may have used."""
        state = self._store.load(key)
        if state is not None:
            held = self._http.channel(target.endpoint, key.version_id, key.consumer).held
            self._store.save(key, channels.follow(state, held))
        self._store.drop_payment(payment)

    def _left_open(self, target: Target, payment: OpenPayment, code: str, why: str) -> PaymentOpen:
        return PaymentOpen(
            f"node {target.node} was sent x402 payment {payment.text} of {payment.authorization.value} base "
            f"units and has not answered it: {why}",
            code=code,
            cure="repeat the request: it goes on with the same payment, which is paid once and ends at "
            f"{payment.end} UTC",
        )
