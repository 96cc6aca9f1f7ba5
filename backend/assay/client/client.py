"""The SDK: numpy in, numpy out, a checked receipt with every answer.

with assay.Client("alice", password=…, auto_fund=AutoFund(deposit=10**18, total=10**19)) as client:
    result = client.infer("0xPublisher/digits", images, max_price=10**16)
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.chain.keys import unlock
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.client.accelerator import Accelerator
from assay.client.buying import Buyer
from assay.client.copies import copy_of
from assay.client.directory import Directory, Health, NodeOffer
from assay.client.errors import (
    ChannelBlocked,
    EscrowShort,
    InputInvalid,
    NodeRefused,
    NodeUnreachable,
    NoNodes,
    NotSold,
    PriceTooHigh,
    ReceiptRefused,
    is_of_input,
    summarise,
)
from assay.client.escrow import AutoFund, Purse
from assay.client.requests import Answer, Pay, Target, Work
from assay.client.resolve import Manifests, ResolvedVersion, Resolver
from assay.client.result import Result
from assay.client.session import Session
from assay.client.store import Store
from assay.client.transport import NodeHttp, model_path, parse_specs
from assay.client.wallet import Wallet
from assay.client.wire import match_inputs
from assay.commitments.identifiers import checksum_address
from assay.commitments.signing import SigningKey
from assay.commitments.tensors import commit_tensors
from assay.errors import AssayError, ConfigurationError, RequestError, RetryableError
from assay.types import Address, Assurance, Hash32, TensorSpec

logger = logging.getLogger(__name__)

RESOLVED_SECONDS = 30.0
KEPT_COPIES = 256 << 20
"""Bytes."""
ESCROW_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, None)
"""Seconds between tries while a node has not seen a deposit that the chain has."""
Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of a version, in order."""
CHANGED = "offer_changed"
FAILS_OVER = (
    NodeUnreachable, NodeRefused, ReceiptRefused, ChannelBlocked, EscrowShort, NotSold, InputInvalid
)  # fmt: skip
"""What is wrong with one node: another one may be asked."""
LOCAL_RPC = ("http://127.0.0.1:8545",)


class Client:
    """A consumer. Threads may share one; processes may share one `data` folder.

    `account` is an Ape account alias or a keystore v3 path (`password`: text or a function that asks), `key`
    a SigningKey instead; with neither, only versions offered at price 0 can be used. `rpc_urls` are tried in
    order. `auto_fund` allows bounded deposits; without it an empty escrow is an EscrowShort error.
    `keep_copies`: most bytes of exact answers' tensors kept for a recheck, the oldest go first. Times in
    seconds.
    """

    def __init__(
        self,
        account: str | Path | None = None,
        *,
        key: SigningKey | None = None,
        password: str | Callable[[], str] | None = None,
        rpc_urls: Sequence[str] | str = LOCAL_RPC,
        deployments: Path | str = "deployments",
        chain_id: int | None = None,
        api_url: str | None = None,
        hub_url: str | None = None,
        data: Path | str = "var/client",
        auto_fund: AutoFund | None = None,
        timeout: float = 30.0,
        max_nodes: int = 3,
        keep_copies: int = KEPT_COPIES,
    ) -> None:
        self.key = key or (None if account is None else unlock(account, password))
        self.chain = ChainClient(rpc_urls, chain_id=chain_id)
        self.deployment = Deployment.load(deployments, self.chain.chain_id)
        self.domain = self.deployment.domain
        self.models = ModelRegistry(self.chain, self.deployment)
        self.nodes = NodeRegistry(self.chain, self.deployment)
        self.settlement = Settlement(self.chain, self.deployment)
        self.token = Token(self.chain, self.deployment)
        self.data = Path(data)
        self.store = Store(self.data)
        self.http = NodeHttp(timeout)
        self.accelerator = Accelerator(api_url, self.http) if api_url else None
        self.resolver = Resolver(self.models)
        self.directory = Directory(self.nodes, self.domain, self.store, self.accelerator)
        self.health = Health(self.store)
        self.manifests = Manifests(self.data / "manifests", self.http, hub_url)
        self._purse = self._open_purse(auto_fund)
        self._session = Session(
            self.domain, self.key, self.store, self.http, self.directory.was_signer,
            self._purse.ensure if self._purse else lambda state, price: None,
        )  # fmt: skip
        self._buyer = self._open_buyer()
        self.hub_url = hub_url
        self._max_nodes = max_nodes
        self._keep_copies = keep_copies
        self._resolved: dict[str, tuple[float, ResolvedVersion]] = {}
        self._signatures: dict[tuple[Hash32, Address | None], Signature] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Acknowledge the last receipts to their nodes, keep what was measured, close connections."""
        try:
            self.acknowledge()
            self.health.save()
        finally:
            self.http.close()
            self.store.close()
            self.chain.close()

    # --- inference ----------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
        *,
        max_price: int | None = None,
        private: bool = False,
        public: bool = False,
        pay: Pay | str = Pay.VOUCHER,
    ) -> Result:
        """Run `publisher/name[@version]` on `inputs` (one array, or a dict by input name) at the best node.

        `max_price` bounds what one answer may cost, in base units. `private` keeps inputs and outputs off
        this machine's disk: an answer that is lost with the process then cannot be fetched again. `public`
        lets the node show them to anybody, so that strangers check the answer; otherwise only you can
        (`assay receipt recheck`), from the copy of an exact version's answers that is kept here.

        `pay`: by vouchers out of the escrow with a node, or by x402 from the account itself, one signed
        transfer for one request, never more than `max_price` (nothing without one). A payment whose answer
        did not come is a PaymentOpen error, and no other node is asked: the same request goes on with it.

        If a node fails, the next best is asked, at most `max_nodes` of them. What was promised to a node that
        did not deliver is at most one price, and counts toward the next request there.
        Raises ModelUnknown, VersionRevoked, InputInvalid, NoNodes, PriceTooHigh, EscrowShort,
        ReceiptRefused; by x402 BalanceShort, NotSold, PaymentRefused, PaymentOpen as well.
        """
        if private and public:
            raise InputInvalid("a request is private or public, not both; private keeps its tensors secret")
        pay = Pay(pay)
        max_price = (max_price or 0) if pay is Pay.X402 else max_price
        version = self.resolve(model)
        failures: list[AssayError] = []
        for offer in self._candidates(version, max_price, failures):
            try:
                answer = self._ask(version, offer, inputs, private=private, public=public, pay=pay)
            except FAILS_OVER as error:
                self._note_failure(offer, error)
                if pay is Pay.X402 and isinstance(error, ReceiptRefused):
                    raise  # it was paid
                failures.append(error)
                continue
            self.health.note(offer.node, answer.latency_ms)
            return Result(
                outputs=answer.outputs,
                receipt=answer.receipt,
                domain=self.domain,
                model=version.reference,
                assurance=version.assurance,
                endpoint=offer.endpoint,
                latency_ms=answer.latency_ms,
                is_recovered=answer.recovered,
                attempts=tuple(failures),
                payment=answer.payment,
            )
        raise summarise(version.reference, failures)

    def _candidates(
        self, version: ResolvedVersion, max_price: int | None, failures: list[AssayError]
    ) -> Iterator[NodeOffer]:
        """Nodes to ask, best first; chosen anew, once, when one turns out to have changed its offer."""
        yield from self._choose(version, max_price)[: self._max_nodes]
        changed = [error for error in failures if isinstance(error, NodeRefused) and error.code == CHANGED]
        if changed and len(changed) == len(failures):
            yield from self._choose(version, max_price)[: self._max_nodes]

    def _note_failure(self, offer: NodeOffer, error: AssayError) -> None:
        if not is_of_input(error) and not isinstance(error, (EscrowShort, NotSold)):
            self.health.note(offer.node, None)

    def _ask(
        self,
        version: ResolvedVersion,
        offer: NodeOffer,
        inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
        *,
        private: bool,
        public: bool,
        pay: Pay,
    ) -> Answer:
        specs, outputs = self.signature(version, offer)
        arrays = match_inputs(specs, inputs)
        input_hash = commit_tensors(arrays.values())
        work = Work(specs, outputs, arrays, input_hash, uuid.uuid4().hex, private, public)
        answer = self._pay_and_ask(version, offer, work, pay)
        if version.assurance is Assurance.EXACT and not private:
            try:
                self.store.keep_copy(*copy_of(self.domain, answer, work), limit=self._keep_copies)
            except RetryableError as error:  # the answer is paid for
                logger.warning("no copy is kept for a recheck: %s", error)
        return answer

    def _pay_and_ask(self, version: ResolvedVersion, offer: NodeOffer, work: Work, pay: Pay) -> Answer:
        target = _target(version, offer)
        if offer.price == 0:
            return self._session.infer_unpaid(target, work)
        if self._purse is None or self._buyer is None:
            raise ConfigurationError(
                f"{version.reference} costs {offer.price} base units; give an account to pay with"
            )
        if pay is Pay.X402:
            return self._buy(version, offer, work)
        self._buyer.finish(target, work)
        for pause in ESCROW_PAUSES:
            try:
                return self._session.infer(target, work)
            except NodeRefused as error:
                if error.code == "voucher_short":
                    self._check_price(version, offer)
                if error.code not in ("escrow_short", "voucher_short") or pause is None:
                    raise
            self._purse.forget(offer.node)  # the node may see a deposit a block later than we do
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _buy(self, version: ResolvedVersion, offer: NodeOffer, work: Work) -> Answer:
        assert self._buyer is not None
        try:
            return self._buyer.buy(_target(version, offer), work)
        except NotSold as error:
            if error.code == "x402_price":
                self._check_price(version, offer)
            raise

    def _check_price(self, version: ResolvedVersion, offer: NodeOffer) -> None:
        """Raises NodeRefused if the chain's price is not the one that was paid."""
        fresh = self.directory.offer(offer.node, version.version_id)
        if fresh is None or fresh.price != offer.price:
            self.directory.offers(version.version_id, fresh=True)
            raise NodeRefused(
                f"node {offer.node} changed its offer of {version.reference} meanwhile; ask again",
                status=409,
                code=CHANGED,
            )

    def _choose(self, version: ResolvedVersion, max_price: int | None) -> list[NodeOffer]:
        offers = self.directory.offers(version.version_id) or self.directory.offers(
            version.version_id, fresh=True
        )
        if not offers:
            raise NoNodes(
                f"no active node offers {version.reference} on chain {self.domain.chain_id}; run one "
                "(`assay node init`), or choose another version (`assay model show`)"
            )
        affordable = [offer for offer in offers if max_price is None or offer.price <= max_price]
        if not affordable:
            raise PriceTooHigh(
                f"the cheapest of {len(offers)} offers of {version.reference} costs {offers[0].price} base "
                f"units, max_price is {max_price}; raise it or wait",
                offers[0].price,
            )
        return self.health.rank(affordable, self.http.probe)

    def resolve(self, model: str) -> ResolvedVersion:
        """The version on the chain, remembered for `RESOLVED_SECONDS`.

        Raises ModelUnknown, VersionRevoked.
        """
        known = self._resolved.get(model)
        if known is None or known[0] < time.monotonic():
            known = self._resolved[model] = (
                time.monotonic() + RESOLVED_SECONDS,
                self.resolver.resolve(model),
            )
        return known[1]

    def signature(self, version: ResolvedVersion, offer: NodeOffer | None = None) -> Signature:
        """Inputs and outputs in order: from the manifest (checked by its hash), else by the node's word."""
        key = (version.version_id, offer.node if offer else None)
        known = self._signatures.get((version.version_id, None)) or self._signatures.get(key)
        if known is not None:
            return known
        manifest = self.manifests.fetch(version.version)
        if manifest is not None:
            known = self._signatures[version.version_id, None] = (manifest.inputs, manifest.outputs)
            return known
        if offer is None:
            raise RequestError(
                f"the manifest of {version.reference} is in no hub that is known; set the hub's URL",
                status=404,
                code="manifest_unknown",
            )
        metadata = self.http.get_json(offer.endpoint, model_path(version.model_name, version.number))
        known = self._signatures[key] = (parse_specs(metadata, "inputs"), parse_specs(metadata, "outputs"))
        return known

    # --- money --------------------------------------------------------------------------------------------

    @property
    def purse(self) -> Purse:
        """Escrow and deposits. Raises ConfigurationError without an account."""
        if self._purse is None:
            raise ConfigurationError("this needs an account: give an Ape alias or a keystore file")
        return self._purse

    @property
    def consumer(self) -> Address:
        """This account's address. Raises ConfigurationError without an account."""
        if self.key is None:
            raise ConfigurationError("this needs an account: give an Ape alias or a keystore file")
        return self.key.address

    def fund(self, node: str, amount: int) -> None:
        """Deposit `amount` base units into the escrow with `node`."""
        self.purse.fund(checksum_address(node), amount)

    def acknowledge(self) -> list[str]:
        """Send final vouchers that count every accepted receipt; what failed stays for another time."""
        return self._session.acknowledge()

    def forgive(self, node: str, model: str) -> int:
        """Write off what a blocked channel's node withholds; returns the base units given up."""
        version = self.resolve(model)
        offer = NodeOffer(checksum_address(node), self.directory.endpoint(checksum_address(node)), 0)
        paid = 0 if self._buyer is None else self._buyer.forgive(_target(version, offer))
        return paid + self._session.forgive(_target(version, offer))

    @contextmanager
    def sending(self) -> Iterator[Sender]:
        """The transaction sender of this account, alone with its outbox in the data folder."""
        if self.key is None:
            raise ConfigurationError("transactions need an account: give an Ape alias or a keystore file")
        with self.store.exclusive("sending", "the transaction outbox"):
            outbox = Outbox(self.data / "outbox.sqlite3")
            try:
                with Sender(self.chain, self.key, outbox) as sender:
                    yield sender
            finally:
                outbox.close()

    def _open_buyer(self) -> Buyer | None:
        if self.key is None:
            return None
        wallet = Wallet(self.key, self.chain.chain_id, self.token.address)
        return Buyer(self._session, self.store, self.http, wallet, self.token)

    def _open_purse(self, auto_fund: AutoFund | None) -> Purse | None:
        if self.key is None:
            return None
        return Purse(
            self.settlement,
            self.token,
            domain=self.domain,
            key=self.key,
            store=self.store,
            sender=self.sending,
            auto_fund=auto_fund,
        )


def _target(version: ResolvedVersion, offer: NodeOffer) -> Target:
    return Target(
        offer.node, offer.endpoint, version.version_id, version.model_name, version.number, offer.price
    )
