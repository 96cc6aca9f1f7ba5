"""What `assay node doctor` looks at: each thing that a node needs, what was found, and the cure where it is
missing."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.commitments.signing import SigningKey
from assay.errors import AssayError, RetryableError
from assay.node.config import FILE, MIB, POSTING_SECONDS, NodeConfig, load_config, resolve_path
from assay.node.disputes.dispute_log import read_disputes
from assay.node.engine_checks import check_executor, check_memory, cost_of
from assay.node.finding import Finding
from assay.node.models.loader import describe_version
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.log_place import log_database
from assay.node.receipts.unbatched import read_exposure
from assay.node.startup import build_loader, folder_lock, load_signer
from assay.types import Address

MAX_SKEW_SECONDS: Final = 120
MIN_FREE_BYTES: Final = 512 * MIB
MIN_POSTINGS: Final = 20
GAS_PER_POSTING: Final = 150_000
GAS_PER_DEFENCE: Final = 1_500_000
"""The node's moves of one long dispute."""


class Doctor:
    """Runs the checks in order; a check whose ground is missing is left out. Raises nothing but bugs."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def examine(self) -> Iterator[Finding]:
        try:
            config = load_config(self._folder)
        except AssayError as error:
            path = self._folder / FILE
            cure = f"correct {path}" if path.exists() else f"assay node init --data {self._folder}"
            yield Finding("configuration", False, str(error), cure)
            return
        yield Finding("configuration", True, str(self._folder / "node.toml"))
        yield self._disk()
        yield check_memory(config)
        yield self._log(config)
        yield from self._port(config)
        if config.x402.facilitator:
            yield self._facilitator(config)
        signer, finding = self._signer(config)
        yield finding
        client, finding = self._rpc(config)
        yield finding
        if client is None:
            return
        with client:
            deployment, finding = self._contracts(client, config)
            yield finding
            if deployment is None:
                return
            ledger = ChainLedger(client, deployment, config.node)
            try:
                yield self._clock_skew(client)
                yield from self._node(ledger, signer)
                if signer is not None:
                    yield self._gas(client, signer.address, disputes=deployment.has_disputes)
                yield self._thaw(ledger, config)
                if deployment.has_disputes:
                    yield self._cover(ledger, config)
                yield from self._disputes(ledger, config)
                yield from self._versions(ledger, config)
            except RetryableError as error:
                yield Finding("RPC", False, str(error), "check rpc_urls in node.toml, or try again")

    def _disk(self) -> Finding:
        free = shutil.disk_usage(self._folder).free
        if not os.access(self._folder, os.W_OK):
            return Finding(
                "disk", False, f"{self._folder} is not writable", f"give this user the folder {self._folder}"
            )
        if free < MIN_FREE_BYTES:
            cure = "free space, or move the folder: no signature leaves without a durable receipt"
            return Finding("disk", False, f"{free // MIB} MiB free at {self._folder}", cure)
        return Finding("disk", True, f"{free // MIB} MiB free")

    def _log(self, config: NodeConfig) -> Finding:
        try:
            database = log_database(self._folder, config)
            known = database.exists()
            database.close()
        except AssayError as error:
            cure = "correct [log] in node.toml, or start the server that it names"
            return Finding("receipts log", False, str(error), cure)
        return Finding("receipts log", True, database.name + ("" if known else ", made at the first start"))

    def _port(self, config: NodeConfig) -> Iterator[Finding]:
        try:
            with folder_lock(self._folder):
                pass
        except AssayError:
            yield Finding("port", True, f"this node runs (it holds {self._folder / 'lock'})")
            return
        yield _free_port("port", config.host, config.port)
        if config.grpc.port:
            yield _free_port("gRPC port", config.host, config.grpc.port)

    def _facilitator(self, config: NodeConfig) -> Finding:
        from assay.node.x402.facilitator import find_problem  # for those alone who want it

        url = config.x402.facilitator
        if problem := find_problem(url, config.chain_id):
            cure = "start it (`assay facilitator run`), or correct facilitator in [x402] of node.toml"
            return Finding("x402 facilitator", False, f"{url}: {problem}", cure)
        return Finding("x402 facilitator", True, f"{url}, of chain {config.chain_id}")

    def _signer(self, config: NodeConfig) -> tuple[SigningKey | None, Finding]:
        try:
            key = load_signer(self._folder, config)
        except AssayError as error:
            cure = "correct signer and password_file in node.toml, or run `assay node init`"
            return None, Finding("signer key", False, str(error), cure)
        password_file = resolve_path(self._folder, config.password_file)
        if password_file.stat().st_mode & 0o077:
            cure = f"chmod 600 {password_file}"
            return key, Finding("signer key", False, f"others can read {password_file}", cure)
        return key, Finding("signer key", True, key.address)

    def _rpc(self, config: NodeConfig) -> tuple[ChainClient | None, Finding]:
        client = ChainClient(config.rpc_urls, config.chain_id, timeout=5.0, attempts=2)
        try:
            block = client.block_number()
        except AssayError as error:
            client.close()
            return None, Finding("RPC", False, str(error), "check rpc_urls and chain_id in node.toml")
        return client, Finding("RPC", True, f"chain {config.chain_id}, block {block}")

    def _contracts(self, client: ChainClient, config: NodeConfig) -> tuple[Deployment | None, Finding]:
        try:
            deployment = Deployment.load(resolve_path(self._folder, config.deployments), config.chain_id)
            absent = [name for name, address in deployment.addresses.items() if not client.get_code(address)]
        except AssayError as error:
            return None, Finding("contracts", False, str(error), "correct deployments in node.toml")
        if absent:
            detail = f"no code on this chain at {', '.join(absent)} of {deployment.folder}"
            return None, Finding(
                "contracts", False, detail, "deploy there, or correct deployments in node.toml"
            )
        return deployment, Finding("contracts", True, f"settlement {deployment.address('Settlement')}")

    def _clock_skew(self, client: ChainClient) -> Finding:
        """A clock behind the chain's dates receipts out of reach; the chain's may lag when no block is
        mined."""
        ahead = client.get_block("latest").timestamp - self._clock()
        if ahead > MAX_SKEW_SECONDS:
            detail = f"this clock is {ahead:.0f} s behind the chain's latest block"
            return Finding(
                "clock", False, detail, "set the clock (NTP): clients refuse receipts dated wrongly"
            )
        return Finding("clock", True, f"{max(ahead, 0):.0f} s behind the chain")

    def _node(self, ledger: ChainLedger, signer: SigningKey | None) -> Iterator[Finding]:
        found = ledger.nodes.node(ledger.node)
        if not found.is_registered:
            cure = f"assay node init --data {self._folder}"
            yield Finding("registration", False, f"node {ledger.node} is not registered", cure)
            return
        yield Finding("registration", True, f"{ledger.node} at {found.endpoint}")
        if signer is not None:
            matches = found.signer == signer.address
            detail = f"the chain has {found.signer}" + ("" if matches else f", the keystore {signer.address}")
            cure = "" if matches else "use that key, or `assay node init --rotate-signer`"
            yield Finding("signer", matches, detail, cure)
        minimum = ledger.nodes.min_stake()
        enough = found.stake >= minimum
        cure = "" if enough else f"assay node init --data {self._folder} (adds stake)"
        yield Finding("stake", enough, f"{found.stake} of at least {minimum}", cure)

    def _gas(self, client: ChainClient, signer: Address, *, disputes: bool) -> Finding:
        balance, price = client.get_balance(signer), posting_price(client)
        needed = price * MIN_POSTINGS
        what = f"{MIN_POSTINGS} batches"
        if disputes:
            needed += price * GAS_PER_DEFENCE // GAS_PER_POSTING
            what += " and one dispute"
        if balance < needed:
            detail = f"signer has {balance} wei, {what} may cost {needed}"
            return Finding("gas", False, detail, f"send {signer} at least {needed - balance} wei")
        return Finding("gas", True, f"{balance} wei, enough for about {balance // price} batches")

    def _thaw(self, ledger: ChainLedger, config: NodeConfig) -> Finding:
        """Escrow must not be able to leave before a batch that was opened as it began to thaw is posted."""
        period, needed = ledger.settlement.escrow_thaw_period(), config.settlement.thaw_margin_seconds
        if period < needed:
            most = max(period - POSTING_SECONDS, 0)
            cure = (
                f"set max_age_seconds in [settlement] to at most {most}"
                if most
                else "serve prepaid requests alone, or on a deployment whose escrow thaws more slowly"
            )
            detail = f"escrow can leave after {period} s, a batch may take {needed} s to be posted"
            return Finding("escrow thaw", False, detail, cure)
        return Finding("escrow thaw", True, f"{period} s; a batch is posted within {needed} s")

    def _cover(self, ledger: ChainLedger, config: NodeConfig) -> Finding:
        """Paid requests are refused once what is at risk exceeds the stake."""
        stake = ledger.nodes.node(ledger.node).stake
        log = log_database(self._folder, config)
        at_risk = 0
        if log.exists():
            with log.session() as connection:
                at_risk = read_exposure(connection).total
        detail = f"receipts worth {at_risk} can still be disputed, the stake is {stake}"
        if at_risk * 10 > stake * 9:
            cure = (
                f"add stake (`assay node init --data {self._folder} --stake …`), or wait for windows to pass"
            )
            return Finding("cover", False, detail + ": paid requests are, or soon will be, refused", cure)
        return Finding("cover", True, detail)

    def _disputes(self, ledger: ChainLedger, config: NodeConfig) -> Iterator[Finding]:
        """What the chain counts and what the defender's log knows of it."""
        frozen = ledger.nodes.node(ledger.node).frozen
        if not frozen:
            return
        known = read_disputes(log_database(self._folder, config))
        told = "; ".join(
            f"dispute {row.dispute_id} of receipt 0x{row.digest.hex()}, "
            + (f"this node's move until {row.deadline}" if row.is_ours else "the challenger's move")
            + (f": {row.problem}" if row.problem else "")
            for row in known
        )
        problems = [row for row in known if row.problem is not None]
        cure = "keep this node running: it answers by itself, and an unanswered move loses stake"
        if problems:
            cure = "mend what the problem names before the deadline (chain time)"
        yield Finding("disputes", False, f"{frozen} open; {told or 'the node has not seen them yet'}", cure)

    def _versions(self, ledger: ChainLedger, config: NodeConfig) -> Iterator[Finding]:
        if not config.versions and not config.serve_offers:
            cure = "assay node init --serve PUBLISHER/NAME@NUMBER=PRICE"
            yield Finding("versions", False, "node.toml names no version to serve", cure)
        loader = build_loader(self._folder, config)
        for version in config.versions:
            name = f"version {version}"
            try:
                record = describe_version(ledger, Address(version.publisher), version.name, version.number)
                offer = ledger.nodes.offer_of(ledger.node, record.served.version_id)
                prepared = loader.prepare(record)
            except AssayError as error:
                cure = "correct or remove it in node.toml"
                if isinstance(error, RetryableError):
                    cure = "check hub_url in node.toml, or push it to the hub"
                yield Finding(name, False, str(error), cure)
                continue
            if not offer.active:
                cure = f"assay node init --data {self._folder} (offers it)"
                yield Finding(name, False, "loads, but is not offered on the chain", cure)
            else:
                yield Finding(name, True, f"loads{cost_of(prepared)}, offered at {offer.price}")
            if prepared.remote is not None:
                yield check_executor(prepared.remote, name)


def _free_port(name: str, host: str, port: int) -> Finding:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        cure = "stop what listens there, or change host and port in node.toml"
        return Finding(name, False, f"{host}:{port}: {error.strerror}", cure)
    return Finding(name, True, f"{host}:{port} is free")


def posting_price(client: ChainClient) -> int:
    """Wei that posting one batch may cost, at twice today's base fee. Raises RetryableError."""
    return 2 * (client.get_block("latest").base_fee or 10**9) * GAS_PER_POSTING
