"""x402's facilitator interface over HTTP: `POST /verify`, `POST /settle`, `GET /supported`, `GET /health`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from x402.schemas import PaymentPayload, PaymentRequirements, SettleRequest, SettleResponse, VerifyResponse

from assay.errors import AssayError, RequestError, RetryableError
from assay.facilitator.settling import LocalFacilitator

MAX_BODY: Final = 65_536
MAX_AT_ONCE: Final = 32
"""Payments in work; each holds a thread until its transaction is mined."""

T = TypeVar("T", VerifyResponse, SettleResponse)


def create_app(facilitator: LocalFacilitator) -> FastAPI:
    """Refuses with `{"error"}`: 400 malformed, 413 too large, 503 busy or out of sight of the chain."""
    app = FastAPI(title="Assay x402 facilitator", docs_url=None, redoc_url=None, openapi_url=None)
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def answer(
        request: Request, act: Callable[[PaymentPayload, PaymentRequirements], T]
    ) -> JSONResponse:
        try:
            asked = await _asked(request)
            if slots.locked():
                raise RetryableError("too many payments are in work; ask again")
            async with slots:
                return _json(await asyncio.to_thread(act, asked.payment_payload, asked.payment_requirements))
        except RetryableError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "2"})
        except RequestError as error:
            return JSONResponse({"error": str(error)}, error.status)
        except (AssayError, ValueError, KeyError, TypeError) as error:
            return JSONResponse({"error": f"the payment cannot be read: {str(error)[:500]}"}, 400)

    @app.post("/verify")
    async def verify(request: Request) -> JSONResponse:
        return await answer(request, facilitator.verify)

    @app.post("/settle")
    async def settle(request: Request) -> JSONResponse:
        return await answer(request, facilitator.settle)

    @app.get("/supported")
    async def supported() -> JSONResponse:
        return _json(facilitator.supported())

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"network": facilitator.rules.network, "token": facilitator.rules.token}

    return app


async def _asked(request: Request) -> SettleRequest:
    """Raises RequestError."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise RequestError(f"the body has more than {MAX_BODY} bytes", status=413)
        parts.append(part)
    try:
        asked = SettleRequest.model_validate_json(b"".join(parts))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, found["loc"]))
        raise RequestError(f"not a payment of x402 version 2: {where}: {found['msg']}") from None
    if asked.x402_version != 2:
        raise RequestError(f"x402 version {asked.x402_version} is not settled here; use 2")
    return asked


def _json(value: BaseModel) -> JSONResponse:
    return JSONResponse(value.model_dump(by_alias=True, exclude_none=True))
