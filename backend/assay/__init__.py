"""Assay: registry and settlement for verified model inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.client import Client as Client

__all__ = ["Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Client":  # lazily: `import assay` must not load numpy, httpx and the chain client
        from assay.client import Client

        return Client
    raise AttributeError(f"module 'assay' has no attribute {name!r}")
