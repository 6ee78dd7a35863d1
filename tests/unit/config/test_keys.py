"""Keys: 142 random bits with a checksum, kept as a hash that needs the pepper."""

import hashlib
import hmac
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.config.keys import (
    PEPPER_BYTES,
    PEPPER_NAME,
    checksum,
    has_checksum,
    hash_end_user,
    hash_key,
    load_pepper,
    make_key,
)
from modelux.domain import Secret
from modelux.errors import StoreError


def test_a_made_key_is_known_by_its_form() -> None:
    text = make_key().reveal()

    assert text.startswith("mlx_sk_")
    assert len(text) == len("mlx_sk_") + 24 + 6
    assert has_checksum(text)


def test_no_two_made_keys_are_alike() -> None:
    assert len({make_key().reveal() for _ in range(1000)}) == 1000


@given(text=st.text("abcXYZ019", min_size=31, max_size=31), at=st.integers(7, 36))
def test_one_changed_character_breaks_the_checksum(text: str, at: int) -> None:
    key = f"mlx_sk_{text[:24]}"
    key += checksum(key)
    other = "A" if key[at] != "A" else "B"

    assert has_checksum(key)
    assert not has_checksum(key[:at] + other + key[at + 1 :])


@given(text=st.text())
def test_a_checksum_is_six_base62_characters(text: str) -> None:
    assert len(checksum(text)) == 6
    assert checksum(text).isalnum()


def test_a_key_from_the_file_needs_no_checksum() -> None:
    assert not has_checksum("mlx_sk_" + "a" * 30)
    assert not has_checksum("")


def test_the_hash_is_hmac_sha256_under_the_pepper() -> None:
    expected = hmac.new(b"p" * 32, b"mlx_sk_x", hashlib.sha256).hexdigest()

    assert hash_key(b"p" * 32, Secret("mlx_sk_x")) == expected
    assert hash_key(b"q" * 32, Secret("mlx_sk_x")) != expected


def test_the_pepper_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = load_pepper(tmp_path / "data")

    path = tmp_path / "data" / PEPPER_NAME
    assert len(first) == PEPPER_BYTES
    assert load_pepper(tmp_path / "data") == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == [PEPPER_NAME]


def test_whoever_comes_at_the_same_time_gets_the_same_pepper(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_pepper(tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_pepper_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / PEPPER_NAME).write_bytes(b"short")

    with pytest.raises(StoreError, match="has 5 bytes and not 32"):
        load_pepper(tmp_path)


def test_an_end_user_has_one_hash_under_one_pepper() -> None:
    assert hash_end_user(bytes(32), "u") == "eu_10e530d27b243207932a1d8785220a1b"
    assert hash_end_user(bytes([1] * 32), "u") != hash_end_user(bytes(32), "u")
