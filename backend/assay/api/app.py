"""The REST API over the index database. Read-only: it has no key, no chain client and no write access."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from assay import __version__
from assay.api.context import Context
from assay.api.metrics import Metrics, MetricsMiddleware
from assay.api.routes import batches, disputes, feed, health, models, network, nodes
from assay.errors import RequestError
from assay.index.probe import PERIOD

DESCRIPTION = """What an index of the Assay contracts knows: models, nodes, batches, receipts, figures.

Nothing here has to be believed: `/v1/receipts/{digest}/proof` returns what the contracts check. A `signed`
receipt is never called verified. Every answer says as of which block it is."""


def create_app(
    engine: Engine, *, probe_period: float = float(PERIOD), clock: Callable[[], float] = time.time
) -> FastAPI:
    """`engine` should be opened read-only."""
    app = FastAPI(title="Assay", version=__version__, description=DESCRIPTION, redoc_url=None)
    metrics = Metrics()
    app.state.context = Context(engine, probe_period, clock, metrics)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    for module in (models, nodes, batches, disputes, network, feed, health):
        app.include_router(module.router)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _body(status: int, error: str, code: str, detail: Any = None, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": error, "code": code, "detail": detail}, status, headers=headers)


def _request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return _body(error.status, str(error), error.code)


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    details = [{"where": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()]
    first = details[0]
    return _body(422, f"{first['where']}: {first['problem']}", "parameter_invalid", details)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    text = f"{request.method} {request.url.path[:200]}: {error.detail}; see /docs for what there is"
    return _body(error.status_code, text, codes.get(error.status_code, "http_error"), None, error.headers)
