"""One running node: puts the parts together, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from assay.chain.outbox import Outbox
from assay.commitments.signing import SigningKey
from assay.errors import ConfigurationError, FatalError
from assay.node.config import (
    MIB,
    OUTBOX_FILE,
    NodeConfig,
)
from assay.node.disputes.tracing import TraceSource
from assay.node.engines.engine import Engine
from assay.node.engines.opening import same_engine
from assay.node.engines.runtime import limit_arena
from assay.node.http.exchange import Limits
from assay.node.http.server import HttpServer
from assay.node.models.catalog import Catalog
from assay.node.models.lifecycle import Lifecycle
from assay.node.models.loader import VersionRecord
from assay.node.models.offers import OfferScan
from assay.node.observability.counting import Distribution
from assay.node.observability.metrics import Metrics
from assay.node.observability.request_log import RequestLog
from assay.node.oip.extensions import Extensions
from assay.node.oip.repository import Repository
from assay.node.open_files import max_connections
from assay.node.operator_token import load_token
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.payments.follower import Follower
from assay.node.payments.gate import Gate
from assay.node.places import Places
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.import_process import ImportProcess
from assay.node.receipts.journal_mark import open_journal
from assay.node.receipts.journal_writer import JournalWriter
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.log_place import open_log
from assay.node.receipts.writer import ReceiptWriter
from assay.node.server import Server
from assay.node.service import Service
from assay.node.settlement.cover import StakeCover
from assay.node.settlement.money import ProfitRoute, outbox_file
from assay.node.settlement.sending import RunningThreads, Sending
from assay.node.standing import StandingRoute
from assay.node.startup import (
    build_loader,
    check_registered,
    describe_all,
    folder_lock,
    load_signer,
    memory_budget,
    open_chain,
    usable_cores,
)
from assay.node.views import NodeInfo
from assay.types import Hash32

if TYPE_CHECKING:
    from assay.node.grpc.server import GrpcServer
    from assay.node.settlement.standby import Standby

GRACE_SECONDS: Final = 15

Progress = Callable[[str], None]


def spare_collections() -> None:
    """Leave what is there for good out of garbage collections, and collect less often: requests leave no
    cycles behind, and a full collection of all modules stops the event loop for tens of milliseconds. The
    chain's client leaves a few hundred objects a second: ten thousand are a few megabytes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)


def same_traces(source: TraceSource) -> TraceSource:
    """The node's own traces as they are."""
    return source


@dataclass
class NodeProcess:
    """`run` serves until SIGINT or SIGTERM, or until a part fails for good.

    `wrap_engine` makes what serves of what runs a loaded version; `wrap_traces` what disputes are answered
    from, out of the traces of the log's own inputs.
    """

    folder: Path
    config: NodeConfig
    progress: Progress = print
    grace_seconds: int = GRACE_SECONDS
    wrap_engine: Callable[[Engine], Engine] = same_engine
    wrap_traces: Callable[[TraceSource], TraceSource] = same_traces

    def run(self) -> None:
        """Raises ConfigurationError, FatalError, RetryableError (the chain cannot be reached at the
        start)."""
        self._failure: FatalError | None = None
        self._http: HttpServer | None = None
        self._sending: RunningThreads | Standby | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(folder_lock(self.folder))
            signer = load_signer(self.folder, self.config)
            client, deployment = open_chain(self.folder, self.config)
            stack.enter_context(client)
            ledger = ChainLedger(client, deployment, self.config.node)
            check_registered(ledger, signer)
            records = describe_all(ledger, self.config)
            limit_arena(self.config.limits.arena_mib * MIB + memory_budget(self.config).size)
            log = open_log(self.folder, self.config, deployment.domain)
            stack.callback(log.close)
            sock = self._listen()
            stack.callback(sock.close)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(signer, ledger, records, log, sock))
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> socket.socket:
        try:
            return socket.create_server((self.config.host, self.config.port), backlog=1024)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self.config.host}:{self.config.port}: {error.strerror}; "
                "stop what listens there, or change port in node.toml"
            ) from None

    def _fail(self, error: FatalError) -> None:
        """A part ended for good: stop everything."""
        self._failure = self._failure or error
        if self._http is not None:
            self._http.close()

    def _settles(self) -> bool:
        return self._sending is not None and self._sending.leads

    def _fail_from(self, loop: asyncio.AbstractEventLoop) -> Callable[[FatalError], None]:
        def fail(error: FatalError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: the node is stopping already
                loop.call_soon_threadsafe(self._fail, error)

        return fail

    async def _serve(
        self,
        signer: SigningKey,
        ledger: ChainLedger,
        records: list[VersionRecord],
        log: ReceiptLog,
        sock: socket.socket,
    ) -> None:
        config, limits, deployment = self.config, self.config.limits, ledger.deployment
        catalog = Catalog(record.served for record in records)
        follower = Follower(
            ledger,
            log,
            catalog.version_ids,
            poll_seconds=config.settlement.poll_seconds,
            max_age_seconds=config.view_max_age_seconds,
            thaw_margin_seconds=config.settlement.thaw_margin_seconds,
        )
        metrics = Metrics(limits.deadline_ms / 1000)
        metrics.memory_budget.set(memory_budget(config).size)
        gate, writer = self._build_gate(signer, ledger, follower, log, metrics.commit_group)
        pool = ThreadPoolExecutor(max(usable_cores(), 2), thread_name_prefix="parsing")
        service = Service(
            domain=deployment.domain,
            node=config.node,
            signer=signer.address,
            catalog=catalog,
            follower=follower,
            gate=gate,
            log=log,
            writer=writer,
            pool=pool,
            metrics=metrics,
            max_elements=limits.max_elements,
            request_log=RequestLog(config.logs.requests, config.logs.slow_seconds),
            places=Places(limits.max_concurrent),
        )
        app = Server(
            service,
            NodeInfo(signer.address, config.endpoint, self._settles),
            Limits(
                max_body=limits.max_body_mib * MIB,
                max_json=limits.max_json_mib * MIB,
                max_concurrent=limits.max_concurrent,
                max_bytes_in_progress=limits.max_mib_in_progress * MIB,
                max_connections=max_connections(config),
            ),
        )
        self._http = HttpServer(app, app.connections, self.grace_seconds)
        self._handle_signals(app)
        await follower.start()
        cover = await self._start_cover(follower, gate, ledger, log)
        writer.start()
        self._sending = sending = await asyncio.to_thread(
            self._start_sending, signer, ledger, log, asyncio.get_running_loop()
        )
        lifecycle = self._build_lifecycle(ledger, catalog, follower)
        lifecycle.start(records)
        grpc = x402 = None
        try:
            grpc = await self._open_doors(app, service, Repository(catalog, lifecycle))
            self._profit_route(ledger, log, catalog).register(app.routes)
            host, port = sock.getsockname()[:2]
            if config.x402.facilitator:
                from assay.node.x402.opening import open_x402  # for those alone who want it

                x402 = await open_x402(
                    config.x402,
                    app,
                    service,
                    ledger,
                    database=log.database,
                    key=signer,
                    endpoint=config.endpoint,
                    address=(host, port),
                )
            self.progress(f"node {config.node} listens on http://{host}:{port}")
            spare_collections()
            await self._http.serve(sock)
        finally:
            app.stopping = True
            self.progress("stopping: requests in progress are finished, receipts are written")
            if grpc is not None:
                await grpc.stop(self.grace_seconds)
            if x402 is not None:
                await x402.stop()
            await lifecycle.stop()
            if cover is not None:
                await cover.stop()
            await follower.stop()
            await asyncio.to_thread(sending.stop)
            await writer.stop()
            pool.shutdown(wait=False, cancel_futures=True)

    async def _open_doors(self, app: Server, service: Service, repository: Repository) -> GrpcServer | None:
        """What there is beside plain HTTP inference: the operator's routes, and gRPC if it is wanted."""
        token = load_token(self.folder)
        Extensions(service, repository, token).register(app.routes)
        StandingRoute(service.catalog, token, self._settles).register(app.routes)
        config = self.config
        if not config.grpc.port:
            return None
        from assay.node.grpc.server import build_server  # grpcio is for those alone who want it

        grpc = build_server(
            service,
            repository,
            token,
            app,
            max_elements=config.limits.max_elements,
            buffer_bytes=config.grpc.buffer_mib * MIB,
        )
        port = await grpc.start(config.host, config.grpc.port)
        self.progress(f"node {config.node} listens for gRPC on {config.host}:{port}")
        return grpc

    def _handle_signals(self, app: Server) -> None:
        loop = asyncio.get_running_loop()
        http = self._http

        def stop() -> None:
            app.stopping = True
            if http is not None:
                http.close()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)

    async def _start_cover(
        self, follower: Follower, gate: Gate, ledger: ChainLedger, log: ReceiptLog
    ) -> StakeCover | None:
        """What holds paid requests to the stake, where a stake can be lost."""
        if not ledger.deployment.has_disputes:
            return None

        def stake() -> int | None:
            return follower.last_view.stake if follower.last_view else None

        def unread() -> int:
            return log.pending.value if log.pending is not None else 0

        seconds = self.config.settlement.poll_seconds
        if log.is_shared:
            from assay.node.settlement.shared_cover import SharedCover

            cover: StakeCover = SharedCover(log.database, stake, poll_seconds=seconds)
        else:
            cover = StakeCover(log.database, stake, unread=unread, poll_seconds=seconds)
        gate.cover = cover
        await cover.start()
        return cover

    def _profit_route(self, ledger: ChainLedger, log: ReceiptLog, catalog: Catalog) -> ProfitRoute:
        def names() -> dict[Hash32, str]:
            return {one.version_id: f"{one.full_name}@{one.number}" for one in catalog}

        price, outbox = self.config.settlement.native_price, outbox_file(self.folder, log.database)
        return ProfitRoute(log.database, ledger, price, load_token(self.folder), names, outbox=outbox)

    def _build_gate(
        self,
        signer: SigningKey,
        ledger: ChainLedger,
        follower: Follower,
        log: ReceiptLog,
        groups: Distribution,
    ) -> tuple[Gate, ReceiptWriter]:
        domain, most = ledger.deployment.domain, self.config.limits.max_unacknowledged
        if not log.is_shared:
            gate = Gate(domain, log, follower, ledger, max_unacknowledged=most)
            assert isinstance(log.database, SqliteDatabase)
            journal = open_journal(log.database, self.folder)
            tables = ImportProcess(log.database.path)
            return gate, JournalWriter(log, journal, signer, self._fail, groups=groups, tables=tables)
        from assay.node.payments.shared_gate import SharedGate
        from assay.node.receipts.shared_writer import SharedWriter

        shared = SharedGate(domain, log, follower, ledger, max_unacknowledged=most)
        return shared, SharedWriter(log, signer, self._fail, shared)

    def _start_sending(
        self, signer: SigningKey, ledger: ChainLedger, log: ReceiptLog, loop: asyncio.AbstractEventLoop
    ) -> RunningThreads | Standby:
        fail = self._fail_from(loop)
        sending = Sending(
            self.folder, self.config, signer, ledger, self.wrap_traces, fail, self.grace_seconds
        )
        if not log.is_shared:
            return sending.start(log.database, Outbox(self.folder / OUTBOX_FILE))
        from assay.node.settlement.standby import stand_by

        return stand_by(log, sending)

    def _build_lifecycle(self, ledger: ChainLedger, catalog: Catalog, follower: Follower) -> Lifecycle:
        config = self.config
        loader = replace(build_loader(self.folder, config), wrap=self.wrap_engine)
        return Lifecycle(
            catalog,
            loader,
            lambda: follower.view,
            memory_budget(config),
            find_offered=OfferScan(ledger).find if config.serve_offers else list,
            poll_seconds=config.settlement.poll_seconds,
            progress=self.progress,
            fail=self._fail,
        )
