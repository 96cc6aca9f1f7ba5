"""What lowering one artifact gave, as a value that goes through pipes and caches as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from assay.exact.lowering import Finding, Report
from assay.programs.figures import Figures, figures_of
from assay.types import Hash32, ProgramOutcome

MAX_FINDINGS = 200
"""Kept of a hostile file's."""
MAX_TEXT = 1_000


@dataclass(frozen=True, slots=True)
class Lowering:
    """`root`, `figures` if `outcome` is LOWERED; `findings` if OUTSIDE; `reason`: why there is no root."""

    outcome: ProgramOutcome
    root: Hash32 | None = None
    figures: Figures | None = None
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def is_lasting(self) -> bool:
        """Whether another try gives the same; limits and crashes depend on the machine."""
        return self.outcome in (ProgramOutcome.LOWERED, ProgramOutcome.OUTSIDE)

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "program_root": None if self.root is None else "0x" + self.root.hex(),
            "figures": None if self.figures is None else asdict(self.figures),
            "findings": [asdict(finding) for finding in self.findings],
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Any) -> Lowering:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` did not make."""
        root, figures = data["program_root"], data["figures"]
        return cls(
            outcome=ProgramOutcome(data["outcome"]),
            root=None if root is None else Hash32(bytes.fromhex(root[2:])),
            figures=None if figures is None else Figures(**figures),
            findings=tuple(Finding(**finding) for finding in data["findings"]),
            reason=str(data["reason"]),
        )


def lowering_of(report: Report) -> Lowering:
    if report.program is not None:
        return Lowering(ProgramOutcome.LOWERED, report.program.root, figures_of(report.program))
    findings = tuple(
        Finding(*(part[:MAX_TEXT] for part in (one.node, one.op_type, one.reason, one.cure)))
        for one in report.findings[:MAX_FINDINGS]
    )
    more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    return Lowering(ProgramOutcome.OUTSIDE, findings=findings, reason=f"{findings[0]}{more}")
