"""What a request asks of the stand-in provider, and how its text is counted.

Tokens are counted in one simple, documented way: the bytes of all text in the request divided
by four, rounded up, at least 1; a number in an `input` of token ids is one token. Real
tokenizers differ, which does not matter to a test that compares two ledgers.
"""

import re
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

import orjson

from modelux.simulator.settings import split_model

BYTES_PER_TOKEN: Final = 4
VERSION_PREFIX: Final = re.compile(r"^(?:/openai)?(?:/v1)+(?=/|$)")


class RequestError(Exception):
    """A body that a provider would refuse with a 400; the message says why."""


@unique
class Shape(Enum):
    """The shapes of answer, by path."""

    CHAT = "/chat/completions"
    COMPLETIONS = "/completions"
    EMBEDDINGS = "/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The facts of one body that its answer depends on."""

    shape: Shape
    model: str
    model_settings: str
    """The settings text found in the model's name."""
    metadata_settings: str
    """The settings text in `metadata.simulate`."""
    stream: bool
    include_usage: bool
    output_tokens_max: int | None
    choices: int
    input_tokens: int
    inputs: tuple[bytes, ...]
    """What is to be embedded, one each; empty for the other shapes."""
    base64: bool
    dimensions: int | None
    tool: str | None


def shape_of(path: str) -> Shape | None:
    """Return the shape of the answer to a POST on `path`, None where there is none."""
    rest = VERSION_PREFIX.sub("", path).rstrip("/")
    return next((shape for shape in Shape if shape.value == rest), None)


def parse_ask(shape: Shape, body: bytes) -> Ask:
    """Read a body.

    Raises:
        RequestError: No JSON object, no model, or a field of the wrong type.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(
            f"We could not parse the JSON body of your request: {error}"
        ) from error
    match fields:
        case {"model": str(name)}:
            model, model_settings = split_model(name)
        case _:
            raise RequestError("you must provide a model parameter")
    match fields:
        case {"stream": True, "stream_options": {"include_usage": True}}:
            stream, include_usage = True, True
        case {"stream": True}:
            stream, include_usage = True, False
        case _:
            stream, include_usage = False, False
    match fields:
        case {"tools": [{"function": {"name": str(name)}}, *_]}:
            tool: str | None = name
        case _:
            tool = None
    match fields:
        case {"metadata": {"simulate": str(text)}}:
            metadata_settings = text
        case _:
            metadata_settings = ""
    inputs = _inputs(fields)
    text_bytes = len(b"".join(inputs)) if inputs else _text_bytes(fields)
    return Ask(
        shape=shape,
        model=model,
        model_settings=model_settings,
        metadata_settings=metadata_settings,
        stream=stream and shape is not Shape.EMBEDDINGS,
        include_usage=include_usage,
        output_tokens_max=_limit(fields),
        choices=_integer(fields, "n") or 1,
        input_tokens=max(1, -(-text_bytes // BYTES_PER_TOKEN)),
        inputs=inputs,
        base64=_is_base64(fields),
        dimensions=_integer(fields, "dimensions"),
        tool=tool,
    )


def _limit(fields: dict[str, object]) -> int | None:
    newer = _integer(fields, "max_completion_tokens")
    return newer if newer is not None else _integer(fields, "max_tokens")


def _integer(fields: dict[str, object], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"Invalid type or value for '{key}': expected an integer above 0")
    return value


def _is_base64(fields: dict[str, object]) -> bool:
    return "encoding_format" in fields and fields["encoding_format"] == "base64"


def _inputs(fields: dict[str, object]) -> tuple[bytes, ...]:
    """Return what is to be embedded, one each; nothing where no `input` stands."""
    match fields:
        case {"input": str(text)}:
            return (text.encode(),)
        case {"input": [int(), *_] as ids}:
            return (_ids_bytes(ids),)
        case {"input": [*items]}:
            return tuple(
                item.encode() if isinstance(item, str) else _ids_bytes(item) for item in items
            )
        case _:
            return ()


def _ids_bytes(ids: object) -> bytes:
    # Four bytes an id, so that the division by four counts each id as one token.
    return b"".join(b"%04d" % (each % 10_000) for each in ids) if isinstance(ids, list) else b""


def _text_bytes(fields: dict[str, object]) -> int:
    """Return the bytes of all text the model would read."""
    total = 0
    for key in ("messages", "prompt", "tools", "functions"):
        if key in fields:
            total += _strings_bytes(fields[key])
    return total


def _strings_bytes(value: object) -> int:
    match value:
        case str():
            return len(value) if value.isascii() else len(value.encode())
        case list():
            return sum(map(_strings_bytes, value))
        case dict():
            return sum(_strings_bytes(each) for key, each in value.items() if key != "role")
        case _:
            return 0
