"""What operators apply as it is: manifests fit their schemas; alerts and dashboard ask for what exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import assay
import kubernetes_validate
import promql_parser
import pytest
import yaml
from assay.node.observability.metrics import STAGES, Metrics
from assay.node.x402.counting import PaymentCounters
from prometheus_client.parser import text_string_to_metric_families

OPERATIONS = Path(assay.__file__).parents[1] / "operations"
ALERTS = OPERATIONS / "prometheus" / "alerts.yaml"
DASHBOARD = OPERATIONS / "grafana" / "node.json"
SCRAPED = {"instance", "job"}
"""Labels that Prometheus gives every series."""
SELECTOR = re.compile(r"\b(assay_[a-z0-9_]+|up)\b")


def kubernetes_objects() -> Iterator[dict[str, Any]]:
    for path in sorted((OPERATIONS / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] != "Kustomization":
                yield document


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        target["expr"].replace("$instance", ".*") for panel in panels for target in panel.get("targets", ())
    ]


def exported_labels() -> dict[str, set[str]]:
    """Every series that a node's /metrics can show: its name, and the labels it has once it is scraped."""
    metrics = Metrics(1.0)
    PaymentCounters(metrics).sold(1, repeated=False)
    for family in (metrics.batches, metrics.transactions, metrics.gas_used, metrics.gas_wei):
        family.labels("some").inc()
    gauges = (metrics.queue, metrics.loaded_bytes, metrics.batch_limit, metrics.load_seconds)
    for by_model in (*gauges, metrics.evictions, metrics.executor_up):
        by_model.labels("some").inc()
    metrics.versions.labels("ready").inc()
    metrics.loads.labels("some", "loaded").inc()
    metrics.executor_failures.labels("some", "connection").inc()
    for histogram in (metrics.batch_rows, metrics.run_seconds, metrics.executor_seconds):
        histogram.labels("some").observe(1)
    metrics.record(503, "busy", 0.1)
    families = text_string_to_metric_families(metrics.render().decode())
    every = [sample for family in families for sample in family.samples]
    samples = [sample for sample in every if not sample.name.endswith("_created")]
    return {sample.name: SCRAPED | set(sample.labels) for sample in samples} | {"up": SCRAPED}


def check_query(query: Any, needed: Collection[str] = ()) -> set[str]:
    """Every series of a parsed query exists, with the labels that it is picked, summed and matched by. The
    labels of what it gives."""
    match query:
        case promql_parser.NumberLiteral():
            return set(needed)
        case promql_parser.VectorSelector():
            exported = exported_labels()
            assert query.name in exported, query.name
            picked = {matcher.name for matcher in query.matchers.matchers}
            assert {*needed, *picked} <= exported[query.name], query.name
            return exported[query.name]
        case promql_parser.MatrixSelector():
            return check_query(query.vector_selector, needed)
        case promql_parser.AggregateExpr():
            by = set(query.modifier.labels) if query.modifier else set()
            assert set(needed) <= by
            check_query(query.expr, by)
            return by
        case promql_parser.BinaryExpr():
            on = query.modifier.matching.labels if query.modifier and query.modifier.matching else ()
            check_query(query.rhs, on)
            return check_query(query.lhs, on)
        case promql_parser.Call():
            return check_query(query.args[-1], needed)
        case promql_parser.ParenExpr():
            return check_query(query.expr, needed)
    raise AssertionError(query)


@pytest.mark.parametrize(
    "document", kubernetes_objects(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}"
)
def test_kubernetes__each_object__fits_its_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_kustomization__its_resources__are_all_files_there() -> None:
    found = yaml.safe_load((OPERATIONS / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in (OPERATIONS / "kubernetes").glob("*.yaml")}
    assert set(found) | {"kustomization.yaml"} == there


def test_deployment__its_containers__run_locked_down() -> None:
    (node,) = (d for d in kubernetes_objects() if d["kind"] == "Deployment")
    spec = node["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_compose__the_file__fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    found = subprocess.run(
        [*command, str(OPERATIONS / "compose.yaml")], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 0, found.stdout


def test_compose__its_secrets_volumes_and_files__are_declared_or_there() -> None:
    compose = yaml.safe_load((OPERATIONS / "compose.yaml").read_text())
    made_by_operator = {"./node"}
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert source in made_by_operator or (OPERATIONS / source).exists(), source
            else:
                assert source in compose["volumes"]


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_alert__its_query__parses_and_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    labels = check_query(promql_parser.parse(rule["expr"]))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "cure"}
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


def test_alerts__on_the_growth_of_a_counter__hear_the_first_event_too() -> None:
    """A series that appears with 1 has not grown, for Prometheus: it must be there before, with 0."""
    metrics = Metrics(1.0)
    PaymentCounters(metrics)
    fresh = metrics.render().decode()
    grown = [re.findall(r'increase\((\w+\{\w+="\w+"\})', rule["expr"]) for rule in alert_rules()]
    named = [series for found in grown for series in found]
    assert len(named) == 2
    for series in named:
        assert f"{series} 0.0" in fresh


@pytest.mark.parametrize("query", sorted(set(dashboard_queries())))
def test_dashboard__each_query__parses_and_asks_for_metrics_that_exist(query: str) -> None:
    check_query(promql_parser.parse(query))


def test_query__label_or_series_that_there_is_not__is_found() -> None:
    for text in ("sum by (version) (assay_node_queue_jobs)", 'assay_node_stake{code="busy"}', "assay_node_x"):
        with pytest.raises(AssertionError):
            check_query(promql_parser.parse(text))


def test_dashboard__every_metric_of_the_node__is_shown_or_alerted_on() -> None:
    asked = {
        name
        for query in [*dashboard_queries(), *(rule["expr"] for rule in alert_rules())]
        for name in SELECTOR.findall(query)
    }
    bases = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    exported = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported_labels()}
    assert exported - bases <= {"assay_node_requests_in_progress", "assay_node_transactions"}


def test_stages__of_the_dashboard__are_those_that_are_measured() -> None:
    text = ALERTS.read_text() + DASHBOARD.read_text()
    named = set(re.findall(r'stage=\\?"([a-z]+)\\?"', text))
    assert named and named <= set(STAGES)
