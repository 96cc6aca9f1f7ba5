"""The usual inference from bytes to bytes without a task or a wait of its own: callbacks in the event loop.

    whole request ► version ► inputs ► voucher, escrow ► engine ► receipt ► on disk ► answer

The checks are SPEC.md §7's, in its order, and so are the refusals. Whatever would have to wait (a consumer
seen for the first time, a wallet's signature, a repeated request, a chain that must be asked) is left to
`Service`.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from time import perf_counter
from typing import Final

from assay.node.engines.engine import Engine, Job, Result
from assay.node.errors import PaymentError
from assay.node.http.exchange import Exchange
from assay.node.inference_head import InferenceHead
from assay.node.models.catalog import Served
from assay.node.observability.counting import Distribution
from assay.node.oip import protocol as oip
from assay.node.oip.fast_answer import AnswerWriter
from assay.node.oip.fast_request import FastReader
from assay.node.payments.gate import Ticket
from assay.node.payments.terms import parse_terms
from assay.node.places import named_consumer
from assay.node.receipts.entries import Issue, LoggedReceipt
from assay.node.service import Service, receipt_content, wants_public
from assay.types import Address, Hash32

MAX_BODY: Final = 524_288
"""Bytes of body that are read and hashed in the event loop."""

Ended = Callable[[Exchange, int, str], None]
Refused = Callable[[Exchange, Exception], None]


class HotPath:
    """`ended` is told of every request that was answered here, `refused` answers those that are refused."""

    def __init__(self, service: Service, max_elements: int, ended: Ended, refused: Refused) -> None:
        self.service = service
        self.ended = ended
        self.refused = refused
        stages = service.metrics.stages
        self.admit_seconds, self.run_seconds, self.log_seconds = (
            stages["admit"],
            stages["run"],
            stages["log"],
        )
        self._max_elements = max_elements
        self._readers: OrderedDict[int, tuple[Engine, FastReader, AnswerWriter]] = OrderedDict()

    def take(self, exchange: Exchange, head: InferenceHead) -> bool:
        """Serve it; False: it is not for here, and nothing was done. Raises RequestError."""
        body = exchange.request.body
        if len(body) > MAX_BODY:
            return False
        service, json_length, voucher = self.service, head.json_length, head.voucher
        served = service.catalog.find(head.route)
        admitted = service.admit_version(served)
        if service.places.is_tight and (named := named_consumer(body[:json_length])) is not None:
            service.places.check(named)
        reader, writer = self._tools(served, admitted.engine)
        found = reader.read(body, json_length)
        if found is None:
            return False
        request, input_hash = found.request, found.input_hash
        if voucher and found.voucher is not None:
            return False
        parameters = {**request.parameters, **voucher} if voucher else request.parameters
        public = wants_public(parameters) if "public" in parameters else False
        rows = served.exact.check_inputs(admitted.engine.inputs, request.inputs) if served.exact else 0
        payer, held = found.consumer, found.voucher
        if payer is None:
            terms = parse_terms(parameters, admitted.price, service.node, served.version_id)
            payer, held = terms.consumer, terms.held
        places, peer = service.places, exchange.request.peer
        consumer = payer if held is not None and admitted.price else Address(f"ip:{peer}")
        places.check(consumer)
        if held is not None and service.suspicion.is_full(peer):
            service.check_suspect(peer, payer, held, served.version_id)
        try:
            ticket = service.gate.admit_now(payer, held, served.version_id, admitted.price, input_hash)
        except PaymentError as error:
            error.consumer = payer
            raise
        if ticket is None:
            return False
        flight = Flight(self, exchange)
        flight.served, flight.engine, flight.writer, flight.name = (
            served,
            admitted.engine,
            writer,
            head.route.name,
        )
        flight.request, flight.input_hash, flight.ticket = request, input_hash, ticket
        flight.rows, flight.public, flight.consumer = rows, public, consumer
        flight.moved = now = perf_counter()
        self.admit_seconds.observe(now - exchange.started)
        places.hold(consumer)
        try:
            admitted.engine.submit(Job(request.inputs, consumer, flight.ran))
        except BaseException as error:
            places.free(consumer)
            service.gate.give_up(ticket, error)
            raise
        return True

    def _tools(self, served: Served, engine: Engine) -> tuple[FastReader, AnswerWriter]:
        known = self._readers.get(id(engine))
        if known is None or known[0] is not engine:
            reader = FastReader(engine.inputs, engine.outputs, self._max_elements)
            known = engine, reader, AnswerWriter(self.service.domain, engine.outputs)
            self._readers[id(engine)] = known
            while len(self._readers) > 256:
                self._readers.popitem(last=False)
        return known[1], known[2]


class Flight:
    """One request between its callbacks."""

    __slots__ = (
        "consumer",
        "engine",
        "exchange",
        "input_hash",
        "moved",
        "name",
        "path",
        "public",
        "request",
        "result",
        "rows",
        "served",
        "ticket",
        "writer",
    )

    served: Served
    engine: Engine
    writer: AnswerWriter
    name: str
    request: oip.InferRequest
    input_hash: Hash32
    ticket: Ticket
    rows: int
    public: bool
    consumer: Address
    """Whose place it holds."""
    moved: float
    """When it went from one stage to the next."""
    result: Result

    def __init__(self, path: HotPath, exchange: Exchange) -> None:
        self.path = path
        self.exchange = exchange

    def ran(self, result: Result | Exception) -> None:
        """The engine is done with it."""
        path, ticket, served = self.path, self.ticket, self.served
        try:
            if isinstance(result, Exception):
                raise result
            self.result = result
            self._end_stage(path.run_seconds)
            data = None
            if served.exact:
                served.exact.check_outputs(self.engine.outputs, result.outputs, self.rows)
                data = receipt_content(self.engine, self.request.inputs, result)
            self.writer.check(self.request, result.outputs)
            issue = Issue(
                ticket.channel.key,
                self.input_hash,
                result.output_hash,
                ticket.price,
                ticket.voucher,
                ticket.payment,
                data,
                self.public and data is not None,
            )
            path.service.writer.put(issue, self.logged)
        except Exception as error:
            self._fail(error)

    def logged(self, outcome: LoggedReceipt | Exception | None) -> None:
        """The receipt is on disk."""
        if not isinstance(outcome, LoggedReceipt):
            self._fail(outcome or RuntimeError("the writer gave no receipt"))
            return
        path, exchange = self.path, self.exchange
        service = path.service
        service.places.free(self.consumer)
        service.gate.finish(self.ticket, outcome)
        service.metrics.receipts.value += 1
        self._end_stage(path.log_seconds)
        seconds = self.moved - exchange.started
        self.served.requests.record(seconds, ok=True)
        notes = service.request_log
        if notes.wants_all or seconds >= notes.slow_seconds:
            consumer = outcome.key.consumer
            notes.answered(self.request.id, self.served.full_name, outcome.digest, consumer, seconds)
        answer = self.writer.render(self.name, self.served.number, self.request, self.result.outputs, outcome)
        exchange.connection.send_raw(exchange, *answer)
        path.ended(exchange, 200, "")

    def _end_stage(self, seconds: Distribution) -> None:
        now = perf_counter()
        seconds.observe(now - self.moved)
        self.moved = now

    def _fail(self, error: Exception) -> None:
        if isinstance(error, sqlite3.IntegrityError):
            error = PaymentError(
                "voucher has paid for another request already; sign a new one with a greater amount",
                code="voucher_stale",
            )
        self.path.service.places.free(self.consumer)
        self.path.service.gate.give_up(self.ticket, error)
        self.path.refused(self.exchange, error)
