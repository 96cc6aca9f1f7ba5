"""What two looks at /metrics tell."""

from __future__ import annotations

from assay.cli.node_watch import seconds
from assay.node.observability.live import compare, parse_metrics, quantile
from assay.node.observability.metrics import Metrics
from hypothesis import given
from hypothesis import strategies as st


def look(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return dict(parse_metrics(metrics.render().decode()))


def test_compare__requests_between_two_looks__are_rates_of_that_time() -> None:
    metrics = Metrics(1.0)
    metrics.record(200, "", 0.001)
    before = look(metrics)
    for _ in range(30):
        metrics.record(200, "", 0.002)
    for _ in range(10):
        metrics.record(402, "voucher_short", 0.0002)
    metrics.batch_rows.labels("0xA/m@1").observe(8)
    metrics.batch_rows.labels("0xA/m@1").observe(16)
    found = compare(before, look(metrics), 2.0)
    assert (found.answers, found.refusals) == (15.0, 5.0)
    assert found.codes == {"voucher_short": 5.0}
    assert found.p50 is not None and 0.001 <= found.p50 <= 0.0025
    (model,) = found.models
    assert (model.name, model.rows) == ("0xA/m@1", 12.0)


def test_compare__node_started_anew_between__counts_from_zero() -> None:
    old, new = Metrics(1.0), Metrics(1.0)
    for _ in range(100):
        old.record(200, "", 0.001)
    new.record(200, "", 0.001)
    assert compare(look(old), look(new), 1.0).answers == 1.0


def test_compare__executors_and_the_process_that_settles__are_told() -> None:
    metrics = Metrics(1.0)
    metrics.settles.set(True)
    for name, up in (("a@1", 1), ("b@1", 0)):
        metrics.executor_up.labels(name).set(up)
        metrics.executor_seconds.labels(name).observe(0.1)
    metrics.evictions.labels("a@1").set(3)
    before = look(metrics)
    metrics.executor_seconds.labels("a@1").observe(0.02)
    metrics.batch_limit.labels("c@1").set(1)
    metrics.queue.labels("c@1").set(2)
    metrics.evictions.labels("a@1").set(5)
    found = compare(before, look(metrics), 4.0)
    assert found.settles is True
    assert found.evictions == 0.5
    a, b, c = found.models
    assert (a.executor_up, b.executor_up, c.executor_up) == (True, False, None)
    assert a.executor_p99 is not None and 0.01 <= a.executor_p99 <= 0.025
    assert b.executor_p99 is None
    assert (a.batch_limit, c.batch_limit) == (None, 1)
    assert compare({}, {}, 1.0).settles is None


@given(st.lists(st.floats(1e-5, 9.9), min_size=1, max_size=40), st.floats(0.05, 0.99))
def test_quantile__any_values__lies_between_the_bounds_around_the_true_one(
    values: list[float], share: float
) -> None:
    metrics = Metrics(1.0)
    for value in values:
        metrics.stages["run"].observe(value)
    found = quantile(look(metrics), "assay_node_request_seconds", "run", share)
    bounds = [0.0, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]
    ordered = sorted(values)
    true = next(value for i, value in enumerate(ordered) if i + 1 >= share * len(ordered))
    above = next(i for i, bound in enumerate(bounds) if bound >= true)
    assert found is not None and bounds[above - 1] <= found <= bounds[above] * (1 + 1e-9)


def test_quantile__nothing_observed__is_none() -> None:
    assert quantile(look(Metrics(1.0)), "assay_node_request_seconds", "run", 0.5) is None


def test_seconds__of_every_size__are_as_people_read_them() -> None:
    assert [seconds(v) for v in (None, 2e-5, 0.0123, 1.5, 3700)] == [
        "",
        "20 µs",
        "12.30 ms",
        "1.50 s",
        "1:01:40",
    ]
