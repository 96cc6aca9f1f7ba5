"""The REST API as an accelerator: it may name candidates, never prices, statuses or balances."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from assay.client.errors import NodeRefused
from assay.client.transport import NodeHttp
from assay.commitments.parsing import parse_address
from assay.errors import AssayError, RequestError
from assay.types import Address, Assurance, Hash32

MAX_CANDIDATES = 1000


class Accelerator:
    """Talks to `assay api`. Raises NodeUnreachable, NodeRefused where it does not answer."""

    def __init__(self, url: str, http: NodeHttp) -> None:
        self.url, self._http = url, http

    def get(self, path: str) -> Any:
        return self._http.get_json(self.url, path, 8 << 20)

    def nodes_offering(self, version_id: Hash32) -> list[Address]:
        """Candidates, to be checked on-chain; empty where the API says nothing usable."""
        try:
            rows = self.get(f"/v1/versions/0x{version_id.hex()}/offers").get("items", [])
            return [parse_address(row["node"], "node") for row in rows[:MAX_CANDIDATES]]
        except NodeRefused:
            return []
        except (RequestError, KeyError, TypeError, AttributeError):
            return []

    def network(self) -> Any:
        """`GET /v1/network`: utility, verified inferences, disputes and slashes, as the index counts them."""
        return self.get("/v1/network")

    def disputes(self, **filters: str) -> Any:
        """`GET /v1/disputes`, newest first; filters: node, challenger, version_id, receipt, state, cursor."""
        return self.get(f"/v1/disputes?{urlencode(filters)}")

    def assurance(self, version_id: Hash32) -> tuple[Assurance, str] | None:
        """What the index holds receipts of a version to be worth, and why if that is less than the version
        claims: it recomputes programs. None where the API says nothing usable.
        """
        try:
            data = self.get(f"/v1/versions/0x{version_id.hex()}")
            return Assurance(data["assurance"]), str(data["assurance_reason"])
        except (AssayError, KeyError, TypeError, ValueError):
            return None

    def proof(self, digest: Hash32) -> Any:
        """`GET /v1/receipts/{digest}/proof`, or None where the API has none."""
        try:
            return self.get(f"/v1/receipts/0x{digest.hex()}/proof")
        except AssayError:
            return None
