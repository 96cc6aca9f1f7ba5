"""One paid request over one channel: reconcile, sign, remember, send, check, accept (all under the channel's
lock).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from assay.client import channels
from assay.client.channels import ChannelState, Outcome, Pending
from assay.client.errors import ChannelBlocked, NodeRefused, NodeUnreachable, ReceiptRefused
from assay.client.evidence import keep_evidence
from assay.client.receipts import Expected, WasSigner, check_receipt, order_outputs, parse_receipt
from assay.client.requests import Answer, Signer, Target, Work
from assay.client.store import ChannelKey, Store
from assay.client.transport import HeldVoucher, NodeHttp, Reply, model_path
from assay.client.wire import Arrays, WireError, decode_response, encode_request
from assay.commitments.receipts import receipt_file_to_json, voucher_digest
from assay.commitments.signing import recover
from assay.errors import AssayError, RequestError, VerificationError
from assay.types import (
    ZERO_ADDRESS,
    Address,
    Domain,
    Hash32,
    SignedReceipt,
    SignedVoucher,
    TensorSpec,
    Voucher,
)

logger = logging.getLogger(__name__)

SAME_NODE_RETRIES = 2
ACKNOWLEDGING_SECONDS = 5.0
"""Waited for a channel that another request uses, and acknowledges itself."""
UNSERVED_CODES = frozenset({"voucher_stale", "voucher_short", "voucher_signature", "unacknowledged"})


class Session:
    """Talks to nodes in the name of one consumer. `ensure_escrow(state, price)` raises EscrowShort."""

    def __init__(  # noqa: PLR0917 - one value each
        self,
        domain: Domain,
        key: Signer | None,
        store: Store,
        http: NodeHttp,
        was_signer: WasSigner,
        ensure_escrow: Callable[[ChannelState, int], None],
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.domain, self._key, self._store, self._http = domain, key, store, http
        self._was_signer, self._ensure_escrow = was_signer, ensure_escrow
        self._clock, self._sleep = clock, sleep
        self._used: dict[ChannelKey, Target] = {}

    # --- unpaid -------------------------------------------------------------------------------------------

    def infer_unpaid(self, target: Target, work: Work) -> Answer:
        """A version offered at price 0: no voucher, no channel; the receipt's consumer is the zero
        address.
        """
        body, length = encode_request(work.inputs, work.arrays, public_parameters(work), work.request_id)
        request = Pending(
            0, 0, 0, work.input_hash, None if work.private else body, length, int(self._clock())
        )
        started = time.perf_counter()
        reply = self._send(target, body, length)
        if reply.status != 200:
            raise reply.error(target.endpoint)
        outputs, signed = self.check(target, work.outputs, request, reply, ZERO_ADDRESS, None, 0)
        self._store.add_receipt(*self.receipt_row(signed))
        return Answer(outputs, signed, (time.perf_counter() - started) * 1000)

    # --- paid ---------------------------------------------------------------------------------------------

    def infer(self, target: Target, work: Work) -> Answer:
        """Pay and infer. Raises EscrowShort, ChannelBlocked, NodeRefused, NodeUnreachable, ReceiptRefused."""
        key = self.channel_key(target.node, target.version_id)
        with self._store.lock(key):
            if (unanswered := self._store.open_payment(key)) is not None:
                raise ChannelBlocked(
                    f"x402 payment {unanswered.text} to node {target.node} has no receipt yet; "
                    "repeat its request, or write it off with `assay channel forgive` (Client.forgive)"
                )
            state, recovered = self.reconciled(key, target, work.outputs, force=False)
            for is_last in (False, True):
                if recovered is not None and recovered.receipt.receipt.input_hash == work.input_hash:
                    return recovered
                try:
                    return self._infer_once(key, state, target, work)
                except NodeRefused as error:
                    if is_last or error.code not in UNSERVED_CODES:
                        raise
                state, recovered = self.reconciled(key, target, work.outputs, force=True)
        raise AssertionError("unreachable")

    def _infer_once(self, key: ChannelKey, state: ChannelState, target: Target, work: Work) -> Answer:
        self._ensure_escrow(state, target.price)
        amount = channels.next_amount(state, target.price)
        voucher = Voucher(key.consumer, key.node, key.version_id, amount, state.count)
        parameters = self._parameters(voucher) | public_parameters(work)
        body, length = encode_request(work.inputs, work.arrays, parameters, work.request_id)
        kept = None if work.private else body
        now = int(self._clock())
        request = Pending(amount, state.count, target.price, work.input_hash, kept, length, now)
        state = channels.prepare(state, request)
        self._save(key, state)
        started = time.perf_counter()
        try:
            reply = self._send(target, body, length)
        except NodeUnreachable as error:
            if not error.sent:
                self._save(key, channels.release(state))
            raise
        if reply.status != 200:
            if reply.status < 500 or reply.status == 503:  # refused before any work
                self._save(key, channels.release(state))
            raise reply.error(target.endpoint)
        outputs, signed = self._accepted(key, state, target, work.outputs, request, reply)
        return Answer(outputs, signed, (time.perf_counter() - started) * 1000)

    def _send(self, target: Target, body: bytes, length: int) -> Reply:
        """Repeat the same bytes at the same node while the answer may only have been lost."""
        path = model_path(target.model, target.number)
        for attempt in range(SAME_NODE_RETRIES):
            try:
                return self._http.infer(target.endpoint, path, body, length)
            except NodeUnreachable as error:
                if not error.sent and attempt == 0:
                    raise
                logger.info("request to node %s repeated: %s", target.node, error)
                self._sleep(0.1 * (attempt + 1))
        try:
            return self._http.infer(target.endpoint, path, body, length)
        except NodeUnreachable as error:
            raise NodeUnreachable(str(error), sent=True) from error

    def _accepted(  # noqa: PLR0917 - one value each
        self,
        key: ChannelKey,
        state: ChannelState,
        target: Target,
        specs: Sequence[TensorSpec],
        request: Pending,
        reply: Reply,
    ) -> tuple[Arrays, SignedReceipt]:
        """Check the reply to `request` and make the acceptance durable, or block the channel with
        evidence.
        """
        try:
            promised = request.amount - state.charged  # a node may still charge what was agreed before
            outputs, signed = self.check(
                target, specs, request, reply, key.consumer, state.sequence + 1, promised
            )
        except ReceiptRefused as error:
            self._save(key, channels.withhold(state, f"{error} (evidence: {error.evidence})"))
            raise
        self._save(key, channels.accept(state, request, signed.receipt), signed)
        return outputs, signed

    def check(  # noqa: PLR0917 - one value each
        self,
        target: Target,
        specs: Sequence[TensorSpec],
        request: Pending,
        reply: Reply,
        consumer: Address,
        sequence: int | None,
        price: int,
        also: Callable[[SignedReceipt, dict[str, Any]], None] = lambda signed, parameters: None,
    ) -> tuple[Arrays, SignedReceipt]:
        """Outputs in signature order and the receipt. Raises ReceiptRefused, with the evidence on disk.

        `also` looks at what more the reply's parameters have to say. Raises VerificationError.
        """
        expected = Expected(
            target.node,
            consumer,
            target.version_id,
            request.input_hash,
            price,
            sequence,
            request.started_at,
        )
        try:
            arrays, parameters = decode_response(reply.content, reply.json_length)
            signed = parse_receipt(self.domain, parameters)
            outputs = order_outputs(specs, arrays)
            check_receipt(self.domain, signed, expected, outputs, self._was_signer, int(self._clock()))
            also(signed, parameters)
        except (VerificationError, WireError) as error:
            step = error.step if isinstance(error, VerificationError) else "wire"
            path = keep_evidence(
                self._store.folder / "evidence",
                node=target.node,
                version_id=target.version_id,
                step=step,
                reason=str(error),
                request=request.body,
                reply=reply.content,
                reply_json_length=reply.json_length,
            )
            raise ReceiptRefused(
                f"node {target.node} answered with a receipt that does not check ({step}): {error}; "
                f"it is not acknowledged, evidence is in {path}",
                step=step,
                evidence=path,
            ) from error
        return outputs, signed

    # --- reconciling --------------------------------------------------------------------------------------

    def reconciled(
        self, key: ChannelKey, target: Target, specs: Sequence[TensorSpec], *, force: bool
    ) -> tuple[ChannelState, Answer | None]:
        """The channel with nothing pending, and the answer to an interrupted request if one was fetched."""
        known = self._store.load(key)
        state = known or ChannelState(key.consumer, key.node, key.version_id)
        self._used[key] = target
        if state.blocked:
            raise ChannelBlocked(_blocked_text(state))
        if known is not None and known.pending is None and not force:
            return state, None
        theirs = self._http.channel(target.endpoint, key.version_id, key.consumer)
        match channels.judge(state, theirs.held):
            case Outcome.UNKNOWN_VOUCHER:
                state = self._adopt(key, state, theirs)
            case Outcome.FORGOT:
                raise ChannelBlocked(
                    f"node {key.node} says that it issued {theirs.held.sequence} receipts on this channel, "
                    "but it gave"
                    f" {state.sequence}; it lost its log, or the chain began anew: choose another node, "
                    "or another data folder"
                )
            case Outcome.TAKEN:
                return self._claim(key, state, target, specs, theirs)
            case Outcome.NOT_TAKEN:
                state = channels.release(state) if state.pending else state
                state = channels.follow(state, theirs.held)
        self._save(key, state)
        return state, None

    def _adopt(self, key: ChannelKey, state: ChannelState, theirs: HeldVoucher) -> ChannelState:
        held = theirs.held
        voucher = Voucher(key.consumer, key.node, key.version_id, held.amount, held.count)
        try:
            is_ours = theirs.signature is not None and (
                recover(voucher_digest(self.domain, voucher), theirs.signature) == key.consumer
            )
        except VerificationError:
            is_ours = False
        if not is_ours:
            raise ChannelBlocked(
                f"node {key.node} claims to hold a voucher of {held.amount} base units; {state.signed} is the"
                f" most that was signed from {self._store.folder}, and it shows no signature of yours; "
                "choose another node"
            )
        logger.info("channel with node %s taken over at %d for %d", key.node, held.amount, held.count)
        return channels.adopt(state, held)

    def _claim(
        self,
        key: ChannelKey,
        state: ChannelState,
        target: Target,
        specs: Sequence[TensorSpec],
        theirs: HeldVoucher,
    ) -> tuple[ChannelState, Answer | None]:
        """A request was served while nobody listened: fetch its stored receipt by repeating it."""
        reasons = []
        for request in channels.sent_requests(state):
            if request.body is None:
                reasons.append("a private request is not kept and cannot be repeated")
                continue
            started = time.perf_counter()
            reply = self._send(target, request.body, request.json_length)
            if reply.status != 200:
                error = reply.error(target.endpoint)
                if reply.status == 429 or (reply.status >= 500 and error.code != "not_reproducible"):
                    raise error  # not now: asked for again the next time
                reasons.append(str(error))
                continue
            outputs, signed = self._accepted(key, state, target, specs, request, reply)
            state = channels.accept(state, request, signed.receipt)
            if not channels.sent_requests(state):
                state = channels.follow(state, theirs.held)
                self._save(key, state)
            logger.info("receipt %d of node %s recovered", signed.receipt.sequence, key.node)
            return state, Answer(outputs, signed, (time.perf_counter() - started) * 1000, recovered=True)
        if all(request.body is None for request in channels.sent_requests(state)):
            logger.warning("a private request to node %s is written off: its answer was lost", key.node)
            state = channels.forgive(state, theirs.held)
            self._save(key, state)
            return state, None
        state = channels.withhold(
            state, f"it charged for a request and does not hand over the receipt: {'; '.join(reasons)}"
        )
        self._save(key, state)
        raise ChannelBlocked(_blocked_text(state))

    def forgive(self, target: Target) -> int:
        """Write off what a blocked channel's node withholds; returns the base units given up."""
        key = self.channel_key(target.node, target.version_id)
        with self._store.lock(key):
            state = self._store.load(key)
            if state is None or state.pending is None:
                return 0
            held = self._http.channel(target.endpoint, key.version_id, key.consumer).held
            if held.amount > state.signed:
                raise RequestError(
                    f"node {key.node} claims to hold {held.amount} base units, {state.signed} is the most "
                    f"that was signed from {self._store.folder}; nothing is written off, use another node"
                )
            after = channels.forgive(state, held)
            self._save(key, after)
            return after.charged - state.charged

    # --- acknowledging ------------------------------------------------------------------------------------

    def acknowledge(self) -> list[str]:
        """Tell every node used that its receipts are accepted.

        An answer that was paid for and not received stays to be fetched by its own request: nobody is here to
        take it. Returns what failed; it is done another time.
        """
        failures = []
        for key, target in sorted(self._used.items(), key=lambda item: item[0].text):
            try:
                with self._store.lock(key, ACKNOWLEDGING_SECONDS):
                    self._acknowledge(key, target)
            except AssayError as error:
                failures.append(str(error))
        return failures

    def _acknowledge(self, key: ChannelKey, target: Target) -> None:
        state = self._store.load(key)
        if state is None or state.acknowledgement() is None:
            return
        holds = 0
        if state.outstanding:
            holds = self._http.channel(target.endpoint, key.version_id, key.consumer).held.amount
        voucher = state.acknowledgement(holds)
        assert voucher is not None
        self._http.acknowledge(target.endpoint, SignedVoucher(voucher, self._sign(voucher)))
        self._save(key, channels.acknowledge(state, voucher.count))

    # --- small things -------------------------------------------------------------------------------------

    def channel_key(self, node: Address, version_id: Hash32) -> ChannelKey:
        assert self._key is not None
        return ChannelKey(self.domain, self._key.address, node, version_id)

    def _sign(self, voucher: Voucher) -> bytes:
        assert self._key is not None
        return self._key.sign(voucher_digest(self.domain, voucher))

    def _parameters(self, voucher: Voucher) -> dict[str, str | bool]:
        return {
            "voucher_consumer": voucher.consumer,
            "voucher_amount": str(voucher.amount),
            "voucher_count": str(voucher.count),
            "voucher_signature": "0x" + self._sign(voucher).hex(),
        }

    def receipt_row(self, signed: SignedReceipt) -> tuple[str, str]:
        file = receipt_file_to_json(self.domain, signed)
        return file["digest"], orjson.dumps(file).decode()

    def _save(self, key: ChannelKey, state: ChannelState, signed: SignedReceipt | None = None) -> None:
        self._store.save(key, state, self.receipt_row(signed) if signed else None)


def public_parameters(work: Work) -> dict[str, str | bool]:
    """What an inference's parameters say of who may see its tensors."""
    return {"public": True} if work.public else {}


def _blocked_text(state: ChannelState) -> str:
    return (
        f"channel to node {state.node} is blocked: {state.blocked}. At most {state.outstanding} base units "
        "are at stake."
        " Use another node, or write it off with `assay channel forgive` (Client.forgive)"
    )
