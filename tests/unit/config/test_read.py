"""Values with their places: nearest names, references, and what a message never shows."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.config.model import Address, Kind, Option, SecretRef, declared
from modelux.config.read import (
    Faults,
    Reading,
    follow,
    hint,
    join,
    looks_secret,
    nearest,
    parse_address,
    read_options,
    read_reference,
    shown,
)
from modelux.errors import ConfigError

words = st.text("abcdefgh-_0123", min_size=1, max_size=14)


@given(word=words, others=st.lists(words))
def test_a_known_name_is_its_own_nearest(word: str, others: list[str]) -> None:
    assert nearest(word, [*others, word]) == word


@given(word=words, known=st.lists(words))
def test_what_is_nearest_is_known(word: str, known: list[str]) -> None:
    assert nearest(word, known) in {*known, None}


@given(word=st.text("abcdefgh", min_size=6, max_size=14), at=st.integers(0, 5))
def test_one_dropped_letter_is_forgiven(word: str, at: int) -> None:
    assert nearest(word[:at] + word[at + 1 :], [word, "0123456789", "9876543210"]) == word


@given(known=st.permutations(["alpha", "alphb", "alphc", "beta"]))
def test_the_nearest_does_not_depend_on_the_order_of_the_known(known: list[str]) -> None:
    assert nearest("alph", known) == nearest("alph", ["alpha", "alphb", "alphc", "beta"])


def test_case_and_dashes_are_the_first_thing_that_is_forgiven() -> None:
    assert nearest("Max-Connections", ["connect_ip_family", "max_connections"]) == (
        "max_connections"
    )


def test_few_names_are_listed_where_none_is_near() -> None:
    assert hint("zzz", ["a", "b"]) == ", known: a, b"
    assert hint("zzz", []) == ""


@pytest.mark.parametrize(
    ("place", "key", "expected"),
    [
        ("", "server", "server"),
        ("prices", "vllm/llama", 'prices."vllm/llama"'),
        ("a", "", 'a.""'),
        ("a", 'x"y\\z', 'a."x\\"y\\\\z"'),
    ],
)
def test_a_key_path_quotes_what_is_not_bare(place: str, key: str, expected: str) -> None:
    assert join(place, key) == expected


def test_a_fault_stands_at_the_line_of_what_holds_it() -> None:
    faults = Faults("f.toml", {"a": 3, 'a."x.y"': 4, "a.b[1]": 7})
    faults.add("a.b[1].model", "one")
    faults.add('a."x.y".z', "two")
    faults.add("a.missing", "three")
    faults.add("elsewhere", "four")

    assert faults.texts() == [
        "f.toml: elsewhere: four",
        "f.toml:3: a.missing: three",
        'f.toml:4: a."x.y".z: two',
        "f.toml:7: a.b[1].model: one",
    ]


def test_the_same_fault_is_told_once() -> None:
    faults = Faults("f")
    faults.add("a", "wrong")
    faults.add("a", "wrong")

    with pytest.raises(ConfigError) as failure:
        faults.check()

    assert failure.value.faults == ["f: a: wrong"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address(host="127.0.0.1", port=8080)),
        ("[::1]:0", Address(host="::1", port=0)),
        ("localhost:65535", Address(host="localhost", port=65_535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["8080", ":8080", "a:", "a:b", "::1:80", "a:65536", "a:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_a_reference_is_followed_into_the_environment() -> None:
    assert follow(SecretRef(scheme="env", name="K"), {"K": " sk-1 \n"}).reveal() == "sk-1"


def test_a_reference_is_followed_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")

    assert follow(SecretRef(scheme="file", name=str(tmp_path / "key")), {}).reveal() == "sk-2"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "the environment variable `K` is not set"),
        ({"K": "  "}, "the environment variable `K` is empty"),
        ({"K": "topsecret\nvalue"}, "the environment variable `K` holds a character"),
        ({"K": "topsécret"}, "the environment variable `K` holds a character"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_and_not_shown(
    env: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        follow(SecretRef(scheme="env", name="K"), env)

    assert "topsecret" not in str(failure.value)


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        follow(SecretRef(scheme="file", name=str(tmp_path / "no")), {})


@pytest.mark.parametrize(
    "value", ["sk-proj-abcdefghijklmnop", "env", "env:", "env:A B", "file:", "vault:x", 3, None]
)
def test_a_literal_secret_is_refused_without_being_shown(value: object, tmp_path: Path) -> None:
    faults = Faults("f")
    reading = Reading(faults=faults, folder=tmp_path, env={}, with_secrets=True)

    assert read_reference(value, "api_key", reading) is None
    assert len(faults.texts()) == 1
    assert "sk-proj" not in faults.texts()[0]


def test_a_relative_secret_file_starts_at_the_folder_of_the_file(tmp_path: Path) -> None:
    reading = Reading(faults=Faults("f"), folder=tmp_path, env={}, with_secrets=False)

    found = read_reference("file:keys/openai", "api_key", reading)

    assert found == SecretRef(scheme="file", name=str(tmp_path / "keys" / "openai"))


@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_a_value_in_a_message_is_never_endless(value: object) -> None:
    assert len(shown(value)) <= 100


def test_what_could_be_a_key_is_known_for_one() -> None:
    assert looks_secret("sk-proj-" + "a1" * 10)
    assert not looks_secret("eight megabytes, please")
    assert not looks_secret("full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Stands for any noun with a number that has decimals."""

    share: int = declared(
        0, Option(kind=Kind.DECIMAL, prose="", unit="%", least=0, most=10_000, decimals=2)
    )


def shared(value: object) -> tuple[object, list[str]]:
    faults = Faults("t")
    reading = Reading(faults=faults, folder=Path("/"), env={}, with_secrets=False)
    found = read_options(Share, {"share": value}, "", reading)["share"]
    return found, faults.texts()


@given(hundredths=st.integers(0, 10_000))
def test_a_number_with_decimals_is_held_exactly_however_it_is_written(hundredths: int) -> None:
    written = Decimal(hundredths).scaleb(-2)
    assert shared(written) == (hundredths, [])
    assert shared(float(written)) == (hundredths, [])


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (True, "must be a number, not true"),
        ("5", 'must be a number, not "5"'),
        (-0.01, "-0.01 is out of range: from 0 to 100 %"),
        (Decimal("1e999999999"), "1E+999999999 is out of range: from 0 to 100 %"),
        (float("nan"), "nan is out of range: from 0 to 100 %"),
        (Decimal("1e-999999999"), "1E-999999999 has more than 2 decimals; round it"),
        (
            Decimal("0.1" + "0" * 40 + "1"),
            f"0.1{'0' * 40}1 has more than 2 decimals; round it",
        ),
        (0.125, "0.125 has more than 2 decimals; round it"),
    ],
)
def test_a_number_that_is_none_of_those_says_what_would_be(value: object, fault: str) -> None:
    assert shared(value) == (0, [f"t: share: {fault}"])
