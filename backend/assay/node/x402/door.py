"""x402 over the node's HTTP interface: what an unpaid request is told, and how a paid one is answered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

import orjson
import structlog

from assay.commitments.authorizations import authorization_to_json
from assay.commitments.parsing import parse_hash
from assay.errors import RequestError
from assay.node.errors import InputError, NotFound, PaymentError, Unavailable
from assay.node.http.messages import BINARY, Headers, Reply, Request, json_reply
from assay.node.models.catalog import Route, Served
from assay.node.oip import protocol as oip
from assay.node.payments.voucher_header import NAME as VOUCHER
from assay.node.refusals import describe_error
from assay.node.service import Admitted, Service
from assay.node.x402 import wire
from assay.node.x402.counting import PaymentCounters
from assay.node.x402.paying import Bought, Known, Till
from assay.node.x402.payments import PaymentRow, PaymentStore
from assay.node.x402.wire import PaymentTerms
from assay.types import Hash32

MAX_SAID: Final = 300
REMEMBERED: Final = 4096
_LENGTH: Final = oip.HEADER_LENGTH.encode()
_VOUCHER: Final = VOUCHER.encode()

_log = structlog.get_logger(__name__)


class Door:
    """Belongs to the server's event loop. `proven`: versions whose unpaid requests this node saw refused; no
    others are sold."""

    def __init__(
        self,
        service: Service,
        terms: PaymentTerms,
        till: Till,
        store: PaymentStore,
        counters: PaymentCounters,
        *,
        endpoint: str,
        min_price: int,
    ) -> None:
        self._service = service
        self.terms = terms
        self._till = till
        self._store = store
        self._counters = counters
        self._endpoint = endpoint.rstrip("/")
        self._min_price = min_price
        self._recent: OrderedDict[Hash32, Hash32] = OrderedDict()
        self.proven: set[Hash32] = set()

    def price(self, served: Served) -> int:
        """What a request for the version costs by x402; 0 if it cannot be paid for so."""
        offer = self._service.follower.view.offers.get(served.version_id)
        if offer is None or not offer.active or offer.price < self._min_price:
            return 0
        return offer.price

    # Refusing

    def told(self, error: Exception, request: Request, route: Route) -> Headers:
        """What a refused infer request gets beside its body: with 402, how to pay by x402."""
        if not isinstance(error, RequestError) or error.status != 402:
            return ()
        try:
            served = self._service.catalog.find(route)
            price = self.price(served)
        except RequestError:
            return ()
        if not price:
            return ()
        url = self._endpoint + request.path.decode("ascii", "replace")
        description = f"one inference of {served.full_name} version {served.number}"
        value = wire.payment_required(self.terms, price, url, description, str(error)[:MAX_SAID])
        headers: Headers = ((wire.REQUIRED, value),)
        if error.code == "payment_failed":
            headers += ((wire.RESPONSE, wire.encode(self._failure(str(error)[:MAX_SAID]))),)
        return headers

    def _failure(self, reason: str) -> dict[str, Any]:
        return {"success": False, "errorReason": reason, "transaction": "", "network": self.terms.network}

    # Selling

    async def pay_and_answer(self, request: Request, route: Route, json_length: int | None) -> Reply:
        """A request with `PAYMENT-SIGNATURE`. Raises RequestError of every kind."""
        try:
            bought, admitted, asked = await self._buy(request, route, json_length)
        except Exception as error:
            self._counters.refused(describe_error(error).code)
            raise
        self._counters.sold(bought.row.price, repeated=bought.repeated)
        _log.info(
            "paid by x402",
            receipt="0x" + bought.receipt.digest.hex(),
            payment="0x" + bought.row.payment.hex(),
            repeated=bought.repeated,
        )
        self._recent[bought.receipt.digest] = bought.row.payment
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return self._reply(bought, route.name, asked, admitted)

    async def _buy(
        self, request: Request, route: Route, json_length: int | None
    ) -> tuple[Bought, Admitted, oip.InferRequest]:
        served = self._service.catalog.find(route)
        admitted = self._service.admit_version(served)
        parsed, input_hash = await self._service.parse(admitted, request.body, json_length)
        if _VOUCHER in request.headers:
            raise InputError("send a voucher or PAYMENT-SIGNATURE, not both", code="input_payment")
        payment = wire.parse_payment(request.headers[wire.SIGNATURE], self.terms)
        self._service.suspicion.check(request.peer, lambda: self._till.is_by_account(payment))
        known = await self._till.look_up(payment, served.version_id, input_hash)
        if known is Known.NEW:
            self._check_for_sale(admitted, payment.authorization.value)
        try:
            bought = await self._till.buy(
                admitted, parsed, input_hash, payment, peer=request.peer, known=known
            )
        except PaymentError as error:
            if error.code == "payment_signature":  # whose check may have asked the chain
                self._service.suspicion.note(request.peer)
            raise
        return bought, admitted, parsed

    def _check_for_sale(self, admitted: Admitted, value: int) -> None:
        """Whether a new payment of this value buys an inference now. Raises Unavailable, PaymentError."""
        served = admitted.served
        price = self.price(served)
        if not price:
            raise Unavailable(
                f"{served.full_name} version {served.number} is not sold by x402 at its price of "
                f"{admitted.price}; send the request without PAYMENT-SIGNATURE, or pay by voucher",
                code="not_ready",
                retry_after=60,
            )
        if value != price:
            raise PaymentError(
                f"the authorization moves {value}, this request costs {price}; sign what PAYMENT-REQUIRED "
                "asks for",
                code="payment_mismatch",
            )
        if served.version_id not in self.proven:
            raise Unavailable(
                "this node has not seen yet that it refuses unpaid requests; it sells by x402 once it has",
                retry_after=1,
            )

    def _reply(self, bought: Bought, name: str, asked: oip.InferRequest, admitted: Admitted) -> Reply:
        """Of the version that was asked for, also if it was unloaded or followed by another since."""
        parameters = {
            "receipt": orjson.dumps(bought.receipt.to_json(self._service.domain)).decode(),
            "payment": orjson.dumps(self.payment_json(bought.row)).decode(),
        }
        wanted = oip.requested_outputs(asked, admitted.engine.outputs, bought.outputs)
        response = oip.render_response(name, str(admitted.served.number), asked.id, wanted, parameters)
        headers: Headers = ((wire.RESPONSE, wire.encode(self._success(bought.row))),)
        if response.json_length is None:
            return Reply(200, response.body, headers=headers)
        return Reply(200, response.body, BINARY, (*headers, (_LENGTH, b"%d" % response.json_length)))

    def _success(self, row: PaymentRow) -> dict[str, Any]:
        """x402's `SettlementResponse`."""
        return {
            "success": True,
            "transaction": "" if row.tx_hash is None else "0x" + row.tx_hash.hex(),
            "network": self.terms.network,
            "payer": row.authorization.payer,
            "amount": str(row.price),
        }

    # Telling afterwards

    async def receipt_payment(self, request: Request) -> Reply:
        """`GET /v1/receipts/{digest}/payment`. Raises NotFound."""
        digest = parse_hash(request.parts["digest"], "digest")
        payment = self._recent.get(digest)  # the log's tables may be a moment behind
        if payment is None:
            row = await asyncio.to_thread(self._store.of_receipt, digest)
        else:
            row = await asyncio.to_thread(self._store.find, payment)
        if row is None:
            raise NotFound(f"no payment by x402 bought a receipt 0x{digest.hex()} of this node")
        return json_reply({"receipt": "0x" + digest.hex(), **self.payment_json(row)})

    def payment_json(self, row: PaymentRow) -> dict[str, Any]:
        """The payment object of SPEC.md §12."""
        return {
            "payment": "0x" + row.payment.hex(),
            "network": self.terms.network,
            "asset": self.terms.domain.token,
            "authorization": authorization_to_json(row.authorization),
            "transaction": None if row.tx_hash is None else "0x" + row.tx_hash.hex(),
            "statement": None if row.statement is None else "0x" + row.statement.hex(),
        }
