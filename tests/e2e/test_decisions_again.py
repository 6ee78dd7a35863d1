"""A decision made again from its record comes out as it did.

Goal: what a record says went into its decision is all that went in. Method: traffic over every
strategy that chooses, at providers that fail, slow down and refuse keys; then each record's
figures are given to the function that decided it, beside the published snapshot.
"""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from modelux import _native
from modelux.pricing.catalogue import catalogue_bytes, models_bytes
from modelux.store.snapshot import SnapshotReader
from tests.e2e.harness import PROJECT, Gateway, Json, Simulator, provider_table, serve, until
from tests.e2e.routing import ask, price, sdk, told

ROUTES: Final = """
[routes.cost]
strategy = "cost_optimized"
allowed_models = ["sim/c-1", "sim/c-2", "sim/c-3"]

[routes.fast]
strategy = "latency_optimized"
models = ["sim/f-1", "sim/f-2", "sim/f-3"]
explore_pct = 30

[routes.arms]
strategy = "ab_test"
variants = [
  { name = "a", weight = 1, target = "sim/v-1" },
  { name = "b", weight = 1, target = { strategy = "fallback", attempts = ["@fast"] } },
]

[routes.rules]
strategy = "custom_rules"
rules = [
  { if = "budget.used_pct > 0.5 and tags.way == 'slow'", then = "@cost" },
  { if = "latency['sim/f-1'].ttft_ms > 0 and tags.way == 'fast'", then = "@fast" },
  { if = "health['sim/bad'].state == 'open'", then = "@arms" },
  { if = "request.input_tokens > 60", then = "sim/v-2" },
  { else = { strategy = "fallback", attempts = ["sim/bad", "sim/v-1"] } },
]

[routes.members]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/bad", "sim/v-1", "sim/v-2", "sim/f-1"]
min_responses = 2

[[budgets]]
name = "all"
scope = { type = "project", id = "default" }
cap_usd = 0.01
action = "warn_only"
period = "monthly"
"""
PRICED: Final = (
    price(["c-1"], 3, 9)
    + price(["c-2"], 1, 30)
    + price(["c-3"], 2, 20)
    + price(["f-1", "f-2", "f-3", "v-1", "v-2", "bad"], 10, 40)
)


def facts_of(record: Json) -> Json:
    """Return what a decision read of a request, from its record alone."""
    body = json.dumps(record["request"]).encode()
    scanned = _native.scan(body, "chat")
    facts: Json = {
        "id": record["id"],
        "model": f"{record['route']}@{record['route_version']}",
        "key_id": record["key_id"],
        "tags": record["tags"],
        "stream": record["stream"],
        "has_tools": scanned.has_tools,
        "messages": scanned.messages,
        "max_output_tokens": scanned.max_output_tokens,
    }
    return facts | {name: record[name] for name in ("end_user", "conversation_id")}


def explained(decision: Json, inputs: Json) -> list[Json]:
    """Return the candidates as far as figures had a say: the others are shown, not recorded."""
    shown = {} if "targets" in inputs else {"est_cost_usd": None, "latency_ms": None}
    return [candidate | shown for candidate in decision["candidates"]]


@pytest.fixture
def gateway(tmp_path: Path, simulator: Simulator) -> Any:  # noqa: ANN401 - a generator
    text = provider_table("sim", simulator.base_url()) + PROJECT + ROUTES + PRICED
    with serve(tmp_path, text, workers=2) as running:
        yield running


def snapshot_of(gateway: Gateway) -> _native.Snapshot:
    state_dir = gateway.config.parent / "state"
    reader = SnapshotReader(state_dir)
    try:
        _, document = reader.load()
    finally:
        reader.close()
    return _native.Snapshot(document, catalogue_bytes(), models_bytes())


def traffic(client: openai.OpenAI) -> None:
    """Ask until something failed, was left, came back, and a budget filled."""
    text = "Why is the tide an hour later each day? " * 6
    for number in range(48):
        route = ("cost", "fast", "arms", "rules", "rules", "members")[number % 6]
        ask(
            client,
            f"@{route}",
            stream=number % 4 == 0,
            tags="way=fast" if number % 5 == 0 else "way=slow",
            user=f"user-{number % 7}",
            max_tokens=200,
            messages=[{"role": "user", "content": text if number % 3 else "hello"}],
        )


def test_every_decision_comes_out_as_its_record_has_it(
    gateway: Gateway, simulator: Simulator
) -> None:
    faults = {"bad": "status=503", "f-1": "ttft_ms=5", "f-2": "ttft_ms=40"}
    with told(simulator, faults), sdk(gateway) as client:
        traffic(client)
    records = until(
        lambda: found if len(found := gateway.traces()) == 48 else None, what="48 records"
    )
    snapshot = snapshot_of(gateway)

    seen: Counter[str] = Counter()
    for record in records:
        decision = record["decision"]
        state = decision["inputs"] | {"tokens_by": decision["tokens_by"]}
        words = (json.dumps(facts_of(record)).encode(), json.dumps(state).encode())
        again = json.loads(_native.route(snapshot, *words))

        assert explained(again, state) == explained(decision, state), record["id"]
        assert again["rules"] == decision["rules"], record["id"]
        assert again["variant"] == decision["variant"], record["id"]
        assert again["tokens_by"] == decision["tokens_by"], record["id"]
        served = [each["target"] for each in record["attempts"] if each["role"] == "serve"]
        # A target may be tried twice in a row, over a pooled connection and over a fresh one.
        tried = [name for name, _ in itertools.groupby(served)]
        order = [each["target"] for each in again["order"]]
        assert tried == order[: len(tried)], record["id"]
        seen[record["strategy"]] += 1
        seen.update(one["health"] for one in decision["candidates"])
        seen.update(f"rules[{one['index']}]" for one in decision["rules"] if one["result"])
    # All that may be read was read, so none of the above was compared with nothing.
    assert {
        "cost_optimized",
        "latency_optimized",
        "ab_test",
        "custom_rules",
        "ensemble",
    } <= set(seen)
    assert {"closed", "open", "rules[0]", "rules[1]"} <= set(seen), seen
