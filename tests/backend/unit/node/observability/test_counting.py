"""The cheap counters give Prometheus what its own would."""

from __future__ import annotations

from assay.node.observability.counting import Count, Counters, Distribution, Family
from assay.node.observability.metrics import STAGES, Metrics
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

BOUNDS = (0.5, 1.0, 2.5)


@given(st.lists(st.floats(0, 5, allow_nan=False) | st.sampled_from(BOUNDS), max_size=50))
def test_distribution__any_values__renders_as_the_reference_histogram(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    found = Counters(ours).histogram("x_seconds", "help", bounds=BOUNDS).labels()
    reference = Histogram("x_seconds", "help", buckets=BOUNDS, registry=theirs)
    for value in values:
        found.observe(value)
        reference.observe(value)

    def lines(registry: CollectorRegistry) -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]

    assert lines(ours) == lines(theirs)


@given(st.lists(st.sampled_from(BOUNDS), min_size=1), st.floats(0.01, 1))
def test_quantile__values_on_bounds__is_the_value_at_that_rank(values: list[float], share: float) -> None:
    found = Distribution(BOUNDS)
    for value in values:
        found.observe(value)
    ordered = sorted(values)
    rank = next(i for i in range(len(ordered)) if i + 1 >= share * len(ordered))
    assert found.quantile(share) == ordered[rank]


def test_quantile__nothing_observed__is_none() -> None:
    assert Distribution(BOUNDS).quantile(0.5) is None


def test_labels__more_values_than_a_family_keeps__the_rest_counts_as_other() -> None:
    family = Family(Count, ["model"])
    for i in range(Family.MAX_SERIES + 10):
        family.labels(i).inc()
    assert len(family.series) == Family.MAX_SERIES + 1
    assert family.labels("other").value == 10


def test_render__after_requests__parses_and_counts_by_status_and_code() -> None:
    metrics = Metrics(0.01)
    metrics.record(200, "", 0.001)
    metrics.record(402, "voucher_short", 0.001)
    metrics.record(200, "", 0.5)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }
    assert samples["assay_node_requests_total", "200"] == 2
    assert samples["assay_node_failures_total", "voucher_short"] == 1
    assert samples["assay_node_request_seconds_count", "total"] == 3
    assert {
        f"{stage}" for name, *rest in samples for stage in rest[:1] if name.endswith("seconds_sum")
    } >= set(STAGES)
    assert (metrics.received, metrics.in_deadline) == (3, 2)
