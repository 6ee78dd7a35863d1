"""What commands share that look into a running server: its live state, as tables."""

from collections.abc import Iterable, Sequence
from typing import Final

from modelux._native import Live, LiveMark, LiveTarget
from modelux.cli.deployment import Deployment, instant_text, remark
from modelux.errors import StoreError
from modelux.store.budgets import serving_state_dir
from modelux.store.layout import LIVE_FILE
from modelux.supervisor.lock import serving_pid
from modelux.units import MS_PER_S, US_PER_S, MonoUs, UnixUs

NOT_RUNNING: Final = (
    "no server is running on this data_dir: health and latency are known only while one does"
)
UNUSED: Final = "no target has been called yet"
HEAD: Final = (
    "TARGET", "STATE", "SINCE", "IN FLIGHT", "OK 5m", "FAILED 5m",
    "TTFT p50", "p95", "p99", "TOTAL p50", "p95", "p99",
)  # fmt: skip
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


def open_live(deployment: Deployment) -> Live | None:
    """Return the live state of the server that runs; None where none does.

    Raises:
        StoreError: One runs, but its live state is gone or of another build.
    """
    if serving_pid(deployment.data_dir) is None:
        return None
    state_dir = serving_state_dir(deployment.data_dir, deployment.config().server.state_dir)
    if state_dir is None:
        raise StoreError(
            "a server runs, but its shared memory is gone: restart `modelux serve`"
        )
    path = state_dir / LIVE_FILE
    try:
        return Live.open(path)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: the live state is gone, or of a server that was started before this "
            "build: restart `modelux serve`"
        ) from None
    except OSError as failure:
        raise StoreError(str(failure)) from failure


def look_live(deployment: Deployment) -> Live | None:
    """Return the live state for what is only shown beside; None, and a remark, without it."""
    try:
        return open_live(deployment)
    except StoreError as failure:
        remark(str(failure))
        return None


def used(targets: Iterable[LiveTarget]) -> list[LiveTarget]:
    """Return the targets that were called at least once, or whose breaker is not closed."""
    return [target for target in targets if target.attempts or target.state != "closed"]


def target_lines(targets: Sequence[LiveTarget], now_us: MonoUs) -> list[tuple[str, ...]]:
    """Return the lines of the table of targets, as `HEAD` names their columns."""
    return [
        (
            f"{target.provider}/{target.model}",
            target.state.replace("_", " "),
            ago_text(now_us - target.since_us) if target.since_us else "-",
            str(target.in_flight),
            str(target.ok),
            str(target.failed),
            *map(
                latency_text,
                (
                    target.p50_ttft_ms,
                    target.p95_ttft_ms,
                    target.p99_ttft_ms,
                    target.p50_latency_ms,
                    target.p95_latency_ms,
                    target.p99_latency_ms,
                ),
            ),
        )
        for target in targets
    ]


def last_text(mark: LiveMark | None) -> str | None:
    """Return when something that is counted last mattered; None for never."""
    if mark is None or not mark.hits:
        return None
    return instant_text(UnixUs(mark.last_unix_s * US_PER_S))


def rounded(value: float | None, digits: int = 1) -> float | None:
    """Return a figure as `--json` shows it: more digits than it has would be noise."""
    return None if value is None else round(value, digits)


def latency_text(ms: float | None) -> str:
    """Return a latency for people: `0.8 ms`, `138 ms`, `2.41 s`; `-` for none."""
    if ms is None:
        return "-"
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < MS_PER_S:
        return f"{ms:.0f} ms"
    return f"{ms / MS_PER_S:.2f} s"


def ago_text(us: int) -> str:
    """Return a span for people, in its largest unit: `4s`, `12m`, `3h`, `2d`."""
    seconds = max(0, us) // US_PER_S
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= unit_s:
            return f"{seconds // unit_s}{unit}"
    return f"{seconds}s"
