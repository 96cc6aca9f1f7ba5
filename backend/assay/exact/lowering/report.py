"""What the profile says of a model: a finding for each node that is outside, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.errors import RequestError
from assay.exact.program import Program


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a model is not in the profile. `node` is empty where the whole file is meant."""

    node: str
    op_type: str
    reason: str
    cure: str

    def __str__(self) -> str:
        where = f"{self.op_type} {self.node!r}: " if self.node else ""
        return f"{where}{self.reason}; {self.cure}"


@dataclass(frozen=True)
class Report:
    """Either a program and no findings, or findings and no program."""

    findings: tuple[Finding, ...]
    program: Program | None = None

    @property
    def is_exact(self) -> bool:
        return self.program is not None


class UnsupportedModel(RequestError):  # noqa: N818 - a state of the model, like ArtifactRefused
    """The artifact is outside the exact profile; it can be published with `signed` assurance."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        super().__init__(
            f"the model is not in the exact profile: {self.findings[0]}{more}", code="model_not_exact"
        )


class Refusal(Exception):  # noqa: N818 - becomes a Finding, never leaves the package
    """Raised while one node is lowered: why it is outside the profile, and what to do about it."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cure = cure
