"""The live state through its Python face: what people, the supervisor and tests use of it."""

from pathlib import Path

import pytest

from modelux._native import Live

S = 1_000_000
NOW = 1_000 * S


def live_of(tmp_path: Path, workers: int = 2) -> Live:
    """Return live state in a fresh file."""
    return Live.open_or_create(tmp_path / "live", "boot", workers)


def test_a_target_is_shown_with_its_breaker_and_its_latencies(tmp_path: Path) -> None:
    live = live_of(tmp_path)
    live.began("openai", "gpt-4o", 1, NOW)
    live.latency("openai", "gpt-4o", 500, 200_000, 900_000, NOW)
    for _ in range(4):
        assert live.report("openai", "gpt-4o", "failed", NOW, NOW) is None
    assert live.report("openai", "gpt-4o", "failed", NOW, NOW) == ("closed", "open")
    (row,) = Live.open(tmp_path / "live").targets(NOW)
    assert (row.provider, row.model, row.state) == ("openai", "gpt-4o", "open")
    assert (row.since_us, row.until_us) == (NOW, NOW + 5 * S)
    assert (row.in_flight, row.error_rate, row.attempts) == (1, 1.0, 1)
    assert (row.ok, row.failed, row.last_used_us) == (0, 5, NOW)
    assert row.p50_ttft_ms == pytest.approx(200, rel=0.13)
    assert row.p99_latency_ms == pytest.approx(900, rel=0.13)
    assert row.averages == [("small", 200_000.0, 900_000.0)]
    assert live.take_probe("openai", "gpt-4o", NOW + 5 * S)
    assert live.targets(NOW)[0].state == "half_open"
    live.clear_worker(1)
    assert live.targets(NOW)[0].in_flight == 0


def test_credentials_and_marks_are_shown_by_their_names(tmp_path: Path) -> None:
    live = live_of(tmp_path)
    live.reject_credential("openai", "main", 7, NOW)
    live.cool("groq", "llama", "spare", NOW + 30 * S, NOW)
    found = [
        (row.provider, row.credential, row.rejected_until_us, row.cooling_until_us)
        for row in live.credentials(NOW)
    ]
    assert found == [
        ("groq", "spare", None, NOW + 30 * S),
        ("openai", "main", NOW + 60 * S, None),
    ]
    assert live.mark("default/@a v1 attempts[0]") is None
    live.touch("default/@a v1 attempts[0]", 1_700_000_000)
    assert live.null_run("default/@a v1 attempts[0]", True) == 1  # noqa: FBT003
    mark = live.mark("default/@a v1 attempts[0]")
    assert mark is not None
    assert (mark.hits, mark.last_unix_s, mark.null_run) == (1, 1_700_000_000, 1)


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    live = live_of(tmp_path)
    with pytest.raises(KeyError, match="no result is named `fine`"):
        live.report("openai", "gpt-4o", "fine", NOW, NOW)
    with pytest.raises(OSError, match="`0` workers"):
        live_of(tmp_path, workers=0)
    with pytest.raises(FileNotFoundError):
        Live.open(tmp_path / "none")
    assert Live.file_bytes(4) == (tmp_path / "live").stat().st_size + 2 * 8192
