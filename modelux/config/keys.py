"""Keys: their text, their checksum, and the keyed hash that is all we keep of them.

A made key is `mlx_sk_`, 24 base-62 characters (142 random bits) and 6 characters of checksum,
so that a secret scanner knows one without asking us. The hash is HMAC-SHA256 under a pepper
that lies beside `control.db` and not in it: who has only the database cannot try keys.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import zlib
from pathlib import Path
from typing import Final, NewType

from modelux.domain import Secret
from modelux.errors import StoreError

KeyHash = NewType("KeyHash", str)

PREFIX: Final = "mlx_sk_"
PEPPER_NAME: Final = "keys.pepper"
PEPPER_BYTES: Final = 32
MADE_RPM: Final = 600
"""Requests a minute of a key that was made without a limit being named."""
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS: Final = 24
_CHECKSUM_CHARACTERS: Final = 6


def make_key() -> Secret:
    """Make the text of a new key."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    text = PREFIX + body
    return Secret(text + checksum(text))


def checksum(text: str) -> str:
    """Return the CRC-32 of a key's text without its checksum, as 6 base-62 characters."""
    rest = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    assert rest == 0, "six base-62 digits hold 32 bits"
    return digits


def has_checksum(text: str) -> bool:
    """Tell whether a text is a key that was made here, by its form alone."""
    body, end = text[:-_CHECKSUM_CHARACTERS], text[-_CHECKSUM_CHARACTERS:]
    whole = len(PREFIX) + _RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS
    return len(text) == whole and text.startswith(PREFIX) and end == checksum(body)


def hash_key(pepper: bytes, key: Secret) -> KeyHash:
    """Return the keyed hash by which a key is known, in hex."""
    digest = hmac.new(pepper, key.reveal().encode(), hashlib.sha256)
    return KeyHash(digest.hexdigest())


def hash_end_user(pepper: bytes, end_user: str) -> str:
    """Return an end user as workers store it under `hash_end_users`."""
    digest = hmac.new(pepper, b"end_user\0" + end_user.encode(), hashlib.sha256)
    return f"eu_{digest.hexdigest()[:32]}"


def load_pepper(data_dir: Path) -> bytes:
    """Return the pepper of a data directory, making it at the first use.

    Raises:
        StoreError: It cannot be read or made, or is not 32 bytes.
    """
    path = data_dir / PEPPER_NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_pepper(path)
        pepper = path.read_bytes()
    except OSError as failure:
        raise StoreError(f"`{path}` cannot be used: {failure.strerror}") from failure
    if len(pepper) != PEPPER_BYTES:
        raise StoreError(
            f"`{path}` has {len(pepper)} bytes and not {PEPPER_BYTES}: without the right one "
            "no key works; restore it from a backup"
        )
    return pepper


def _make_pepper(path: Path) -> None:
    # Written whole under another name first, and linked, which fails where another process was
    # faster: nobody ever sees half a pepper, and nobody's is replaced.
    draft = path.with_name(f"{PEPPER_NAME}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(PEPPER_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
