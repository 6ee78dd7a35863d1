"""Counting tokens: never below what providers reported, linear, and beside the interpreter."""

import json
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux import _native
from tests import corpus
from tests.corpus import Exchange, Json
from tests.unit.wire.test_usage import input_sum

FRAME: Final = 16
"""Added to a bound for each message, each part of one, and the request."""
UNSHOWN: Final = 64
"""Allowed for what a model generates beside the text of an answer."""

VOCABULARIES: Final = st.sampled_from(["cl100k", "o200k"])


def reported(exchange: Exchange) -> tuple[_native.Usage | None, int]:
    """What a provider says of a recorded answer, and the bytes of its text."""
    if not exchange.streaming:
        text_bytes = _native.relayed_tokens(exchange.body, is_sse=False)
        return _native.usage_of_answer(exchange.body), text_bytes
    follower = _native.SseFollower(cut_usage=False, count_text=True)
    for piece in exchange.reads():
        follower.feed(piece)
    follower.finish()
    return follower.usage, follower.text_bytes


def answered(*apis: str) -> Iterator[tuple[Exchange, _native.Usage, int]]:
    """The recordings whose usage is known, with it and the bytes of the answer's text."""
    for exchange in corpus.openai_exchanges(*apis):
        usage, text_bytes = reported(exchange)
        if exchange.status == 200 and usage is not None:
            yield exchange, usage, text_bytes


def asked_model(exchange: Exchange) -> str:
    request: Json = json.loads(exchange.request or b"{}")
    assert isinstance(request, dict)
    return str(request.get("model", ""))


# --- recorded requests and answers -----------------------------------------------------------


def test_no_recorded_request_has_more_tokens_than_were_counted() -> None:
    bounds: list[tuple[int, int]] = []
    for exchange, usage, _ in answered("chat", "completions", "embeddings"):
        vocabulary = _native.vocabulary(exchange.provider, asked_model(exchange))
        if exchange.request is None or vocabulary is None:
            continue
        counted = _native.count(exchange.request, exchange.api, vocabulary)
        if counted is not None:
            assert counted >= input_sum(usage), exchange.id
            bounds.append((counted, input_sum(usage)))
    assert len(bounds) > 150
    # Short prompts are mostly frame; of the others the bound is a tenth above, at the median.
    longer = sorted(bound / tokens for bound, tokens in bounds if tokens > 200)
    assert len(longer) > 40
    assert longer[len(longer) // 2] < 1.15


def test_no_recorded_answer_has_more_tokens_than_its_text_has_bytes() -> None:
    checked = 0
    for exchange, usage, text_bytes in answered("chat", "completions"):
        shown = usage.output_tokens + usage.audio_output_tokens
        assert text_bytes + UNSHOWN >= shown, exchange.id
        checked += 1
    assert checked > 400


def test_what_is_counted_of_recorded_answers_is_what_was_reported() -> None:
    differences = []
    for name in ("cl100k", "o200k"):
        _native.load_vocabulary(name)
    for exchange, usage, text_bytes in answered("chat", "completions"):
        vocabulary = _native.vocabulary(exchange.provider, asked_model(exchange))
        if vocabulary is None:
            continue
        counted = _native.relayed_tokens(
            exchange.body, is_sse=exchange.streaming, vocabulary=vocabulary
        )
        assert counted <= text_bytes, exchange.id
        assert counted + UNSHOWN >= usage.output_tokens, exchange.id
        differences.append(abs(counted - usage.output_tokens))
    assert len(differences) > 300
    assert sorted(differences)[len(differences) // 2] <= 4


def objects(value: Json) -> Iterator[dict[str, Json]]:
    """All objects inside a value."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from objects(member)
    elif isinstance(value, list):
        for element in value:
            yield from objects(element)


def documents(body: bytes) -> Iterator[Json]:
    """The JSON of a whole answer, or of each event of a stream."""
    for line in [body, *body.splitlines()]:
        try:
            yield json.loads(line.removeprefix(b"data:"))
        except ValueError:
            continue


def test_no_recording_holds_usage_where_it_is_not_looked_for() -> None:
    found = 0
    for exchange in corpus.openai_exchanges("chat", "completions", "embeddings"):
        usage, _ = reported(exchange)
        figures = [
            value["prompt_tokens"]
            for document in documents(exchange.body)
            for value in objects(document)
            if isinstance(value.get("prompt_tokens"), int)
        ]
        if figures and exchange.status == 200:
            assert usage is not None, exchange.id
            assert input_sum(usage) == figures[-1], exchange.id
            found += 1
    assert found > 400


# --- any text --------------------------------------------------------------------------------


@given(texts=st.lists(st.text(max_size=60), max_size=6), vocabulary=VOCABULARIES)
def test_a_chat_is_its_texts_and_a_frame_for_each(texts: list[str], vocabulary: str) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    expected = FRAME + sum(FRAME + _native.count_text(text, vocabulary) for text in texts)
    for is_ascii in (True, False):
        body = json.dumps({"messages": messages}, ensure_ascii=is_ascii).encode()
        assert _native.count(body, "chat", vocabulary) == expected
        # So a count is never above the bound that bytes give, but for the request's frame.
        assert expected <= len(body) + FRAME * len(texts) + FRAME


@given(text=st.text(), vocabulary=VOCABULARIES)
def test_no_text_has_more_tokens_than_bytes(text: str, vocabulary: str) -> None:
    assert _native.count_text(text, vocabulary) <= len(text.encode())


@given(body=st.binary(max_size=80), shape=st.sampled_from(["chat", "completions"]))
def test_any_bytes_are_counted_without_harm(body: bytes, shape: str) -> None:
    assert _native.count(body, shape, "o200k") in {None, FRAME}
    for is_sse in (True, False):
        assert _native.relayed_tokens(body, is_sse=is_sse) <= len(body)


@pytest.mark.parametrize(
    "unit",
    ["a", "A", " ", "\n", " \n", "1", "'", "'s", "\t a", "é", "\u0301", "😀", "語", "ʰ", "aB"]
    + ["/", "\r", "\u00a0", "\u00a0\n", "a ", "_-", "\u200b"],
)
def test_no_text_is_slow_to_count(unit: str) -> None:
    # Method: bodies of 400 KB; what took time quadratic in them would take minutes.
    text = unit * (400_000 // len(unit.encode()))
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    for vocabulary in ("cl100k", "o200k"):
        counted = _native.count(body, "chat", vocabulary)
        assert counted is not None
        assert counted <= len(text.encode()) + 2 * FRAME


def test_the_interpreter_is_free_while_a_body_is_counted() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 400_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    counted: list[int | None] = []
    ended = threading.Event()

    def count() -> None:
        counted.append(_native.count(body, "chat", "o200k"))
        ended.set()

    thread = threading.Thread(target=count)
    thread.start()
    turns = 0
    while not ended.wait(0.001):
        turns += 1
    thread.join()
    assert counted[0] is not None
    # Were it not, this thread would have got its turn once before and once after.
    assert turns > 10


def test_a_vocabulary_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match=r"p50k.*cl100k or o200k"):
        _native.count(b"{}", "chat", "p50k")
    with pytest.raises(ValueError, match="shape"):
        _native.count(b"{}", "images", "o200k")
    assert _native.vocabulary("anthropic", "claude-sonnet-5") is None
    _native.load_vocabulary("o200k")
    assert _native.is_vocabulary_loaded("o200k")
