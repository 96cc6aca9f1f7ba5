"""One inference from bytes to bytes: SPEC.md §7's checks in their order, the run, the durable receipt, the
answer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final

import orjson

from assay.commitments.public_data import pack_arrays
from assay.commitments.tensors import commit_tensors
from assay.node.engines.engine import Engine, Result, run_job
from assay.node.errors import InputError, NotFound, NotReproducible, PaymentError, Unavailable, VersionRevoked
from assay.node.http.exchange import Limits
from assay.node.models.catalog import Catalog, Served
from assay.node.observability.metrics import Metrics
from assay.node.observability.request_log import RequestLog
from assay.node.oip import protocol as oip
from assay.node.oip.protocol import Array
from assay.node.payments.follower import Follower
from assay.node.payments.gate import Gate, Ticket
from assay.node.payments.suspicion import Suspicion
from assay.node.payments.terms import Terms, parse_terms
from assay.node.places import Places
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.writer import ReceiptWriter
from assay.types import Address, Domain, Hash32, VersionStatus

SMALL_BODY: Final = 65_536
"""Bodies up to this many bytes are parsed in the event loop."""


@dataclass(slots=True)
class Admitted:
    """A version that may be run now, and its price."""

    served: Served
    engine: Engine
    price: int


@dataclass(frozen=True, slots=True)
class Answer:
    """All outputs in signature order, and the receipt, which is durable."""

    outputs: tuple[Array, ...]
    receipt: LoggedReceipt


class Service:
    """Belongs to the server's event loop; large bodies are parsed in `pool`."""

    def __init__(
        self,
        *,
        domain: Domain,
        node: Address,
        signer: Address,
        catalog: Catalog,
        follower: Follower,
        gate: Gate,
        log: ReceiptLog,
        writer: ReceiptWriter,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
        max_elements: int,
        request_log: RequestLog | None = None,
        places: Places | None = None,
    ) -> None:
        self.domain = domain
        self.node = node
        self.signer = signer
        self.catalog = catalog
        self.follower = follower
        self.metrics = metrics
        self.log = log
        self.gate = gate
        self.writer = writer
        self._pool = pool
        self.max_elements = max_elements
        self.request_log = request_log or RequestLog()
        self.suspicion = Suspicion()
        self.places = places or Places(Limits().max_concurrent)
        self.unguarded: dict[Hash32, str] = {}
        """Priced versions that are closed, with what was seen of them."""

    def admit_version(self, served: Served, *, asked: bool = True) -> Admitted:
        """Check (1); not `asked`: only to know, so that nothing is loaded for it. Raises NotFound,
        VersionRevoked, Unavailable."""
        view = self.follower.view
        if not view.active:
            raise Unavailable(
                f"node {self.node} is below the minimum stake, so its receipts could not be settled; use "
                f"another node",
                retry_after=60,
            )
        if view.signer != self.signer:
            raise Unavailable(
                f"node {self.node} signs with {self.signer}, but the chain has {view.signer} as its signer; "
                "use another node",
                retry_after=60,
            )
        if view.statuses.get(served.version_id) == VersionStatus.REVOKED:
            raise VersionRevoked(
                f"{served.full_name} version {served.number} was revoked by its publisher; use another "
                f"version"
            )
        offer = view.offers.get(served.version_id)
        if offer is None or not offer.active:
            raise NotFound(
                f"node {self.node} does not offer {served.full_name} version {served.number} at present; "
                "use another node",
                code="model_unknown",
            )
        if served.engine is None:
            raise served.refusal(asked=asked)
        return Admitted(served, served.engine, offer.price)

    async def infer(
        self,
        served: Served,
        name: str,
        body: bytes,
        json_length: int | None,
        *,
        voucher: Mapping[str, Any] | None = None,
        peer: str = "",
    ) -> oip.InferResponse:
        """A request as it came over HTTP from `peer`; `voucher`: parameters that go before its own. Raises
        RequestError of every kind in `errors`."""
        admitted = self.admit_version(served)
        request, input_hash = await self.parse(admitted, body, json_length)
        if voucher:
            request = replace(request, parameters={**request.parameters, **voucher})
        answer = await self._answer(admitted, request, input_hash, peer)
        wanted = oip.requested_outputs(request, admitted.engine.outputs, answer.outputs)
        parameters = {"receipt": orjson.dumps(answer.receipt.to_json(self.domain)).decode()}
        return oip.render_response(name, str(served.number), request.id, wanted, parameters)

    async def answer(self, served: Served, request: oip.InferRequest, *, peer: str = "") -> Answer:
        """A request that another protocol brought, its inputs decoded and checked by `oip`'s rules; vouchers
        are in its parameters. `peer` is the remote host, whose share an unpaid request takes. Raises
        RequestError of every kind in `errors`."""
        admitted = self.admit_version(served)
        return await self._answer(admitted, request, commit_tensors(request.inputs), peer)

    async def _answer(
        self, admitted: Admitted, request: oip.InferRequest, input_hash: Hash32, peer: str = ""
    ) -> Answer:
        served, started = admitted.served, perf_counter()
        is_public = wants_public(request.parameters)
        rows = served.exact.check_inputs(admitted.engine.inputs, request.inputs) if served.exact else 0
        terms = parse_terms(request.parameters, admitted.price, self.node, served.version_id)
        is_named = terms.voucher is not None and admitted.price  # at price 0 names cost nothing
        taker = Address(f"ip:{peer}") if peer and not is_named else terms.consumer
        self.places.check(taker)
        if terms.held is not None:
            self.check_suspect(peer, terms.consumer, terms.held, served.version_id)
        try:
            ticket = await self.gate.admit(terms, served.version_id, admitted.price, input_hash)
        except PaymentError as error:
            error.consumer = terms.consumer
            if error.code == "voucher_signature":
                self.suspicion.note(peer)
            raise
        stages, at = self.metrics.stages, perf_counter()
        stages["admit"].observe(at - started)
        try:
            with self.places.held(taker):
                result = await run_job(admitted.engine, request.inputs, taker)
                if served.exact:
                    served.exact.check_outputs(admitted.engine.outputs, result.outputs, rows)
                oip.requested_outputs(request, admitted.engine.outputs, result.outputs)
                stages["run"].observe(perf_counter() - at)
                logged, at = ticket.repeated, perf_counter()
                if logged is None:
                    data = receipt_content(admitted.engine, request.inputs, result) if served.exact else None
                    logged = await self._issue(ticket, terms, input_hash, result, data, public=is_public)
                    stages["log"].observe(perf_counter() - at)
        except BaseException as error:
            self.gate.give_up(ticket, error)
            raise
        if ticket.repeated is not None:
            self.gate.give_up(ticket)
            check_repeated(ticket.repeated, result)
            self.metrics.repeats.inc()
        else:
            self.gate.finish(ticket, logged)
            self.metrics.receipts.inc()
        notes, seconds = self.request_log, perf_counter() - started
        if notes.wants_all or seconds >= notes.slow_seconds:
            notes.answered(request.id, served.full_name, logged.digest, terms.consumer, seconds)
        return Answer(result.outputs, logged)

    def check_suspect(self, peer: str, consumer: Address, voucher: HeldVoucher, version_id: Hash32) -> None:
        """Raises Unavailable `busy`."""
        self.suspicion.check(peer, lambda: self.gate.is_by_account(consumer, voucher, version_id))

    async def parse(
        self, admitted: Admitted, body: bytes, json_length: int | None
    ) -> tuple[oip.InferRequest, Hash32]:
        """Check (2), and the inputs' hash; big bodies are parsed beside the event loop."""
        if len(body) <= SMALL_BODY:
            return self._parse_now(admitted.engine, body, json_length)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._parse_now, admitted.engine, body, json_length)

    def _parse_now(
        self, engine: Engine, body: bytes, json_length: int | None
    ) -> tuple[oip.InferRequest, Hash32]:
        request = oip.parse_request(
            body, json_length, engine.inputs, engine.outputs, max_elements=self.max_elements
        )
        return request, commit_tensors(request.inputs)

    async def _issue(
        self,
        ticket: Ticket,
        terms: Terms,
        input_hash: Hash32,
        result: Result,
        data: bytes | None,
        *,
        public: bool,
    ) -> LoggedReceipt:
        issue = Issue(
            key=ChannelKey(ticket.channel.key.version_id, terms.consumer),
            input_hash=input_hash,
            output_hash=result.output_hash,
            price=ticket.price,
            voucher=ticket.voucher,
            payment=ticket.payment,
            data=data,
            public=public and data is not None,
        )
        try:
            logged = await self.writer.submit(issue)
        except sqlite3.IntegrityError:
            raise PaymentError(
                "voucher has paid for another request already; sign a new one with a greater amount",
                code="voucher_stale",
            ) from None
        assert logged is not None
        return logged

    async def acknowledge(self, terms: Terms, *, peer: str = "") -> dict[str, Any]:
        """A voucher without a request, from `peer`; durable when this returns."""
        assert terms.voucher is not None and terms.held is not None
        served = self.catalog.get(terms.voucher.version_id)
        self.check_suspect(peer, terms.consumer, terms.held, served.version_id)
        try:
            channel, held = await self.gate.check_acknowledgement(terms, served.version_id)
        except PaymentError as error:
            if error.code == "voucher_signature":
                self.suspicion.note(peer)
            raise
        if not self.gate.is_stored(channel, held):
            await self.writer.submit(Acknowledge(channel.key, held))
            self.gate.store(channel, held)
        return {
            "version_id": "0x" + served.version_id.hex(),
            "consumer": terms.consumer,
            "amount": str(held.amount),
            "count": str(held.count),
        }

    def channel(self, key: ChannelKey) -> dict[str, Any]:
        """What is on disk for a channel, and what the chain was last seen to have paid of it."""
        state = self.log.channel(key)
        settled = self.follower.settled(key)
        return {
            "amount": str(state.amount),
            "count": state.count,
            "sequence": state.sequence,
            "owed": str(max(state.amount - settled, 0)),
            "settled": str(settled),
            "signature": "0x" + state.voucher.signature.hex() if state.voucher else None,
        }


def check_repeated(logged: LoggedReceipt, result: Result) -> None:
    """Raises NotReproducible if the stored receipt does not fit what the model gave now."""
    if logged.issued.output_hash != result.output_hash:
        raise NotReproducible(
            f"the inputs of receipt 0x{logged.digest.hex()} gave another output this time, so the "
            f"stored receipt does "
            "not fit it; nothing was charged again. GET /v1/receipts has the receipt"
        )


def wants_public(parameters: Mapping[str, Any]) -> bool:
    """Whether the consumer lets anybody see the request's tensors (SPEC.md §11). Raises InputError."""
    value = parameters.get("public", False)
    if not isinstance(value, bool):
        raise InputError("parameter public: expected true or false", code="input_public")
    return value


def receipt_content(engine: Engine, inputs: Sequence[Array], result: Result) -> bytes:
    """What a dispute of the receipt will be answered from."""
    names = [spec.name for spec in engine.inputs], [spec.name for spec in engine.outputs]
    return pack_arrays(names, inputs, result.outputs)
