"""Every metric, declared once, and the Prometheus text made of their values. No I/O.

Values come from sums over traces in the trace writer's file, from cells that workers and
supervisor count in, and from the live state. The reference page is made from `METRICS`. End
users, tags and key ids are never labels: a label with unbounded values is a memory leak in
every scraper.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from modelux._native import LiveTarget
from modelux.store.budgets import Standing
from modelux.units import NUSD_PER_USD, US_PER_S


@unique
class Kind(Enum):
    """What a figure may do; the values are Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "modelux_requests_total",
        Kind.COUNTER,
        ("route", "provider", "model", "status"),
        "Requests answered; provider and model are those that served, empty for none.",
    ),
    Metric(
        "modelux_attempts_total",
        Kind.COUNTER,
        ("provider", "model", "outcome"),
        "Calls to a provider, by how they ended.",
    ),
    Metric(
        "modelux_added_latency_seconds",
        Kind.HISTOGRAM,
        ("route",),
        "Time in modelux before the winning attempt was written, waits on others excluded.",
    ),
    Metric(
        "modelux_ttft_seconds",
        Kind.HISTOGRAM,
        ("provider", "model"),
        "From the start of the winning attempt to its first content byte.",
    ),
    Metric(
        "modelux_target_health",
        Kind.GAUGE,
        ("provider", "model"),
        "Breaker of a target in use: 0 closed, 1 half open (one request is probing), 2 open.",
    ),
    Metric(
        "modelux_target_in_flight",
        Kind.GAUGE,
        ("provider", "model"),
        "Attempts under way at a target, over all workers.",
    ),
    Metric(
        "modelux_target_ttft_seconds",
        Kind.GAUGE,
        ("provider", "model", "size"),
        "Moving average to the first content byte, as routing sees it, by size of request: "
        "`small` (below 1,000 input tokens), `medium` (8,000), `large` (32,000), `huge`.",
    ),
    Metric(
        "modelux_target_total_seconds",
        Kind.GAUGE,
        ("provider", "model", "size"),
        "Moving average to the end of the answer, likewise.",
    ),
    Metric(
        "modelux_budget_cap_usd",
        Kind.GAUGE,
        ("budget",),
        "Cap in the open window; the sum over the subjects of a `*` budget.",
    ),
    Metric(
        "modelux_budget_spent_usd",
        Kind.GAUGE,
        ("budget",),
        "Settled charges in the open window, overruns included.",
    ),
    Metric(
        "modelux_budget_held_usd",
        Kind.GAUGE,
        ("budget",),
        "What requests in flight hold.",
    ),
    Metric(
        "modelux_overrun_usd_total",
        Kind.COUNTER,
        ("budget",),
        "Billed above the hold; counts anew in each window.",
    ),
    Metric(
        "modelux_crash_charged_usd_total",
        Kind.COUNTER,
        ("budget",),
        "Charged for requests whose worker died; counts anew in each window.",
    ),
    Metric(
        "modelux_trace_index_lag_seconds",
        Kind.GAUGE,
        (),
        "Age of the oldest accepted trace that is not in the store yet.",
    ),
    Metric(
        "modelux_ledger_copy_age_seconds",
        Kind.GAUGE,
        (),
        "For how long the copy of the ledger on disk may have lacked something.",
    ),
    Metric(
        "modelux_traces_accepted_total", Kind.COUNTER, (), "Traces in ring, spill or store."
    ),
    Metric(
        "modelux_traces_shed_total",
        Kind.COUNTER,
        ("reason",),
        "Bodies or whole traces given up under pressure.",
    ),
    Metric(
        "modelux_worker_restarts_total",
        Kind.COUNTER,
        ("reason",),
        "Workers started again since `serve` started, by how their predecessor ended.",
    ),
    Metric(
        "modelux_bugs_total",
        Kind.COUNTER,
        ("where",),
        "Broken invariants met since `serve` started; each is in the log.",
    ),
    Metric("modelux_mode", Kind.GAUGE, (), "0 starting, 1 ready, 2 draining, 3 crash loop."),
    Metric("modelux_in_flight_requests", Kind.GAUGE, (), "Requests being served."),
    Metric("modelux_connections_open", Kind.GAUGE, ("side",), "Open connections."),
    Metric("modelux_overloaded_total", Kind.COUNTER, (), "Requests beyond `max_in_flight`."),
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values up to each bound, not cumulative; one more count for those beyond."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def __post_init__(self) -> None:
        assert len(self.counts) == len(self.bounds) + 1, (self.bounds, self.counts)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric."""

    name: str
    labels: Mapping[str, str]
    value: float | Histogram


BUDGET_METRICS: Final = (
    "modelux_budget_cap_usd",
    "modelux_budget_spent_usd",
    "modelux_budget_held_usd",
    "modelux_overrun_usd_total",
    "modelux_crash_charged_usd_total",
)
"""Metrics of one budget, in the order of what `samples_of_budgets` sums."""

CELL_SUMS: Final[tuple[tuple[str, Mapping[str, str], str], ...]] = (
    ("modelux_in_flight_requests", {}, "in_flight"),
    ("modelux_connections_open", {"side": "client"}, "connections_open"),
    ("modelux_connections_open", {"side": "upstream"}, "upstreams_open"),
    ("modelux_overloaded_total", {}, "overloaded"),
)
"""Metric, labels and the worker cell whose sum over all slots it is."""

CELL_VALUES: Final[tuple[tuple[str, Mapping[str, str], str], ...]] = (
    ("modelux_mode", {}, "mode"),
    ("modelux_worker_restarts_total", {"reason": "exited"}, "restarts_exited"),
    ("modelux_worker_restarts_total", {"reason": "killed"}, "restarts_killed"),
    ("modelux_worker_restarts_total", {"reason": "stalled"}, "restarts_stalled"),
    ("modelux_worker_restarts_total", {"reason": "replaced"}, "restarts_replaced"),
    ("modelux_bugs_total", {"where": "exchange"}, "bugs"),
    ("modelux_bugs_total", {"where": "writer"}, "bugs_writer"),
    ("modelux_bugs_total", {"where": "control"}, "bugs_control"),
)
"""Metric, labels and the node cell that holds it."""


def samples_of_budgets(found: Iterable[Standing]) -> list[Sample]:
    """Return the money of each budget, summed over its subjects in the open window."""
    sums: dict[str, list[int]] = {}
    for standing in found:
        row = standing.row
        amounts = (
            standing.budget.cap_nusd,
            row.spent_nusd,
            row.held_nusd,
            row.overrun_nusd,
            row.crash_nusd,
        )
        of_budget = sums.setdefault(standing.budget.name, [0] * len(BUDGET_METRICS))
        for place, amount_nusd in enumerate(amounts):
            of_budget[place] += amount_nusd
    return [
        # A scraper knows no other number; the ledger itself never sees one.
        Sample(metric, {"budget": name}, amount_nusd / NUSD_PER_USD)
        for name, of_budget in sums.items()
        for metric, amount_nusd in zip(BUDGET_METRICS, of_budget, strict=True)
    ]


HEALTH_FIGURES: Final[Mapping[str, int]] = {"closed": 0, "half_open": 1, "open": 2}
TARGET_IDLE_US: Final = 600 * US_PER_S
"""A target that is closed and unused for so long is left out: callers may name any model."""
LABEL_CHARS_MAX: Final = 128


def samples_of_targets(targets: Iterable[LiveTarget], now_us: int) -> list[Sample]:
    """Return health, load and latency of the targets that are in use."""
    found: list[Sample] = []
    seen: set[tuple[str, str]] = set()
    for target in targets:
        is_idle = not target.attempts or now_us - target.last_used_us > TARGET_IDLE_US
        name = (target.provider, target.model[:LABEL_CHARS_MAX])
        if name in seen or (target.state == "closed" and not target.in_flight and is_idle):
            continue
        seen.add(name)
        labels = dict(zip(("provider", "model"), name, strict=True))
        found.append(Sample("modelux_target_health", labels, HEALTH_FIGURES[target.state]))
        found.append(Sample("modelux_target_in_flight", labels, target.in_flight))
        for size, ttft_us, total_us in target.averages:
            for metric, value_us in (
                ("modelux_target_ttft_seconds", ttft_us),
                ("modelux_target_total_seconds", total_us),
            ):
                if value_us is not None:
                    found.append(Sample(metric, labels | {"size": size}, value_us / US_PER_S))
    return found


def render(samples: Sequence[Sample]) -> str:
    """Return the Prometheus text: every declared metric with its help, and its samples.

    Samples of metrics that are not declared, or with other labels, are a bug of ours.
    """
    by_name: dict[str, list[Sample]] = {metric.name: [] for metric in METRICS}
    for sample in samples:
        by_name[sample.name].append(sample)
    lines: list[str] = []
    for metric in METRICS:
        lines += (
            f"# HELP {metric.name} {_escaped_help(metric.help)}",
            f"# TYPE {metric.name} {metric.kind.value}",
        )
        for sample in by_name[metric.name]:
            assert set(sample.labels) == set(metric.labels), sample
            lines += _sample_lines(metric, sample)
    return "".join(f"{line}\n" for line in lines)


def _sample_lines(metric: Metric, sample: Sample) -> Iterable[str]:
    labels = {name: sample.labels[name] for name in metric.labels}
    if not isinstance(sample.value, Histogram):
        yield f"{metric.name}{_label_text(labels)} {_figure(sample.value)}"
        return
    seen = 0
    bounds = (*map(_figure, sample.value.bounds), "+Inf")
    for bound, count in zip(bounds, sample.value.counts, strict=True):
        seen += count
        yield f"{metric.name}_bucket{_label_text(labels | {'le': bound})} {seen}"
    yield f"{metric.name}_sum{_label_text(labels)} {_figure(sample.value.sum)}"
    yield f"{metric.name}_count{_label_text(labels)} {seen}"


def _label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped_label(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}"


def _escaped_label(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
