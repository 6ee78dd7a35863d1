"""Plain data to validated values: every fault with its place and its fix, all of them at once.

Nothing here knows what the options mean; `config/file.py` and `config/routing.py` do. A value
that is wrong is replaced by its default so that reading can go on and find the other faults; a
reader with faults never hands out a configuration.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

from modelux.config.model import LATER, Address, Kind, Option, SecretRef, options
from modelux.domain import Secret
from modelux.errors import ConfigError
from modelux.units import MONEY_NUSD_MAX, US_PER_S, UnixUs, nusd_from_usd, usd_text

T = TypeVar("T")

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
NAME_RULE: Final = "1 to 64 letters, digits, `_`, `-`, `.`, not starting with `-` or `.`"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SIZE: Final = re.compile(r"\s*(\d+)\s*(KiB|MiB|GiB|KB|MB|GB|K|M|G)\s*", re.IGNORECASE)
_SIZE_STEPS: Final = {"k": 1, "m": 2, "g": 3}
_SHOWN_CHARACTERS_MAX: Final = 80
_SECRET_BYTES_MAX: Final = 16 * 1024

KIND_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    place: str
    message: str
    line: int | None


class Faults:
    """Collects what is wrong with one source; knows the line of each key path."""

    __slots__ = ("_lines", "source", "spans")

    def __init__(self, source: str, spans: Mapping[str, int] | None = None) -> None:
        self.source = source
        self.spans = spans or {}
        self._lines: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, place: str, message: str) -> None:
        """Note a fault at a key path; the line is that of the path or of what holds it."""
        self._lines.append(Fault(place, message, self._line(place)))

    def texts(self) -> list[str]:
        """Return each fault once, by line, as `FILE:LINE: KEY.PATH: what and the fix`."""
        ordered = sorted(self._lines, key=lambda fault: fault.line or 0)
        return list(dict.fromkeys(self._text(fault) for fault in ordered))

    def check(self) -> None:
        """Raise everything that was noted.

        Raises:
            ConfigError: Something was.
        """
        if self._lines:
            raise ConfigError(self.texts())

    def _line(self, place: str) -> int | None:
        while place:
            if place in self.spans:
                return self.spans[place]
            # Cuts the last key or index off; a dot inside a quoted key only makes more steps.
            place = place[: max(place.rfind("."), place.rfind("["))]
            place = place.removesuffix(".")
        return None

    def _text(self, fault: Fault) -> str:
        line = f":{fault.line}" if fault.line is not None else ""
        if fault.place.startswith("@"):
            # A stored version: it is in no file.
            return f"{fault.place}: {fault.message}"
        place = f" {fault.place}:" if fault.place else ""
        return f"{self.source}{line}:{place} {fault.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one pass over a declaration needs besides the data."""

    faults: Faults
    folder: Path
    """Where relative paths start; absolute."""
    env: Mapping[str, str]
    with_secrets: bool
    """Whether references are followed; without, they are only checked for their form."""
    secrets: dict[SecretRef, Secret] = field(default_factory=dict)

    def secret(self, reference: SecretRef, place: str) -> Secret | None:
        """Follow a reference; None with a fault noted, or where secrets are not read."""
        if not self.with_secrets:
            return None
        try:
            found = follow(reference, self.env)
        except ValueError as failure:
            self.faults.add(place, str(failure))
            return None
        self.secrets[reference] = found
        return found


def follow(reference: SecretRef, env: Mapping[str, str]) -> Secret:
    """Read what a reference names.

    Raises:
        ValueError: It is not there, empty, or not one line; the message has the fix and never
            the secret.
    """
    if reference.scheme == "env":
        value = env.get(reference.name)
        if value is None:
            raise ValueError(f"the environment variable `{reference.name}` is not set")
        what = f"the environment variable `{reference.name}`"
    else:
        what = f"the file `{reference.name}`"
        try:
            with Path(reference.name).open("rb") as file:
                value = file.read(_SECRET_BYTES_MAX).decode("utf-8")
        except OSError as failure:
            raise ValueError(f"{what} cannot be read: {failure.strerror}") from failure
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not text") from None
    value = value.strip()
    if not value:
        raise ValueError(f"{what} is empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{what} holds a character that no key has (a line break, a space?)")
    return Secret(value)


def join(place: str, key: str) -> str:
    """Append a key to a key path, quoted as TOML would where it is not a bare key."""
    if not _BARE_KEY.fullmatch(key):
        key = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{place}.{key}" if place else key


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one most likely means; None without a likely one.

    A known name is its own nearest.
    """
    candidates = sorted(set(known))
    if word in candidates:
        return word
    folded = {name.lower().replace("-", "_"): name for name in reversed(candidates)}
    plain = word.lower().replace("-", "_")
    if plain in folded:
        return folded[plain]
    found = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return found[0] if found else None


def hint(word: str, known: Iterable[str]) -> str:
    """Return `, nearest "NAME"` or the few names there are, for the end of a message."""
    names = sorted(set(known))
    near = nearest(word, names)
    if near is not None:
        return f', nearest "{near}"'
    if names and len(names) <= 12:
        return f", known: {', '.join(names)}"
    return ""


def shown(value: object) -> str:
    """Return a value for a message: as TOML writes it, and never endless."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN_CHARACTERS_MAX else value[:77] + "..."
        return f'"{text}"'
    if isinstance(value, int | float | Decimal):
        text = str(value)
        return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:77] + "..."
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, Sequence):
        return "a list"
    return str(value)


def looks_secret(value: str) -> bool:
    """Tell whether a text could be a key: such a value is never repeated in a message."""
    dense = sum(character.isalnum() or character in "-_" for character in value)
    return len(value) >= 16 and " " not in value and dense >= len(value) * 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value being read: where it stands and what it should be."""

    place: str
    option: Option
    reading: Reading

    def fault(self, message: str) -> None:
        """Note that the value is wrong."""
        self.reading.faults.add(self.place, message)


def build(make: Callable[..., T], values: Mapping[str, object]) -> T:
    """Make a noun from values that `read_options` has checked against its declarations."""
    return make(**values)


def read_table(value: object, place: str, reading: Reading) -> dict[str, object]:
    """Return a table as a dict; anything else is a fault and reads as an empty one."""
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    reading.faults.add(place, f"must be a table, not {shown(value)}")
    return {}


def read_list(value: object, place: str, reading: Reading) -> list[object]:
    """Return a list; anything else is a fault and reads as an empty one."""
    if isinstance(value, list):
        return list(value)
    reading.faults.add(place, f"must be a list, not {shown(value)}")
    return []


def check_keys(
    data: Iterable[str], known: Iterable[str], place: str, reading: Reading, *, table: str
) -> None:
    """Note each key that is not known, and each that this release does not have."""
    known = set(known)
    later = set(LATER.get(table, ()))
    for key in data:
        if key in known:
            continue
        if key in later:
            reading.faults.add(join(place, key), "not in this release; take it out")
        else:
            reading.faults.add(join(place, key), f"unknown key{hint(key, known)}")


def read_options(
    noun: type,
    data: Mapping[str, object],
    place: str,
    reading: Reading,
) -> dict[str, object]:
    """Read every option that `noun` declares, with its default where it is absent or wrong."""
    values: dict[str, object] = {}
    for name, (option, default) in options(noun).items():
        values[name] = default
        at = Field(place=join(place, name), option=option, reading=reading)
        if name in data:
            value = _read_value(data[name], at)
            if value is not None:
                values[name] = value
        elif option.required:
            at.fault("is missing")
    return values


def _read_value(value: object, at: Field) -> object | None:
    match at.option.kind:
        case Kind.BOOL:
            return _typed(value, bool, at)
        case Kind.INT:
            return _read_int(value, at)
        case Kind.TEXT:
            return _read_text(value, at)
        case Kind.CHOICE:
            return _read_choice(value, at)
        case Kind.TEXTS:
            return _read_texts(value, at)
        case Kind.PATH:
            text = _read_text(value, at)
            return None if text is None else at.reading.folder / text
        case Kind.ADDRESS:
            return _read_address(value, at)
        case Kind.REFERENCE:
            return read_reference(value, at.place, at.reading)
        case Kind.INSTANT:
            return _read_instant(value, at)
        case Kind.USD:
            return _read_usd(value, at)
        case Kind.TABLE:
            return _read_pairs(value, at)
        case Kind.ITEMS:
            return tuple(read_list(value, at.place, at.reading))
        case Kind.DECIMAL:
            return _read_decimal(value, at)
        case Kind.SCOPE | Kind.TARGET | Kind.EXPRESSION | Kind.JSON:
            # Read by who knows what it means.
            return value


def _typed(value: object, kind: type[T], at: Field) -> T | None:
    # bool is an int to Python and never to an operator.
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    at.fault(f"must be {KIND_WORDS[kind]}, not {_repeatable(value)}")
    return None


def _repeatable(value: object) -> str:
    if isinstance(value, str) and looks_secret(value):
        return "a text that is not repeated here"
    return shown(value)


def _read_int(value: object, at: Field) -> int | None:
    if isinstance(value, str) and at.option.unit == "bytes":
        size = _SIZE.fullmatch(value)
        if size:
            amount = int(size[1]) * 1024 ** _SIZE_STEPS[size[2][0].lower()]
            at.fault(f"must be a whole number of bytes: write {amount}")
            return None
    number = _typed(value, int, at)
    if number is None:
        return None
    least, most = at.option.least, at.option.most
    if (least is not None and number < least) or (most is not None and number > most):
        unit = f" {at.option.unit}" if at.option.unit else ""
        span = f"from {least} to {most}" if most is not None else f"at least {least}"
        at.fault(f"{shown(number)} is out of range: {span}{unit}")
        return None
    return number


def _read_text(value: object, at: Field) -> str | None:
    text = _typed(value, str, at)
    if text is None:
        return None
    if not text:
        at.fault("is empty")
        return None
    if not text.isprintable():
        at.fault("holds a control character")
        return None
    if at.option.most is not None and len(text.encode()) > at.option.most:
        at.fault(f"is longer than {at.option.most} bytes")
        return None
    return text


def _read_choice(value: object, at: Field) -> str | None:
    text = _typed(value, str, at)
    if text is None or not at.option.choices or text in at.option.choices:
        return text
    choices = ", ".join(f'"{choice}"' for choice in at.option.choices)
    near = nearest(text, at.option.choices)
    suggestion = f', nearest "{near}"' if near else ""
    at.fault(f"{_repeatable(text)} is none of {choices}{suggestion}")
    return None


def _read_texts(value: object, at: Field) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        at.fault(f"must be a list of strings, not {_repeatable(value)}")
        return None
    if at.option.most is not None and len(value) > at.option.most:
        at.fault(f"has {len(value)} entries; at most {at.option.most}")
        return None
    one = Option(kind=Kind.TEXT, prose=at.option.prose)
    texts: list[str] = []
    for index, item in enumerate(value):
        place = f"{at.place}[{index}]"
        text = _read_text(item, Field(place=place, option=one, reading=at.reading))
        if text in texts:
            at.reading.faults.add(place, f"{shown(text)} stands here twice")
        elif text is not None:
            texts.append(text)
    return tuple(texts)


def _read_pairs(value: object, at: Field) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, dict):
        at.fault(f"must be a table of strings, not {_repeatable(value)}")
        return None
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        place = join(at.place, key)
        if isinstance(item, str):
            pairs.append((key, item))
        else:
            at.reading.faults.add(place, f"must be a string, not {shown(item)}")
    return tuple(sorted(pairs))


def _read_address(value: object, at: Field) -> Address | None:
    text = _read_text(value, at)
    if text is None:
        return None
    try:
        return parse_address(text)
    except ValueError as failure:
        at.fault(str(failure))
        return None


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, where an IPv6 host stands in brackets.

    Raises:
        ValueError: It is not that; the message has the fix.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'{shown(text)} is not HOST:PORT; an IPv6 host is "[::1]:8080"')
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f'{shown(text)} is not HOST:PORT, as "127.0.0.1:8080"')
    if int(port) > 65_535:
        raise ValueError(f"port {port} is above 65535")
    return Address(host=host, port=int(port))


def read_reference(value: object, place: str, reading: Reading) -> SecretRef | None:
    """Read `env:NAME` or `file:PATH`; a secret that stands there itself is never printed."""
    fix = 'write where it is: "env:NAME" or "file:PATH"'
    if not isinstance(value, str):
        reading.faults.add(place, f"must be a reference, not {shown(value)}; {fix}")
        return None
    scheme, colon, name = value.partition(":")
    if colon and scheme == "env":
        if _VARIABLE.fullmatch(name):
            return SecretRef(scheme="env", name=name)
        reading.faults.add(
            place, "what stands after `env:` is not the name of an environment variable"
        )
        return None
    if colon and scheme == "file" and name and name.isprintable():
        return SecretRef(scheme="file", name=str(reading.folder / name))
    reading.faults.add(place, f"must not hold a secret itself (the value is not shown); {fix}")
    return None


def _read_instant(value: object, at: Field) -> UnixUs | None:
    instant = value
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            instant = None
    if not isinstance(instant, datetime) or instant.tzinfo is None:
        at.fault(
            f"must be a date and time with its offset, as 2027-01-31T12:00:00Z, "
            f"not {_repeatable(value)}"
        )
        return None
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return UnixUs((since.days * 86_400 + since.seconds) * US_PER_S + since.microseconds)


def _read_usd(value: object, at: Field) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        at.fault(f"must be a number of USD, not {_repeatable(value)}")
        return None
    # A file's numbers come as their digits. Of a double, which JSON gives, the shortest text is
    # what was written, to its last decimal.
    written = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    most = MONEY_NUSD_MAX if at.option.most is None else at.option.most
    try:
        amount = nusd_from_usd(written)
    except ValueError as failure:
        limit = f"; at most {_usd(most)} USD, with nine decimals"
        at.fault(f"{shown(value)}: {failure}{limit}")
        return None
    if amount < 0:
        at.fault(f"{shown(value)} is below 0")
    elif at.option.least is not None and amount < at.option.least:
        at.fault(f"{shown(value)} must be above 0")
    elif amount > most:
        at.fault(f"{shown(value)} is too much: at most {_usd(most)} USD")
    else:
        return amount
    return None


def _read_decimal(value: object, at: Field) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        at.fault(f"must be a number, not {_repeatable(value)}")
        return None
    written = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    decimals, least, most = at.option.decimals, at.option.least, at.option.most
    assert least is not None, at.place
    assert most is not None, at.place
    # Compared before it is scaled: an absurd exponent would make an endless number.
    if not written.is_finite() or not _unit(least, decimals) <= written <= _unit(
        most, decimals
    ):
        span = f"from {_unit(least, decimals)} to {_unit(most, decimals)}"
        unit = f" {at.option.unit}" if at.option.unit else ""
        at.fault(f"{shown(value)} is out of range: {span}{unit}")
        return None
    scaled = int(written.scaleb(decimals).to_integral_value())
    # Scaling rounds what has very many digits; comparing does not.
    if Decimal(scaled).scaleb(-decimals) != written:
        at.fault(f"{shown(value)} has more than {decimals} decimals; round it")
        return None
    return scaled


def _unit(amount: int, decimals: int) -> Decimal:
    return Decimal(amount).scaleb(-decimals).normalize() + 0


def _usd(amount_nusd: int) -> str:
    return usd_text(amount_nusd).rstrip("0").rstrip(".")
