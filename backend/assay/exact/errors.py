"""What can be wrong with a program's bytes (SPEC.md §10)."""

from __future__ import annotations

from assay.errors import RequestError


class RecordError(RequestError):
    """Bytes that are no header or kernel of this profile, or a kernel that no step can be proven of."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="record_invalid")
