"""The model repository extension of the Open Inference Protocol, for the operator: what there is; loading it.

Source: Triton's `extension_model_repository`. A model's name stands for all its versions that this node
knows; `version` among the parameters picks one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

from assay.node.errors import InputError, LoadRefused, NotFound
from assay.node.models.catalog import Catalog, Served, VersionState

_IGNORED: Final = ("unload_dependents",)
"""There are no ensembles, so nothing depends on a version."""


class Lifecycle(Protocol):
    """What brings versions into memory and out of it; `lifecycle.Lifecycle`."""

    async def load(self, served: Served) -> None:
        """Raises LoadRefused with the reason."""

    async def unload(self, served: Served) -> None:
        """After the requests in progress; it stays out until it is loaded by request."""


class Repository:
    """Belongs to the server's event loop."""

    def __init__(self, catalog: Catalog, lifecycle: Lifecycle) -> None:
        self._catalog = catalog
        self._lifecycle = lifecycle

    def index(self, *, ready: bool = False, repository: str = "") -> list[dict[str, str]]:
        """Every version with its state and, unless it is ready, the reason. There is one repository, without
        a name."""
        if repository:
            return []
        return [
            {
                "name": served.full_name,
                "version": str(served.number),
                "state": str(served.state),
                "reason": served.problem,
            }
            for served in sorted(self._catalog, key=lambda served: (served.full_name, served.number))
            if not ready or served.state is VersionState.READY
        ]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Raises NotFound, InputError, LoadRefused (after all versions were tried)."""
        versions = self._versions(name, parameters)
        results = await asyncio.gather(*map(self._lifecycle.load, versions), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if len(failures) > 1 and all(isinstance(failure, LoadRefused) for failure in failures):
            raise LoadRefused("; ".join(map(str, failures)))
        if failures:
            raise failures[0]

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Raises NotFound, InputError."""
        await asyncio.gather(*map(self._lifecycle.unload, self._versions(name, parameters)))

    def _versions(self, name: str, parameters: Mapping[str, Any]) -> list[Served]:
        if unknown := [key for key in parameters if key != "version" and key not in _IGNORED]:
            raise InputError(
                f"parameter {unknown[0][:80]!r} is not supported: a version's files are those on the chain, "
                f"its settings those of node.toml",
                code="input_unsupported",
            )
        versions = self._catalog.versions(name)
        wanted = parameters.get("version")
        if wanted is None:
            return list(versions.values())
        if not str(wanted).isdecimal() or int(wanted) not in versions:
            raise NotFound(
                f"this node knows no version {str(wanted)[:40]} of {name!r}, only "
                + ", ".join(map(str, sorted(versions))),
                code="model_unknown",
            )
        return [versions[int(wanted)]]
