"""Counters and histograms that cost a request well under a microsecond: plain integers, read when Prometheus
asks. They belong to one event loop and take no locks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

SECONDS: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds for latencies: stages of a request take tens of microseconds."""
POWERS: Final = tuple(float(1 << i) for i in range(11))
"""Upper bounds for sizes of batches and groups: 1, 2, 4 … 1,024."""

Labels = tuple[str, ...]
Single = CounterMetricFamily | GaugeMetricFamily


class Count:
    """A number that only grows, or a gauge if it is `set` or `dec`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by

    def dec(self, by: float = 1) -> None:
        self.value -= by

    def set(self, value: float) -> None:
        self.value = value


class Distribution:
    """A histogram over fixed upper bounds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The upper bound under which `share` of the observations lie; None without any."""
        wanted, seen = share * self.count, 0
        for i, count in enumerate(self.counts):
            seen += count
            if seen and seen >= wanted:
                return self._bounds[min(i, len(self._bounds) - 1)]
        return None

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """(upper bound, observations up to it) as Prometheus writes them."""
        seen = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield bound, seen


T = TypeVar("T", Count, Distribution)


class Family(Generic[T]):
    """What is counted under one name, by the values of its labels; the first `MAX_SERIES` of them."""

    MAX_SERIES: Final = 1000

    def __init__(self, make: Callable[[], T], labels: Sequence[str]) -> None:
        self.label_names = tuple(labels)
        self.series: dict[Labels, T] = {}
        self._make: Callable[[], T] = make

    def labels(self, *values: object) -> T:
        """The series of these values, made when first asked for; keep it where it is asked for often."""
        key = tuple(map(str, values))
        if key not in self.series and len(self.series) >= self.MAX_SERIES:
            key = ("other",) * len(values)
        if key not in self.series:
            self.series[key] = self._make()
        return self.series[key]

    def clear(self) -> None:
        self.series.clear()


class Counters(Collector):
    """The families of one process, as a collector of `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families: list[Callable[[], Metric]] = []
        registry.register(self)

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Family[Count]:
        return self._add(CounterMetricFamily, name, help_text, labels)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Family[Count]:
        return self._add(GaugeMetricFamily, name, help_text, labels)

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS
    ) -> Family[Distribution]:
        family = Family(lambda: Distribution(bounds), labels)
        self._families.append(lambda: _histogram(name, help_text, family))
        return family

    def _add(self, kind: type[Single], name: str, help_text: str, labels: Sequence[str]) -> Family[Count]:
        family = Family(Count, labels)
        self._families.append(lambda: _single(kind(name, help_text, labels=family.label_names), family))
        return family

    def collect(self) -> Iterable[Metric]:
        return [render() for render in self._families]


def _histogram(name: str, help_text: str, family: Family[Distribution]) -> Metric:
    metric = HistogramMetricFamily(name, help_text, labels=family.label_names)
    for values, found in tuple(family.series.items()):
        metric.add_metric(values, list(found.cumulative()), found.total)
    return metric


def _single(metric: Single, family: Family[Count]) -> Metric:
    for values, found in tuple(family.series.items()):
        metric.add_metric(values, found.value)
    return metric
