"""The REST API over the index database."""

from __future__ import annotations

from assay.api.app import create_app

__all__ = ["create_app"]
