"""TOML with positions: the values that `tomllib` reads, and the line of every key."""

import tomllib
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelux._native import parse_toml

DOCUMENT = """\
# a comment
[server]
listen = "x"
[providers.openai]
headers.deep.key = 1

[routes.production]
attempts = [
  { model = "x" },
  "y",
]
[prices."vllm/llama"]
x = 0.10
[[budgets]]
n = 1
[[budgets]]
n = 2
"""

bare = st.text("abcXYZ019_-", min_size=1, max_size=6)
names = st.one_of(bare, st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.datetimes(timezones=st.one_of(st.none(), offsets)).filter(lambda d: d.year > 999),
    st.dates(min_value=date(1000, 1, 1)),
    st.times(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)
    ),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=5)


def quoted(text: str) -> str:
    escaped = "".join(
        c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text
    )
    return f'"{escaped}"'


def written(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case float():
            text = repr(value)
            return text if any(c in text for c in ".ein") else f"{text}.0"
        case datetime() | date() | time():
            return value.isoformat()
        case list():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            pairs = (f"{quoted(key)} = {written(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return str(value)


@given(data=documents)
def test_every_document_reads_as_the_standard_library_reads_it(data: dict[str, object]) -> None:
    text = "".join(f"{quoted(key)} = {written(item)}\n" for key, item in data.items())

    found, _ = parse_toml(text)

    assert found == tomllib.loads(text, parse_float=Decimal)


def test_every_key_path_knows_its_line() -> None:
    data, spans = parse_toml(DOCUMENT)

    assert data == tomllib.loads(DOCUMENT, parse_float=Decimal)
    assert spans == {
        "server": 2,
        "server.listen": 3,
        "providers": 4,
        "providers.openai": 4,
        "providers.openai.headers": 5,
        "providers.openai.headers.deep": 5,
        "providers.openai.headers.deep.key": 5,
        "routes": 7,
        "routes.production": 7,
        "routes.production.attempts": 8,
        "routes.production.attempts[0]": 9,
        "routes.production.attempts[0].model": 9,
        "routes.production.attempts[1]": 10,
        "prices": 12,
        'prices."vllm/llama"': 12,
        'prices."vllm/llama".x': 13,
        "budgets": 14,
        "budgets[0]": 14,
        "budgets[0].n": 15,
        "budgets[1]": 16,
        "budgets[1].n": 17,
    }


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a = ", 1, 5),
        ("a = 1\na = 2", 2, 1),
        ('x = 1\ny = "é', 2, 7),
        ("[a]\nb = 1\n[a]\n", 3, 1),
        ("ok = 1\n= 2\n", 2, 1),
    ],
)
def test_a_syntax_error_has_its_line_and_column(text: str, line: int, column: int) -> None:
    with pytest.raises(ValueError, match=r"^\(") as failure:
        parse_toml(text)

    assert failure.value.args[1:] == (line, column)


@given(text=st.text(st.sampled_from("ab.[]{}=\"'\n\r\t #,01-:TZé\\"), max_size=60))
@example("[[[[[[[[")
@example("a = " + "[" * 200)
def test_any_text_gives_values_or_a_place(text: str) -> None:
    try:
        data, spans = parse_toml(text)
    except ValueError as failure:
        message, line, column = failure.args
        assert isinstance(message, str)
        assert 1 <= line <= text.count("\n") + 1
        assert 1 <= column <= len(text) + 1
    else:
        assert all(1 <= line <= text.count("\n") + 1 for line in spans.values())
        assert isinstance(data, dict)
