"""What a check of the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `cure` is what to type or change; empty where all is well."""

    name: str
    ok: bool
    detail: str
    cure: str = ""
