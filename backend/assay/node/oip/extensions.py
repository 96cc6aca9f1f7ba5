"""Extensions of the Open Inference Protocol over HTTP: statistics, configuration, the operator's repository.

Those that this node does not have are refused by name.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from assay.node.endpoints import model_route
from assay.node.errors import InputError, Unsupported
from assay.node.http.messages import Reply, Request, json_reply
from assay.node.http.routes import Handler, Routes
from assay.node.models.catalog import Served
from assay.node.oip.model_config import model_config
from assay.node.oip.repository import Repository
from assay.node.oip.statistics import model_statistics
from assay.node.operator_token import OperatorToken
from assay.node.service import Service

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = _MODEL + "/versions/{version}"
_REPOSITORY: Final = "/v2/repository"


class Extensions:
    """Handlers."""

    def __init__(self, service: Service, repository: Repository, token: OperatorToken) -> None:
        self._service = service
        self._repository = repository
        self._token = token

    def register(self, routes: Routes) -> None:
        routes.add("GET", "/v2/models/stats", self.statistics)
        for base in (_MODEL, _VERSION):
            routes.add("GET", base + "/stats", self.statistics)
            routes.add("GET", base + "/config", self.config)
        routes.add("POST", _REPOSITORY + "/index", self.index)
        routes.add("POST", _REPOSITORY + "/models/{model}/load", self.load)
        routes.add("POST", _REPOSITORY + "/models/{model}/unload", self.unload)
        _register_unsupported(routes)

    async def statistics(self, request: Request) -> Reply:
        route = model_route(request) if "model" in request.parts else None
        return json_reply({"model_stats": model_statistics(self._service.catalog, route)})

    async def config(self, request: Request) -> Reply:
        served = described(self._service.catalog.find(model_route(request)))
        name = request.parts["model"]
        return json_reply(model_config(served, name, self._service.catalog.versions(name)))

    async def index(self, request: Request) -> Reply:
        self._check_operator(request, "the repository's index")
        ready = _body(request).get("ready", False)
        if not isinstance(ready, bool):
            raise InputError("ready: expected true or false", code="input_json")
        return json_reply(self._repository.index(ready=ready))

    async def load(self, request: Request) -> Reply:
        self._check_operator(request, "loading a model")
        await self._repository.load(request.parts["model"], _parameters(request))
        return Reply(200)

    async def unload(self, request: Request) -> Reply:
        self._check_operator(request, "unloading a model")
        await self._repository.unload(request.parts["model"], _parameters(request))
        return Reply(200)

    def _check_operator(self, request: Request, what: str) -> None:
        value = request.headers.get(b"authorization")
        self._token.check(None if value is None else value.decode("latin-1"), what)


def described(served: Served) -> Served:
    """The version if its signature is known. Raises Unavailable."""
    if not served.inputs and not served.outputs:
        raise served.refusal(asked=False)
    return served


def _body(request: Request) -> dict[str, Any]:
    """An optional JSON object. Raises InputError."""
    try:
        found = orjson.loads(request.body) if request.body else {}
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body's JSON does not parse: {error}", code="input_json") from None
    if not isinstance(found, dict):
        raise InputError(f"the body must be a JSON object, not {type(found).__name__}", code="input_json")
    return found


def _parameters(request: Request) -> dict[str, Any]:
    found = _body(request).get("parameters") or {}
    if not isinstance(found, dict):
        raise InputError("parameters: expected a JSON object", code="input_json")
    return found


def _register_unsupported(routes: Routes) -> None:
    paths = {"/v2/logging": "log settings", "/v2/trace/setting": "trace settings"}
    for kind in ("systemsharedmemory", "cudasharedmemory"):
        for action in ("status", "register", "unregister"):
            paths[f"/v2/{kind}/{action}"] = paths[f"/v2/{kind}/region/{{region}}/{action}"] = "shared memory"
    for base in (_MODEL, _VERSION):
        paths[base + "/trace/setting"] = "trace settings"
        paths[base + "/generate"] = paths[base + "/generate_stream"] = "text generation"
    for path, what in paths.items():
        for method in ("GET", "POST"):
            routes.add(method, path, _refuse(what))


def _refuse(what: str) -> Handler:
    async def refuse(request: Request) -> Reply:
        raise Unsupported(what)

    return refuse
