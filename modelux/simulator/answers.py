"""The honest answer to one request, as OpenAI's API gives it, whole or in stream events.

Pure: the same request, settings and seed give the same bytes. One output token is one word from
a fixed list, some of them beyond ASCII, so that a cut can fall inside a character.
"""

import array
import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import shake_256
from itertools import cycle, islice
from typing import Final, assert_never

import orjson

from modelux.simulator.request import Ask, Shape
from modelux.simulator.settings import (
    TOKENS_MAX,
    Bill,
    Chance,
    Malformed,
    Settings,
    UsageLie,
)

CREATED_UNIX_S: Final = 1_750_000_000
"""The time every answer claims: a run repeats byte for byte."""

WORDS: Final = (
    " the", " river", " kept", " its", " own", " time", " und", " flo\u00df", " leise", " past",
    " caf\u00e9", " lights", " \u6771\u4eac", " while", " ferries", " crossed",
    " \U0001f6f6", " home",
)  # fmt: skip
"""One output token each."""

SPLIT_WORD: Final = " \u6771"
"""A token that a cut can fall inside of: its character has three bytes."""

_WORD: Final = re.compile(r"\s*\S+")
_BYTE_FLOATS: Final = tuple((byte - 127.5) / 2048 for byte in range(256))
_LIMIT_HEADERS: Final = (
    (b"x-ratelimit-limit-requests", b"5000"),
    (b"x-ratelimit-remaining-requests", b"4999"),
    (b"set-cookie", b"__cf_bm=simulated; path=/; HttpOnly"),
)
"""What OpenAI sends beside an answer and no gateway may pass on with a shared key."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body, the wait before it, and the output tokens that it carries."""

    data: bytes
    delay_ms: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer before anything spoils it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    pieces: Iterator[Piece]
    streamed: bool
    output_tokens: int
    """What the whole answer bills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a whole answer is made from."""

    ask: Ask
    settings: Settings
    chance: Chance
    id: str
    input_tokens: int
    output_tokens: int
    finish: str
    words: tuple[str, ...]
    """What it says, a token each; said again from the start where there are too few."""


def draft_answer(ask: Ask, settings: Settings, chance: Chance, request_id: str) -> Draft:
    """Decide how long the answer is and how it ends."""
    words = WORDS if settings.text is None else tuple(_WORD.findall(settings.text))
    wanted = min(TOKENS_MAX, max(0, round(settings.tokens.draw(chance))))
    if settings.text is not None:
        wanted = len(words)
    limit = None if settings.ignore_limit else ask.output_tokens_max
    allowed = wanted if limit is None else min(wanted, limit)
    cut = "length" if allowed < wanted else "stop"
    calls = settings.tool_call and ask.tool is not None and ask.shape is Shape.CHAT
    return Draft(
        ask=ask,
        settings=settings,
        chance=chance,
        id=request_id,
        input_tokens=ask.input_tokens
        if settings.input_tokens is None
        else settings.input_tokens,
        output_tokens=0 if ask.shape is Shape.EMBEDDINGS else allowed,
        finish="tool_calls" if calls else cut,
        words=words,
    )


def make_answer(draft: Draft) -> Answer:
    """Return the answer that `draft` describes."""
    ask, settings = draft.ask, draft.settings
    if settings.malformed is not None:
        return _malformed(settings.malformed, draft)
    headers = (
        (b"x-request-id", b"req_" + draft.id.encode()),
        (b"openai-processing-ms", b"%d" % round(settings.first_byte_ms.median)),
        (b"openai-version", b"2020-10-01"),
        *_LIMIT_HEADERS,
    )
    if ask.stream:
        return Answer(
            status=200,
            headers=((b"content-type", b"text/event-stream; charset=utf-8"), *headers),
            pieces=_stream(draft),
            streamed=True,
            output_tokens=draft.output_tokens * ask.choices,
        )
    return Answer(
        status=200,
        headers=((b"content-type", b"application/json"), *headers),
        pieces=iter((_whole(draft),)),
        streamed=False,
        output_tokens=draft.output_tokens * ask.choices,
    )


def make_error(
    status: int,
    settings: Settings,
    *,
    code: str | None = None,
    key: str = "",
    message: str = "",
) -> Answer:
    """Return an error in OpenAI's shape.

    Args:
        status: The HTTP status.
        settings: Where `message` and `retry_after` may be given.
        code: The `error.code`; otherwise what OpenAI says with this status.
        key: The caller's key, echoed by 401, 402 and 403 as real providers do.
        message: What went wrong, where the settings give no message.
    """
    kind, usual = _ERRORS.get(status, ("server_error", None))
    text = settings.message or message or f"Simulated error {status}."
    if key and status in {401, 402, 403}:
        text += f" Incorrect API key provided: {key}."
    body = orjson.dumps(
        {"error": {"message": text, "type": kind, "param": None, "code": code or usual}}
    )
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"x-request-id", b"req_simulated_error"),
        (b"x-should-retry", b"true" if status in {408, 429} or status >= 500 else b"false"),
        *_LIMIT_HEADERS,
    ]
    if settings.retry_after is not None:
        headers.append((b"retry-after", settings.retry_after.encode("latin-1", "replace")))
    return Answer(
        status=status,
        headers=tuple(headers),
        pieces=iter((Piece(body),)),
        streamed=False,
        output_tokens=0,
    )


_ERRORS: Final[dict[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}


def models_page(names: tuple[str, ...]) -> bytes:
    """Return the body of `GET /v1/models`."""
    return orjson.dumps({"object": "list", "data": [model_card(name) for name in names]})


def model_card(name: str) -> dict[str, object]:
    """Return one entry of the list of models."""
    return {"id": name, "object": "model", "created": CREATED_UNIX_S, "owned_by": "simulator"}


def _output_text(draft: Draft) -> str:
    return "".join(islice(cycle(draft.words), draft.output_tokens))


def _usage(draft: Draft) -> bytes | None:
    """Return the usage object as the settings want it told, None where it is left out."""
    ask, settings = draft.ask, draft.settings
    output_tokens = draft.output_tokens * ask.choices
    match settings.usage:
        case UsageLie.MISSING:
            return None
        case UsageLie.NULL:
            return b"null"
        case UsageLie.ZERO:
            told: tuple[str, str] = ("0", "0")
        case UsageLie.NEGATIVE:
            told = (str(-draft.input_tokens), str(-output_tokens))
        case UsageLie.STRING:
            told = (f'"{draft.input_tokens}"', f'"{output_tokens}"')
        case UsageLie.FLOAT:
            told = (f"{draft.input_tokens}.5", f"{output_tokens}.5")
        case UsageLie.NAN:
            told = ("NaN", "NaN")
        case UsageLie.HUGE:
            told = (str(2**62), str(2**62))
        case (
            UsageLie.HONEST
            | UsageLie.TWICE
            | UsageLie.TWICE_LOWER
            | UsageLie.WITH_CHOICE
            | UsageLie.RUNNING
            | UsageLie.RUNNING_ONLY
        ):
            told = (str(draft.input_tokens), str(output_tokens))
        case never:
            assert_never(never)
    return _usage_object(draft, *told)


def _running_usage(draft: Draft, output_tokens: int) -> bytes | None:
    if draft.settings.usage not in {UsageLie.RUNNING, UsageLie.RUNNING_ONLY}:
        return None
    return _usage_object(draft, str(draft.input_tokens), str(output_tokens))


def _usage_object(draft: Draft, told_input: str, told_output: str) -> bytes:
    settings = draft.settings
    numeric = settings.usage in {
        UsageLie.HONEST,
        UsageLie.TWICE,
        UsageLie.WITH_CHOICE,
        UsageLie.RUNNING,
        UsageLie.RUNNING_ONLY,
    }
    output_tokens = draft.output_tokens * draft.ask.choices
    total = str(draft.input_tokens + int(told_output)) if numeric else told_input
    cached = min(settings.cached_tokens, draft.input_tokens)
    reasoning = min(settings.reasoning_tokens, output_tokens)
    if draft.ask.shape is Shape.EMBEDDINGS:
        total = told_input
        return f'{{"prompt_tokens":{told_input},"total_tokens":{total}}}'.encode()
    return (
        f'{{"prompt_tokens":{told_input},"completion_tokens":{told_output},'
        f'"total_tokens":{total},'
        f'"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,'
        '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ).encode()


def _whole(draft: Draft) -> Piece:
    ask, settings = draft.ask, draft.settings
    wait_ms = settings.first_byte_ms.draw(draft.chance) + sum(
        settings.token_ms.draw(draft.chance)
        for _ in range(draft.output_tokens if settings.token_ms.median else 0)
    )
    usage = _usage(draft)
    usage_member = b"" if usage is None else b',"usage":' + usage
    if ask.shape is Shape.EMBEDDINGS:
        body = _embeddings(draft, usage_member)
    else:
        kind = b"chat.completion" if ask.shape is Shape.CHAT else b"text_completion"
        choices = b",".join(_choice(draft, index) for index in range(ask.choices))
        body = (
            b'{"id":"%s","object":"%s","created":%d,"model":%s,"choices":[%s]%s,'
            b'"service_tier":"default","system_fingerprint":"fp_simulated"}'
        ) % (_id(draft), kind, CREATED_UNIX_S, orjson.dumps(ask.model), choices, usage_member)
    return Piece(body, wait_ms, draft.output_tokens * ask.choices)


def _id(draft: Draft) -> bytes:
    prefix = b"chatcmpl-" if draft.ask.shape is Shape.CHAT else b"cmpl-"
    return prefix + draft.id.encode()


def _choice(draft: Draft, index: int) -> bytes:
    text = _output_text(draft)
    choice: dict[str, object]
    if draft.ask.shape is Shape.COMPLETIONS:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": draft.finish}
        return orjson.dumps(choice)
    message: dict[str, object] = {
        "role": "assistant",
        "content": text,
        "refusal": None,
        "annotations": [],
    }
    if draft.finish == "tool_calls":
        message["content"] = None
        arguments = orjson.dumps({"text": text}).decode()
        message["tool_calls"] = [
            {
                "id": f"call_{draft.id}",
                "type": "function",
                "function": {"name": draft.ask.tool, "arguments": arguments},
            }
        ]
    choice = {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": draft.finish,
    }
    return orjson.dumps(choice)


def _embeddings(draft: Draft, usage_member: bytes) -> bytes:
    ask = draft.ask
    size = ask.dimensions or draft.settings.dimensions
    items = []
    for index, text in enumerate(ask.inputs):
        floats = array.array("f", (_BYTE_FLOATS[byte] for byte in shake_256(text).digest(size)))
        vector = base64.b64encode(floats.tobytes()).decode() if ask.base64 else floats.tolist()
        items.append(orjson.dumps({"object": "embedding", "index": index, "embedding": vector}))
    return b'{"object":"list","data":[%s],"model":%s%s}' % (
        b",".join(items),
        orjson.dumps(ask.model),
        usage_member,
    )


def _stream(draft: Draft) -> Iterator[Piece]:
    """Yield the events: role, one for each token, finish, usage, `[DONE]`."""
    ask, settings = draft.ask, draft.settings
    opening = _event_opening(draft)
    first_ms = settings.first_byte_ms.draw(draft.chance)
    chat = ask.shape is Shape.CHAT
    if chat:
        for index in range(ask.choices):
            delta = _opening_delta(draft)
            yield Piece(_event(draft, opening, _delta(index, delta)), first_ms)
            first_ms = 0.0
    for number in range(draft.output_tokens):
        word = draft.words[number % len(draft.words)]
        if draft.finish == "tool_calls":
            # The arguments are one JSON object, whichever way they are cut into tokens.
            word = ('{"text":"' if number == 0 else "") + word
            word += '"}' if number == draft.output_tokens - 1 else ""
        wait_ms = first_ms + settings.token_ms.draw(draft.chance)
        first_ms = 0.0
        for index in range(ask.choices):
            so_far = _running_usage(draft, number * ask.choices + index + 1)
            yield Piece(_event(draft, opening, _word(draft, index, word), so_far), wait_ms, 1)
            wait_ms = 0.0
    usage = _usage(draft) if ask.include_usage else None
    for index in range(ask.choices):
        last = b'{"index":%d,%s"logprobs":null,"finish_reason":"%s"}' % (
            index,
            b'"delta":{},' if chat else b'"text":"",',
            draft.finish.encode(),
        )
        with_choice = usage if settings.usage is UsageLie.WITH_CHOICE else None
        yield Piece(_event(draft, opening, last, with_choice), first_ms)
    if usage is not None and settings.usage not in {
        UsageLie.WITH_CHOICE,
        UsageLie.RUNNING_ONLY,
    }:
        if settings.usage is UsageLie.TWICE_LOWER:
            yield Piece(_event(draft, opening, b"", usage))
            usage = _usage_object(draft, "1", "0")
        yield Piece(_event(draft, opening, b"", usage))
        if settings.usage is UsageLie.TWICE:
            yield Piece(_event(draft, opening, b"", usage))
    yield Piece(b"data: [DONE]\n\n")


def stream_word_event(draft: Draft, word: str) -> bytes:
    """Return the event of one token, for a fault that needs one of its own making."""
    return _event(draft, _event_opening(draft), _word(draft, 0, word))


def _event_opening(draft: Draft) -> bytes:
    kind = b"chat.completion.chunk" if draft.ask.shape is Shape.CHAT else b"text_completion"
    return (
        b'data: {"id":"%s","object":"%s","created":%d,"model":%s,"service_tier":"default",'
        b'"system_fingerprint":"fp_simulated","choices":['
    ) % (_id(draft), kind, CREATED_UNIX_S, orjson.dumps(draft.ask.model))


def _event(draft: Draft, opening: bytes, choice: bytes, usage: bytes | None = None) -> bytes:
    middle = b"]"
    if usage is not None:
        middle = b'],"usage":' + usage
    elif draft.ask.include_usage:
        middle = b'],"usage":null'
    if draft.settings.obfuscation:
        # OpenAI pads each event to hide the length of its token.
        pad = b"x" * (1 + int(draft.chance.share() * 14))
        middle += b',"obfuscation":"' + pad + b'"'
    return opening + choice + middle + b"}\n\n"


def _opening_delta(draft: Draft) -> bytes:
    if draft.finish != "tool_calls":
        return b'{"role":"assistant","content":"","refusal":null}'
    call = {"index": 0, "id": f"call_{draft.id}", "type": "function"}
    function = {"name": draft.ask.tool, "arguments": ""}
    return b'{"role":"assistant","content":null,"tool_calls":[%s],"refusal":null}' % (
        orjson.dumps(call | {"function": function})
    )


def _delta(index: int, delta: bytes) -> bytes:
    return b'{"index":%d,"delta":%s,"logprobs":null,"finish_reason":null}' % (index, delta)


def _word(draft: Draft, index: int, word: str) -> bytes:
    text = orjson.dumps(word)
    if draft.ask.shape is Shape.COMPLETIONS:
        return b'{"index":%d,"text":%s,"logprobs":null,"finish_reason":null}' % (index, text)
    if draft.finish == "tool_calls":
        call = b'{"tool_calls":[{"index":0,"function":{"arguments":%s}}]}' % text
        return _delta(index, call)
    return _delta(index, b'{"content":%s}' % text)


def _malformed(kind: Malformed, draft: Draft) -> Answer:
    match kind:
        case Malformed.JSON:
            body, content_type = (
                b'{"id":"chatcmpl-1","choices":[{"index":0,',
                "application/json",
            )
        case Malformed.EMPTY:
            body, content_type = b"", "application/json"
        case Malformed.HTML:
            body, content_type = b"<html><h1>502 Bad Gateway</h1></html>", "text/html"
        case Malformed.ARRAY:
            body, content_type = b"[1,2,3]", "application/json"
        case Malformed.UTF8:
            body, content_type = b'{"id":"\xff\xfe","choices":[]}', "application/json"
        case never:
            assert_never(never)
    return Answer(
        status=200,
        headers=((b"content-type", content_type.encode()),),
        pieces=iter((Piece(body, draft.settings.first_byte_ms.draw(draft.chance)),)),
        streamed=False,
        # Nobody can read what was generated; a provider that bills all bills it all the same.
        output_tokens=draft.output_tokens * draft.ask.choices
        if draft.settings.bill is Bill.ALL
        else 0,
    )
