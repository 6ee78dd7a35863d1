"""`modelux logs` over a store that is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelux.cli.main import main
from modelux.trace.files import trace_files
from modelux.trace.record import Trace
from modelux.trace.store import TraceStore
from tests import traces
from tests.traces import NOON

EARLIER = NOON - 3_600_000_000


def put(data_dir: Path, *batch: Trace) -> None:
    store = TraceStore(trace_files(data_dir), redact=bytes)
    store.insert(batch, NOON)
    store.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    refused = Trace(json.dumps(traces.refused(3)).encode(), b"{broken", b"", "kept")
    put(
        tmp_path,
        traces.trace(1, ts=EARLIER, tags={"team": "ml"}, trace_id="run-1"),
        traces.trace(2, tags={"team": "web"}, trace_id="run-1"),
        refused,
    )
    return tmp_path


class Printed:
    """Runs `modelux logs` and keeps what it printed."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self.capsys = capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> list[str]:
        found = main(["logs", "--data-dir", str(self.data_dir), *words])
        out, self.err = self.capsys.readouterr()
        assert found == code, self.err
        return out.splitlines()

    def records(self, *words: str) -> list[int]:
        return [int(json.loads(line)["id"][-4:], 16) for line in self(*words, "--json")]


@pytest.fixture
def logs(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(data_dir, capsys)


def test_a_list_has_a_line_a_request_newest_last(logs: Printed) -> None:
    first, second, third = (
        traces.trace_id_at(ts, number) for ts, number in ((EARLIER, 1), (NOON, 2), (NOON, 3))
    )
    assert logs() == [
        f"2026-01-31T11:00:00.000Z [modelux] req_{first} gpt-4o-mini 238ms $0.002134 200",
        f"2026-01-31T12:00:00.000Z [modelux] req_{second} gpt-4o-mini 238ms $0.002134 200",
        f"2026-01-31T12:00:00.000Z [modelux] req_{third} gpt-4o-mni 0ms $- 400 model_not_found",
    ]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [1, 2, 3]),
        (["--limit", "2"], [2, 3]),
        (["--limit", "0"], [1, 2, 3]),
        (["--tag", "team=ml"], [1]),
        (["--tag", "team=ml", "--tag", "region=eu"], []),
        (["--status", "4xx"], [3]),
        (["--model", "gpt-4o-mni"], [3]),
        (["--provider", "openai"], [1, 2]),
        (["--route", "production"], [1, 2]),
        (["--project", "default"], [1, 2, 3]),
        (["--project", "other"], []),
        (["--trace-id", "run-1"], [1, 2]),
        (["--conversation-id", "x"], []),
        (["--end-user", "x"], []),
        (["--min-latency-ms", "100"], [1, 2]),
        (["--min-cost-usd", "0.002"], [1, 2]),
        (["--min-cost-usd", "0.003"], []),
        (["-q", "BROKEN"], [3]),
        (["--since", "2026-01-31T11:30"], [2, 3]),
        (["--since", "2026-01-31T12:30:00+01:00", "--until", "2026-01-31T12:00:01Z"], [2, 3]),
        (["--until", "2026-01-31T12:00"], [1]),
        (["--since", "1h"], []),
    ],
)
def test_filters_leave_what_matches(
    logs: Printed, words: list[str], numbers: list[int]
) -> None:
    assert logs.records(*words) == numbers


def test_a_trace_is_explained_by_its_id_with_or_without_prefix(logs: Printed) -> None:
    wanted = traces.trace_id_at(NOON, 2)
    plain = logs("--trace", wanted)
    assert plain == logs("--trace", f"req_{wanted}")
    assert plain[0].startswith(f"[modelux] req_{wanted} gpt-4o-mini 238ms $0.002134 200")
    assert [line.split()[0] for line in plain[1:]] == [
        "attempt_1",
        "decision:",
        "reason:",
        "cost:",
        "latency:",
        "project:",
        "config:",
        "tags:",
    ]


def test_a_trace_as_json_is_one_record_with_its_bodies(logs: Printed) -> None:
    (line,) = logs("--trace", traces.trace_id_at(NOON, 3), "--json")
    record = json.loads(line)
    assert record["request"] == "{broken"
    assert record["error"]["code"] == "model_not_found"


def test_a_callers_trace_id_shows_all_of_its_requests(logs: Printed) -> None:
    assert [line for line in logs("--trace", "run-1") if line.startswith("[modelux]")] == [
        f"[modelux] req_{traces.trace_id_at(ts, number)} gpt-4o-mini 238ms $0.002134 200"
        for ts, number in ((EARLIER, 1), (NOON, 2))
    ]
    listed = json.loads("\n".join(logs("--trace", "run-1", "--json")))
    assert [record["tags"] for record in listed] == [{"team": "ml"}, {"team": "web"}]


def test_an_unknown_id_is_a_failure_that_says_what_to_give(logs: Printed) -> None:
    assert logs("--trace", "req_nothing\x1b", code=1) == []
    assert "`req_nothing\\x1b`" in logs.err
    assert "X-Modelux-Request-Id" in logs.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "many"], "`many`"),
        (["--since", "yesterday"], "`yesterday`"),
        (["--tag", "team"], "KEY=VALUE"),
        (["--min-cost-usd", "free"], "`free`"),
        (["--min-latency-ms", "-1"], "--min-latency-ms"),
        (["--status", "good"], "`good`"),
    ],
)
def test_what_means_nothing_is_a_usage_error_that_says_so(
    logs: Printed, words: list[str], said: str
) -> None:
    # argparse ends the process, our own checks return: the code is the same.
    codes = []
    try:
        codes.append(main(["logs", "--data-dir", str(logs.data_dir), *words]))
    except SystemExit as ended:
        codes.append(int(str(ended.code)))
    assert codes == [2]
    assert said in logs.capsys.readouterr().err


def test_no_traces_at_all_print_nothing(tmp_path: Path) -> None:
    assert main(["logs", "--data-dir", str(tmp_path / "nowhere")]) == 0


def test_the_file_says_where_the_traces_are(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "modelux.toml"
    file.write_text(f'[server]\ndata_dir = "{data_dir}"\n')
    assert main(["logs", "--config", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_followed_traces_come_as_they_are_stored_each_once(data_dir: Path) -> None:
    words = [sys.executable, "-m", "modelux.cli.main", "logs", "--follow", "--json"]
    with subprocess.Popen(
        [*words, "--limit", "1", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        for number in (4, 5):
            put(data_dir, traces.trace(number, ts=EARLIER))
            lines.append(process.stdout.readline())
        process.terminate()
        lines += process.stdout.readlines()
    assert [int(json.loads(line)["id"][-4:], 16) for line in lines] == [3, 4, 5]
