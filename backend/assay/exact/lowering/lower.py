"""From an ONNX file's bytes to a program, or to everything that keeps it out of the profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from assay.exact.lowering.context import Context
from assay.exact.lowering.graph import Graph, RawNode, parse_model, read_graph, whole_file
from assay.exact.lowering.registry import Node, bind, find_entry
from assay.exact.lowering.report import Finding, Refusal, Report, UnsupportedModel
from assay.exact.lowering.values import Value
from assay.exact.program import Program

_MALFORMED: Final = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""What a hostile node raises: attributes of another type, ranks that no tensor has, numbers beyond bounds."""


def lower(artifact: bytes) -> Program:
    """The program of an ONNX file. Raises UnsupportedModel with all findings."""
    report = check_model(artifact)
    if report.program is None:
        raise UnsupportedModel(report.findings)
    return report.program


def check_model(artifact: bytes) -> Report:
    """Every reason why the file is not in the profile, node by node; or its program."""
    try:
        graph, findings = read_graph(parse_model(artifact))
    except Refusal as refusal:
        return Report((whole_file(refusal.reason, refusal.cure),))
    if any(not finding.node for finding in findings):
        findings += _unknown_operators(graph)
        return Report(tuple(findings))
    lowering = _Lowering(graph)
    program = lowering.run()
    return Report(tuple(lowering.findings), program)


def _unknown_operators(graph: Graph) -> list[Finding]:
    """What can be said of nodes where their values are unknown."""
    findings = []
    for raw in graph.nodes:
        try:
            find_entry(raw, graph.opsets)
        except Refusal as refusal:
            findings.append(_finding(raw, refusal))
    return findings


def _finding(raw: RawNode, refusal: Refusal) -> Finding:
    return Finding(raw.name, raw.op_type, refusal.reason, refusal.cure)


class _Lowering:
    """Walks the nodes in file order; a tensor that could not be lowered is absent from then on."""

    def __init__(self, graph: Graph) -> None:
        self.findings: list[Finding] = []
        self._graph = graph
        self._context = Context(graph.batched)
        self._values: dict[str, Value] = dict(graph.constants)
        self._failed: set[str] = set()
        self._makers: dict[str, RawNode] = {}

    def run(self) -> Program | None:
        for info in self._graph.inputs:
            self._values[info.name] = self._context.add_input(info)
        for raw in self._graph.nodes:
            try:
                self._lower_node(raw)
            except Refusal as refusal:
                self.findings.append(_finding(raw, refusal))
                self._failed.update(raw.outputs)
            except _MALFORMED as error:
                reason = f"its attributes or inputs are not what the operator takes ({error!r:.200})"
                self.findings.append(_finding(raw, Refusal(reason, "export the model again")))
                self._failed.update(raw.outputs)
        return None if self.findings else self._finish()

    def _lower_node(self, raw: RawNode) -> None:
        entry, version = find_entry(raw, self._graph.opsets)
        if any(name in self._failed for name in raw.inputs):
            self._failed.update(raw.outputs)
            return
        self._check_names(raw)
        node = bind(raw, version, [self._values[name] if name else None for name in raw.inputs])
        result = entry.lower(node, self._context)
        values = (result,) if isinstance(result, Value) else result
        for name, value in zip(raw.outputs, values, strict=False):
            if name:
                self._values[name] = value
                self._makers[name] = raw
        self._failed.update(name for name in raw.outputs[len(values) :] if name)

    def _check_names(self, raw: RawNode) -> None:
        for name in raw.inputs:
            if name and name not in self._values:
                raise Refusal(f"nothing before it makes input {name!r}", "order the nodes as ONNX asks")
        for name in raw.outputs:
            if name and name in self._values:
                raise Refusal(f"tensor {name!r} is made twice", "give each tensor one maker")

    def _finish(self) -> Program | None:
        outputs = []
        for info in self._graph.outputs:
            value = self._values.get(info.name)
            maker = self._makers.get(info.name)
            if value is None:
                reason = f"output {info.name!r} is not computed by the profile"
                self.findings.append(whole_file(reason, "leave it out, or make it a first output"))
            else:
                name, op_type = (maker.name, maker.op_type) if maker else (info.name, "Identity")
                outputs.append((_naming(name, op_type, info.name), value))
        try:
            return None if self.findings else self._context.finish(outputs)
        except Refusal as refusal:
            self.findings.append(whole_file(refusal.reason, refusal.cure))
            return None


def _naming(name: str, op_type: str, output: str) -> Node:
    """A node that only names the copy of an output."""
    nothing: Mapping[str, object] = {}
    return Node(name, op_type, 0, (), (output,), nothing)
