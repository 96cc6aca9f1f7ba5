"""Before a version is sold by x402, the node asks itself for it without paying, and must be refused.

What answers is the node's own HTTP interface, on its own socket: whatever stands before the model is proven
together. A priced version that answers is closed to everybody, until the node is started anew or the version
costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

import httpx
import numpy as np
import structlog

from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.engines.engine import Engine
from assay.node.models.catalog import Served
from assay.node.service import Service
from assay.node.x402 import wire
from assay.node.x402.counting import PaymentCounters
from assay.node.x402.door import Door

PROBE_SECONDS: Final = 1.0
REQUEST_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)


class Prober:
    """Asks for every priced version once it is loaded, and again while it was not refused as it should be."""

    def __init__(self, service: Service, door: Door, counters: PaymentCounters, url: str) -> None:
        self._service = service
        self._door = door
        self._counters = counters
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=REQUEST_SECONDS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._http.aclose()

    async def _run(self) -> None:
        while True:
            try:
                await self.probe_all()
            except Exception as error:
                _log.warning("cannot prove that unpaid requests are refused", error=str(error))
            await asyncio.sleep(PROBE_SECONDS)

    async def probe_all(self) -> None:
        """One look at every version. Raises RequestError while the chain is out of sight."""
        for served in list(self._service.catalog):
            version_id = served.version_id
            if not self._door.price(served):
                self._door.proven.discard(version_id)
                self._service.unguarded.pop(version_id, None)
            elif version_id not in self._door.proven and served.engine is not None:
                await self._probe(served, served.engine)
        self._counters.proven.set(len(self._door.proven))
        self._counters.unguarded.set(len(self._service.unguarded))

    async def _probe(self, served: Served, engine: Engine) -> None:
        path = f"/v2/models/{quote(served.full_name, safe='')}/versions/{served.number}/infer"
        what = f"{served.full_name} version {served.number}"
        try:
            response = await self._http.post(path, json=unpaid_request(engine))
        except httpx.HTTPError as error:
            _log.warning("cannot ask this node for an unpaid request", version=what, error=repr(error))
            return
        if response.status_code == 402 and wire.REQUIRED.decode() in response.headers:
            self._door.proven.add(served.version_id)
            _log.info("unpaid requests are refused; sold by x402", version=what)
        elif response.status_code == 200 and self._door.price(served):
            self._service.unguarded[served.version_id] = "it answered a request that nobody paid for"
            _log.error("closed: a priced version answered an unpaid request", version=what)
        elif response.status_code not in (200, 503):
            _log.warning(
                "an unpaid request was not answered with 402, so nothing is sold by x402",
                version=what,
                status=response.status_code,
                said=response.text[:200],
            )


def unpaid_request(engine: Engine) -> dict[str, Any]:
    """One row of zeros and empty strings, as Open Inference Protocol JSON."""
    tensors = []
    for spec in engine.inputs:
        shape = [1 if dim == -1 else dim for dim in spec.shape]
        dtype = OIP_TO_NUMPY[spec.dtype]
        size = int(np.prod(shape))
        data: list[Any] = [""] * size if dtype.kind == "O" else np.zeros(size, dtype).tolist()
        tensors.append({"name": spec.name, "datatype": spec.dtype, "shape": shape, "data": data})
    return {"inputs": tensors}
