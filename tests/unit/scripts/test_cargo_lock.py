"""The committed Rust lock names no registry, and gives cargo back exactly what it wrote."""

import pytest

from scripts.cargo_lock import default_source, restore, strip

LOCK = """\
version = 4

[[package]]
name = "ours"
version = "0.1.0"
dependencies = [
 "theirs",
]

[[package]]
name = "theirs"
version = "1.2.3"
source = "registry+example"
checksum = "00ff"
"""


def test_restoring_gives_back_what_was_stripped() -> None:
    assert "registry" not in strip(LOCK)
    assert restore(strip(LOCK), "registry+example") == LOCK


def test_a_package_without_a_checksum_cannot_be_locked() -> None:
    with pytest.raises(ValueError, match="`theirs` comes from no registry"):
        strip(LOCK.replace('checksum = "00ff"\n', ""))


def test_a_source_that_cargo_cannot_resolve_is_its_own_message() -> None:
    missing = '[[package]]\nname = "no such name"\nversion = "1.0.0"\nchecksum = "00"\n'
    with pytest.raises(RuntimeError, match="no such name"):
        default_source(missing)
