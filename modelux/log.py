"""Log lines to stderr: for people on a terminal, JSON lines otherwise.

Owns how a line looks and what may stand in it; says nothing about what is worth logging. A line
is one `write` call, so lines of several processes on one pipe do not mix. Values come from
anywhere, callers and providers included: whatever is not printable is escaped, long values are
cut, and a `Secret` shows only its mask. Nothing here raises: a full disk behind stderr must not
stop a request.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, IntEnum, unique
from typing import Final, final

from modelux.clock import unix_us
from modelux.limits import LOG_VALUE_CHARS_MAX
from modelux.units import US_PER_S, UnixUs

STDOUT_FD: Final = 1
STDERR_FD: Final = 2


@unique
class Level(IntEnum):
    """How loud a line is; a log prints its own level and those above."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@unique
class Format(Enum):
    """The look of a line; the values are those of the option `log_format`."""

    AUTO = "auto"
    """Lines for people when stderr is a terminal, else JSON."""
    HUMAN = "human"
    JSON = "json"


@final
class Log:
    """Write events of one component (`supervisor`, `worker.0`, ...) to stderr.

    An event is a short name in snake case, permanent, because people search and alarm on it;
    everything that varies is a field.
    """

    __slots__ = ("_component", "_human", "_level", "_now", "_print", "_write")

    def __init__(
        self,
        component: str,
        *,
        human: bool,
        level: Level = Level.INFO,
        write: Callable[[bytes], object] | None = None,
        print_line: Callable[[bytes], object] | None = None,
        now: Callable[[], UnixUs] = unix_us,
    ) -> None:
        self._component = component
        self._human = human
        self._level = level
        self._write = _write_stderr if write is None else write
        self._print = _write_stdout if print_line is None else print_line
        self._now = now

    def debug(self, event: str, **fields: object) -> None:
        """Say what only somebody who looks for a fault wants to read."""
        if self._level <= Level.DEBUG:
            self._emit("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what happened."""
        if self._level <= Level.INFO:
            self._emit("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say what somebody should look at by day."""
        if self._level <= Level.WARNING:
            self._emit("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Say what is broken."""
        self._emit("error", event, fields)

    def say(self, text: str) -> None:
        """Print a line that a person is to read or copy, as it is.

        On a terminal it stands among the log's lines. Where the log is collected it goes to
        stdout instead: it may hold a key that is shown this once, and a log never holds one.
        """
        line = f"{printable(text)}\n".encode("utf-8", "backslashreplace")
        (self._write if self._human else self._print)(line)

    def _emit(self, level: str, event: str, fields: dict[str, object]) -> None:
        at = datetime.fromtimestamp(self._now() / US_PER_S, UTC)
        if self._human:
            pairs = "".join(f" {name}={_human(value)}" for name, value in fields.items())
            words = printable(event.replace("_", " "))
            line = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {level:<7} "
            line += f"{self._component:<10} {words}{pairs}\n"
        else:
            head = {
                "ts": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z",
                "level": level,
                "component": self._component,
                "pid": os.getpid(),
                "event": event,
            }
            # A field may not replace a word of the head: its name gets a `_` behind it.
            named = {(f"{k}_" if k in head else k): _plain(v) for k, v in fields.items()}
            # ASCII only: no control character, line separator or bidi mark gets through.
            line = json.dumps(head | named, ensure_ascii=True) + "\n"
        self._write(line.encode("utf-8", "backslashreplace"))


def open_log(component: str, *, format_name: str = "auto", level_name: str = "info") -> Log:
    """Return a log on stderr as the options `log_format` and `log_level` ask for.

    Raises:
        ValueError: A name that is neither a format nor a level.
    """
    chosen = Format(format_name)
    level = Level[level_name.upper()] if level_name.upper() in Level.__members__ else None
    if level is None:
        raise ValueError(f"unknown log level {level_name!r}")
    human = _is_terminal() if chosen is Format.AUTO else chosen is Format.HUMAN
    return Log(component, human=human, level=level)


def printable(text: str) -> str:
    """Return `text` with every character that a terminal could obey written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_terminal() -> bool:
    try:
        return os.isatty(STDERR_FD)
    except OSError:  # A daemon may run with stderr closed.
        return False


def _cut(text: str) -> str:
    if len(text) <= LOG_VALUE_CHARS_MAX:
        return text
    return f"{text[:LOG_VALUE_CHARS_MAX]}... ({len(text)} characters)"


def _human(value: object) -> str:
    if isinstance(value, list | tuple):
        return _cut(",".join(_human(item) for item in value))
    text = printable(_cut(str(value)))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text


def _plain(value: object) -> object:
    """Return what JSON can hold; anything else as its text, so a `Secret` as its mask."""
    match value:
        case None | bool() | int():
            return value
        case float():
            # `nan` and `inf` are not JSON.
            return value if value - value == 0 else str(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {_cut(str(name)): _plain(item) for name, item in value.items()}
        case _:
            return _cut(str(value))


def _write_stderr(line: bytes) -> None:
    _write_fd(STDERR_FD, line)


def _write_stdout(line: bytes) -> None:
    _write_fd(STDOUT_FD, line)


def _write_fd(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except OSError:
        # Nobody reads our log any more, or its disk is full: there is no other place to say so.
        return
