"""The hub over HTTP: `PUT`, `GET` and `HEAD /v1/artifacts/{sha256}`, its `/program`, `GET /healthz`.

Resumable upload: `HEAD` tells what is there. 200: the artifact, nothing to do. 404: `Upload-Offset` is the
byte to go on from. Send the rest as `PUT` requests with `Content-Range: bytes FIRST-LAST/TOTAL`, each
starting at that offset; an answer of 202 has the next `Upload-Offset`, 201 means checked and stored, 409
tells the right offset. A `PUT` without `Content-Range` is a whole artifact. Nothing can be read before its
digest is checked.

`GET /v1/artifacts/{sha256}/program` lowers the artifact (SPEC.md §10) and answers `{"artifact", "profile",
"outcome", "program_root", "figures", "findings", "reason"}`; `outcome` is `lowered`, `outside` (the findings
say why) or `failed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from assay.errors import RequestError, RetryableError
from assay.exact.program import PROFILE
from assay.hub.digests import MAX_ARTIFACT_BYTES, ArtifactUnknownError, DigestMismatchError, parse_digest
from assay.hub.programs import LoweringBusyError, Programs
from assay.hub.ranges import parse_content_range, parse_range
from assay.hub.spool import Spool
from assay.hub.store import ArtifactStore
from assay.hub.uploads import OffsetConflictError, Uploads
from assay.programs.bounded import DEFAULT_LIMITS, LoweringLimits
from assay.types import ZERO_HASH, Hash32, ProgramOutcome

_CACHE = "public, max-age=31536000, immutable"
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "malformed digest, range or chunk"},
    404: {"description": "no such artifact"},
}


def create_app(
    store: ArtifactStore,
    spool_folder: Path,
    *,
    max_bytes: int = MAX_ARTIFACT_BYTES,
    limits: LoweringLimits = DEFAULT_LIMITS,
) -> FastAPI:
    """An ASGI app over `store`; `spool_folder` holds uploads on their way in, for this process alone."""
    spool = Spool(spool_folder)
    programs = Programs(store, spool_folder / "programs", limits)
    hub = _Hub(store, spool, Uploads(store, spool, max_bytes), programs)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        programs.stop()

    app = FastAPI(title="Assay hub", description=__doc__, docs_url=None, redoc_url=None, lifespan=lifespan)
    path = "/v1/artifacts/{sha256}"
    upload_errors = _ERRORS | {
        409: {"description": "offset conflict"},
        413: {"description": "over the cap"},
        422: {"description": "the body has another digest"},
    }
    download_errors = _ERRORS | {416: {"description": "range outside the artifact"}}
    app.add_api_route(path, hub.put, methods=["PUT"], responses=upload_errors, response_class=Response)
    app.add_api_route(path, hub.get, methods=["GET"], responses=download_errors, response_class=Response)
    app.add_api_route(path, hub.head, methods=["HEAD"], responses=_ERRORS, response_class=Response)
    app.add_api_route(
        f"{path}/program",
        hub.program,
        methods=["GET"],
        responses=_ERRORS | {503: {"description": "too many artifacts wait to be lowered"}},
        response_class=JSONResponse,
    )
    app.add_api_route("/healthz", hub.healthz, methods=["GET"])
    app.add_exception_handler(RequestError, _render_request_error)
    app.add_exception_handler(RetryableError, _render_store_failure)
    app.add_exception_handler(ClientDisconnect, _render_nothing)
    return app


class _Hub:
    """The endpoints."""

    def __init__(self, store: ArtifactStore, spool: Spool, uploads: Uploads, programs: Programs) -> None:
        self._programs = programs
        self._store = store
        self._spool = spool
        self._uploads = uploads

    async def _size(self, digest: Hash32) -> int | None:
        return await to_thread.run_sync(self._store.size, digest)

    async def put(self, sha256: str, request: Request) -> Response:
        """Store an artifact, whole or as one chunk of it."""
        digest = parse_digest(sha256)
        header = request.headers.get("content-range")
        if await self._size(digest) is not None:
            if header is None:
                await self._uploads.compare(digest, request.stream())
            return _accepted(digest, 200)
        if header is None:
            await self._uploads.take_whole(digest, request.stream(), _content_length(request))
            return _accepted(digest, 201)
        chunk = parse_content_range(header)
        if await self._uploads.take_chunk(digest, request.stream(), chunk):
            return _accepted(digest, 201)
        return Response(status_code=202, headers={"Upload-Offset": str(chunk.stop)})

    async def head(self, sha256: str) -> Response:
        """Whether the artifact is there; if not, how far its chunked upload is."""
        digest = parse_digest(sha256)
        size = await self._size(digest)
        if size is None:
            return Response(status_code=404, headers={"Upload-Offset": str(self._spool.offset(digest))})
        return Response(headers=_headers(digest) | {"Content-Length": str(size)})

    async def get(self, sha256: str, request: Request) -> Response:
        """The artifact or one range of it."""
        digest = parse_digest(sha256)
        headers = _headers(digest)
        size = await self._size(digest)
        if size is None:
            raise ArtifactUnknownError(digest, "this hub")
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        span = None
        if request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
            span = parse_range(request.headers.get("range", ""), size)
        start, stop = span or (0, size)
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers["Content-Length"] = str(stop - start)
        body = await to_thread.run_sync(self._store.stream, digest, start, stop)
        return StreamingResponse(body, status_code=206 if span else 200, headers=headers)

    async def program(self, sha256: str) -> Response:
        """What the artifact lowers to."""
        digest = parse_digest(sha256)
        size = await self._size(digest)
        if size is None:
            raise ArtifactUnknownError(digest, "this hub")
        found = await self._programs.lowering(digest, size)
        cached = "public, max-age=86400" if found.outcome is ProgramOutcome.LOWERED else "no-cache"
        content = {"artifact": digest.hex(), "profile": PROFILE, **found.to_json()}
        return JSONResponse(content, headers={"Cache-Control": cached})

    async def healthz(self) -> dict[str, str]:
        """Whether the store answers."""
        await self._size(ZERO_HASH)
        return {"status": "ok"}


def _headers(digest: Hash32) -> dict[str, str]:
    return {
        "ETag": f'"{digest.hex()}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHE,
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def _accepted(digest: Hash32, status: int) -> Response:
    headers = {"ETag": f'"{digest.hex()}"', "Location": f"/v1/artifacts/{digest.hex()}"}
    return JSONResponse({"sha256": digest.hex()}, status_code=status, headers=headers)


async def _render_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    content = {"error": str(error), "code": error.code}
    headers = {}
    if isinstance(error, DigestMismatchError):
        content |= {"expected": error.expected.hex(), "actual": error.actual.hex()}
    if isinstance(error, OffsetConflictError):
        headers["Upload-Offset"] = str(error.offset)
    if isinstance(error, LoweringBusyError):
        headers["Retry-After"] = "60"
    return JSONResponse(content, status_code=error.status, headers=headers)


async def _render_store_failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "code": "store_unavailable"}, status_code=503)


async def _render_nothing(_: Request, __: Exception) -> Response:
    """Nobody is left to read it."""
    return Response(status_code=400)
