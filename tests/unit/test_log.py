"""What a log line looks like, and what may never stand in one."""

import json

from hypothesis import given
from hypothesis import strategies as st

from modelux.domain import Secret
from modelux.limits import LOG_VALUE_CHARS_MAX
from modelux.log import Level, Log, open_log, printable
from modelux.units import UnixUs

NOON = UnixUs(1_700_000_000_123_456)


def make(*, human: bool, level: Level = Level.INFO) -> tuple[Log, list[bytes]]:
    lines: list[bytes] = []
    log = Log("supervisor", human=human, level=level, write=lines.append, now=lambda: NOON)
    return log, lines


def test_a_json_line_holds_time_level_event_and_fields() -> None:
    log, lines = make(human=False)
    log.info("worker_started", slot=1, ratio=0.5, names=["a", "b"], error=None)
    record = json.loads(lines[0])
    assert record["ts"] == "2023-11-14T22:13:20.123456Z"
    assert record["level"] == "info"
    assert record["event"] == "worker_started"
    assert record["component"] == "supervisor"
    assert (record["slot"], record["ratio"], record["names"]) == (1, 0.5, ["a", "b"])
    assert record["error"] is None


def test_a_human_line_is_one_line_of_words() -> None:
    log, lines = make(human=True)
    log.warning("worker_died", slot=1, why="killed by signal 9")
    assert lines == [
        b'22:13:20.123 warning supervisor worker died slot=1 why="killed by signal 9"\n'
    ]


def test_a_secret_shows_only_its_mask_wherever_it_stands() -> None:
    for human in (True, False):
        log, lines = make(human=human)
        log.error("x", key=Secret("sk-very-secret"), deep={"a": [Secret("sk-very-secret")]})
        assert b"very-secret" not in lines[0]


def test_a_field_named_like_a_word_of_the_head_does_not_replace_it() -> None:
    log, lines = make(human=False)
    log.info("x", level_="a", pid="b", ts="c")
    record = json.loads(lines[0])
    assert record["pid_"] == "b"
    assert record["ts_"] == "c"
    assert record["level"] == "info"


def test_a_level_below_the_logs_own_is_not_printed() -> None:
    log, lines = make(human=True, level=Level.WARNING)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line.split()[-1] for line in lines] == [b"c", b"d"]


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    log, lines = make(human=False)
    log.info("x", text="a" * (LOG_VALUE_CHARS_MAX + 1))
    assert f"({LOG_VALUE_CHARS_MAX + 1} characters)" in json.loads(lines[0])["text"]


def test_figures_that_json_does_not_know_become_text() -> None:
    log, lines = make(human=False)
    log.info("x", a=float("nan"), b=float("inf"))
    assert json.loads(lines[0])["a"] == "nan"


@given(text=st.text())
def test_no_control_character_reaches_the_terminal_whatever_the_value(text: str) -> None:
    for human in (True, False):
        log, lines = make(human=human)
        log.info("x", value=text, many=[text], deep={text: text})
        line = lines[0].decode()
        assert line.endswith("\n")
        assert line[:-1].isprintable()


def test_an_unprintable_character_is_written_as_its_escape() -> None:
    assert printable("a\x1b[31mb\u202ec\n") == "a\\x1b[31mb\\u202ec\\n"


def test_a_log_can_be_opened_by_the_names_of_the_options() -> None:
    assert open_log("x", format_name="json", level_name="error") is not None


def test_a_line_to_copy_is_printed_as_it_is_but_for_control_characters() -> None:
    log, lines = make(human=True)
    log.say("curl -d '{\"model\": 1}'\x1b")
    assert lines == [b"curl -d '{\"model\": 1}'\\x1b\n"]


def test_a_line_to_copy_never_goes_into_a_log_that_is_collected() -> None:
    logged: list[bytes] = []
    printed: list[bytes] = []
    log = Log("supervisor", human=False, write=logged.append, print_line=printed.append)
    log.say("Key: mlx_sk_shown_this_once")
    assert logged == []
    assert printed == [b"Key: mlx_sk_shown_this_once\n"]
