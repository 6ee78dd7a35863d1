"""The upper bound of a request beside what recorded answers were billed."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from modelux._native import ScanError, SseFollower, Usage, scan, usage_of_answer
from modelux.pricing.catalogue import catalogue, model_info
from tests import corpus

NOW: Final = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())
APIS: Final = {"chat": "chat", "completions": "completions", "embeddings": "embeddings"}
VENDORS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "azure-openai": "openai",
    "openai-compat:openrouter": "openrouter",
    "openai-compat:mistral": "mistral",
    "openai-compat:deepseek": "deepseek",
    "openai-compat:groq": "groq",
    "openai-compat:together": "together",
    "openai-compat:xai": "xai",
}
PARTS: Final = (
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
)


def usage_of(exchange: corpus.Exchange) -> Usage | None:
    """What the recorded answer reports."""
    if not exchange.streaming:
        return usage_of_answer(exchange.body)
    follower = SseFollower(cut_usage=False)
    follower.feed(exchange.body)
    follower.finish()
    return follower.usage


def service_tier(exchange: corpus.Exchange) -> str | None:
    """The service tier that the recorded answer names last."""
    events = exchange.body.split(b"data:") if exchange.streaming else [exchange.body]
    for event in reversed(events):
        try:
            document = json.loads(event)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get("service_tier"), str):
            return str(document["service_tier"])
    return None


def billed() -> Iterator[tuple[corpus.Exchange, str, str, int]]:
    """Every recorded request whose answer reports usage that has a price, and its charge."""
    for exchange in corpus.openai_exchanges(*APIS):
        vendor = VENDORS.get(exchange.provider)
        usage = usage_of(exchange)
        if vendor is None or usage is None or exchange.request is None:
            continue
        try:
            model = json.loads(exchange.request).get("model")
        except ValueError:
            continue
        if not isinstance(model, str):
            continue
        parts = {name: getattr(usage, name) for name in PARTS}
        cost = catalogue().cost(vendor, model, NOW, parts, service_tier(exchange))
        if cost is not None:
            yield exchange, vendor, model, sum(cost)


def test_no_recorded_request_was_billed_more_than_its_bound() -> None:
    seen, above, without = 0, [], []
    for exchange, vendor, model, charge_nusd in billed():
        assert exchange.request is not None
        shape = APIS[exchange.api]
        try:
            stated = scan(exchange.request, shape).max_output_tokens
            info = model_info(vendor, model)
            limit = info.max_output_tokens if info and stated is None else None
            most, _ = catalogue().bound(vendor, model, NOW, exchange.request, shape, limit)
        except ScanError:
            continue
        except ValueError as fault:
            without.append((model, str(fault)))
            continue
        seen += 1
        if charge_nusd > most:
            above.append((exchange.id, model, charge_nusd, most))
    assert above == []
    assert seen >= 400
    # Only what may search the web as often as it likes has none.
    assert len(without) <= 3, without
    assert all("own tools" in why for _, why in without), without
