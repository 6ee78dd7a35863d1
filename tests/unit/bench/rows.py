"""A stored run in small: three targets, three rounds, figures to work out by head."""

from bench.results import Context, Row

CONTEXT = Context(
    run="20260101T000000-abc",
    started="2026-01-01T00:00:00+00:00",
    machine="A Processor",
    cpus=2,
    memory_gib=8.0,
    kernel="6.0",
    python="3.11.9",
    nginx="nginx/1.22.1",
    commit="abc",
    is_dirty=False,
    seed=7,
    command="python -m bench.macro.run",
    is_quick=False,
    load_average=0.1,
)


def row(scenario: str, target: str, round_: int, **values: float) -> Row:
    """Return a checked row."""
    return Row(scenario=scenario, target=target, round=round_, is_checked=True, values=values)


def rows() -> list[Row]:
    """Return CPU, latency and memory of three rounds."""
    made = []
    for round_, slow in enumerate((1.0, 1.1, 2.0)):
        made += [
            # A machine that is twice as slow in a round is so for both: the ratio stays.
            row("unary_c32", "nginx", round_, worker_cpu_us_per_request=20 * slow),
            row(
                "unary_c32", "modelux", round_,
                worker_cpu_us_per_request=24 * slow,
                writer_cpu_us_per_request=9.0,
                requests_per_s=40_000 / slow,
            ),
            row("open_2000", "direct", round_, p50_us=50, p99_us=100, p99_9_us=150, max_us=900),
            row("open_2000", "nginx", round_, p50_us=150, p99_us=300, p99_9_us=400, max_us=901),
            row("open_2000", "modelux", round_, p50_us=170, p99_us=310, p99_9_us=500,
                max_us=2_000),
        ]  # fmt: skip
    return [
        *made,
        row("memory_idle", "modelux", 0, uss_bytes=3e7, pss_bytes=4e7, rss_bytes=6.1e7),
        row("start_fresh", "modelux", 0, first_answer_ms=900.0),
    ]
