"""From a file, or none, to a snapshot; and what a reload can and cannot change."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelux.clock import unix_us
from modelux.config.credits import Credit
from modelux.config.database import Who
from modelux.config.model import KeyPolicy
from modelux.config.versions import ControlDb
from modelux.errors import ConfigError
from modelux.supervisor.configuration import Configuration, ollama_models
from modelux.supervisor.orders import PAST_S
from modelux.units import US_PER_S

WHO = Who(actor="test", source="test")
FILE = """
[server]
data_dir = "data"
{server}
[providers.sim]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
models = ["gpt-4o-mini", "gpt-4o"]
[routes.production]
strategy = "single"
model = "{model}"
"""


def write(folder: Path, *, model: str = "sim/gpt-4o-mini", server: str = "") -> Path:
    path = folder / "modelux.toml"
    path.write_text(FILE.format(model=model, server=server))
    return path


def configured(folder: Path, **flags: object) -> Configuration:
    found = Configuration(folder / "modelux.toml", {}, flags)
    (folder / "data").mkdir(exist_ok=True)
    return found


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, int]]:
    """Answer one connection with these bytes, whatever it asks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65_536)
                client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()
        thread.join(10)


def test_a_load_gives_the_snapshot_of_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    snapshot = json.loads(configured(tmp_path).load())
    assert [route["slug"] for route in snapshot["routes"]] == ["production"]
    assert snapshot["providers"][0]["name"] == "sim"


def test_a_second_load_reads_the_file_anew(tmp_path: Path) -> None:
    write(tmp_path)
    source = configured(tmp_path)
    source.load()
    write(tmp_path, model="sim/gpt-4o")
    route = json.loads(source.load())["routes"][0]
    assert route["live"] == 2


def test_a_load_of_a_faulty_file_raises_and_the_last_good_one_stays(tmp_path: Path) -> None:
    write(tmp_path)
    source = configured(tmp_path)
    good = source.load()
    write(tmp_path, model="sim/gpt-5o")
    with pytest.raises(ConfigError):
        source.load()
    assert source.compile() == good


def test_a_change_by_another_process_is_seen_once_and_compiled(tmp_path: Path) -> None:
    write(tmp_path)
    source = configured(tmp_path)
    source.load()
    assert not source.has_changed()
    other = ControlDb(tmp_path / "data")
    made = other.create_key("default", KeyPolicy(name="x"), Who(actor="t", source="t"))
    assert source.has_changed()
    assert not source.has_changed()
    assert made.id in [key["id"] for key in json.loads(source.compile())["keys"]]


def test_a_key_that_was_made_is_shown_once_and_in_a_line_that_can_be_run(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    source = configured(tmp_path)
    source.load()
    lines = source.greeting("http://127.0.0.1:8080/v1")
    assert "@production" in "".join(lines)
    assert lines[-1].strip().startswith("curl ")
    assert "mlx_sk_" in lines[-1]
    assert "mlx_sk_" not in "".join(source.greeting("http://127.0.0.1:8080/v1"))
    again = configured(tmp_path)
    again.load()
    assert "mlx_sk_" not in "".join(again.greeting("http://127.0.0.1:8080/v1"))


def test_options_that_need_a_new_start_are_named_and_others_are_not(tmp_path: Path) -> None:
    write(tmp_path)
    source = configured(tmp_path)
    source.load()
    assert source.notes() == ()
    write(tmp_path, server="workers = 3\nmax_in_flight = 7")
    snapshot = json.loads(source.load())
    assert source.notes() == ("server.workers",)
    assert snapshot["server"]["max_in_flight"] == 7


def test_a_flag_wins_over_the_file_at_the_start_and_at_every_load(tmp_path: Path) -> None:
    write(tmp_path, server="workers = 3")
    source = configured(tmp_path, workers=1)
    assert source.server.workers == 1
    source.load()
    write(tmp_path, server="workers = 4")
    source.load()
    assert source.notes() == ()


def test_a_local_ollama_says_its_models() -> None:
    body = b'{"object": "list", "data": [{"id": "llama3.2"}, {"id": "qwen3"}]}'
    with answering(b"HTTP/1.0 200 OK\r\ncontent-type: x\r\n\r\n" + body) as address:
        assert ollama_models(address) == ["llama3.2", "qwen3"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.0 404 Not Found\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\nnot json",
        b"HTTP/1.0 200 OK\r\n\r\n[]",
        b'HTTP/1.0 200 OK\r\n\r\n{"data": [{}]}',
        b"\xff\xff\r\n\r\n",
    ],
)
def test_something_else_on_its_port_counts_as_no_ollama(answer: bytes) -> None:
    with answering(answer) as address:
        assert ollama_models(address) is None


def test_nobody_on_its_port_counts_as_no_ollama() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    assert ollama_models(address) is None


BUDGETS = """
[[budgets]]
name = "all"
scope = { type = "organization" }
cap_usd = 10
[[budgets]]
name = "ada"
scope = { type = "end_user", id = "ada" }
cap_usd = 5
"""


def test_the_ledger_is_ordered_every_budget_of_the_snapshot(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + BUDGETS)
    found = configured(tmp_path)
    published = json.loads(found.load())["budgets"]
    ordered = [(one.id.hex(), one.name, one.cap_nusd) for one in found.orders().budgets]
    assert ordered == [(one["id"], one["name"], one["cap_nusd"]) for one in published]
    assert [name for _, name, _ in ordered] == ["all", "ada"]


def credited(db: ControlDb, key: bytes, usd: int, end_s: int | None) -> None:
    credit = Credit(
        key=key,
        budget="all",
        subject="",
        window_start_s=0,
        window_end_s=end_s,
        usd=usd,
        reason="billed twice",
    )
    db.add_credit(credit, WHO)


def test_credits_are_ordered_as_sums_and_those_of_windows_long_over_are_not(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    found = configured(tmp_path)
    found.load()
    other = ControlDb(tmp_path / "data")
    now_s = unix_us() // US_PER_S
    for usd in (3, 4):
        credited(other, b"a" * 40, usd, None)
    credited(other, b"b" * 40, 5, now_s - PAST_S + 600)
    credited(other, b"c" * 40, 6, now_s - PAST_S - 600)
    other.add_bound_reset("openai/gpt-5", WHO)
    assert found.has_changed()
    orders = found.orders()
    assert {one.key[:1]: one.nusd for one in orders.credits} == {b"a": 7, b"b": 5}
    assert [one.model for one in orders.resets] == ["openai/gpt-5"]
