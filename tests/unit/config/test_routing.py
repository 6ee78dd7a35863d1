"""Routing configs: every documented spelling, one stored form, one hash."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.config.model import RoutingConfig
from modelux.config.read import Faults, Reading
from modelux.config.routing import (
    canonical,
    content_hash,
    encode,
    read_routing,
)
from modelux.errors import ConfigError
from modelux.limits import ROUTE_TARGETS_MAX


def read(value: object) -> RoutingConfig:
    faults = Faults("test")
    reading = Reading(faults=faults, folder=Path("/"), env={}, with_secrets=False)
    found = read_routing(value, "", reading)
    faults.check()
    assert found is not None
    return found


def refused(value: object) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        read(value)
    return failure.value.faults


# --- spellings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [
        {"strategy": "fallback", "attempts": ["a", "b"], "retry_on": ["429"]},
        {"strategy": "fallback", "models": ["a", "b"], "retry_on": ["429"]},
        {"strategy": "fallback_chain", "models": ["a", "b"], "retry_on": ["429"]},
        {"policy": "fallback", "config": {"attempts": ["a", "b"], "retry_on": ["429"]}},
        {"policy": "fallback_chain", "config": {"models": ["a", "b"], "retry_on": ["429"]}},
        {
            "policy": "fallback_chain",
            "config": {"models": [{"model": "a"}, "b"], "retry_on": ["429"]},
        },
    ],
)
def test_every_documented_spelling_is_stored_as_the_first(spelling: object) -> None:
    assert encode(read(spelling)) == {
        "strategy": "fallback",
        "attempts": ["a", "b"],
        "retry_on": ["429"],
    }


names = st.sampled_from(["gpt-4o-mini", "vllm/llama", "@cheap", "@cheap@7", "claude-haiku-4-5"])
limits = st.integers(1, 100_000)
targets = st.one_of(
    names,
    st.fixed_dictionaries(
        {"model": st.just("gpt-4o")},
        optional={"timeout_ms": limits, "provider_credential_id": st.just("openai")},
    ),
)
said = {
    "retry_on": st.lists(st.sampled_from(["429", "5xx", "408"]), unique=True),
    "max_retries_per_attempt": st.integers(0, 3),
    "timeout_ms": limits,
    "connect_timeout_ms": limits,
    "idle_timeout_ms": limits,
    "attempt_max_ms": limits,
    "total_budget_ms": limits,
}


def fallback(inner: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {"strategy": st.just("fallback"), "attempts": st.lists(inner, min_size=1, max_size=3)},
        optional=said,
    )


configs = fallback(st.one_of(targets, fallback(st.one_of(targets, fallback(targets)))))


def shuffled(value: object, dice: random.Random) -> object:
    if isinstance(value, dict):
        items = [(key, shuffled(item, dice)) for key, item in value.items()]
        dice.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item, dice) for item in value]
    return value


@given(value=configs, seed=st.integers())
def test_the_hash_does_not_depend_on_the_order_of_keys(value: object, seed: int) -> None:
    mixed = shuffled(value, random.Random(seed))

    assert content_hash(canonical(encode(read(mixed)))) == content_hash(
        canonical(encode(read(value)))
    )


@given(value=configs)
def test_the_stored_form_reads_as_the_same_config(value: object) -> None:
    config = read(value)

    assert read(json.loads(canonical(encode(config)))) == config


@given(value=configs)
def test_what_was_not_said_is_not_stored(value: dict[str, object]) -> None:
    assert set(encode(read(value))) == set(value)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["strategy", "policy", "config", "attempts", "models", "model", "timeout_ms"]
            ),
            st.one_of(inner, st.sampled_from(["single", "fallback"])),
            max_size=4,
        ),
    ),
)


@given(value=json_values)
def test_any_json_is_a_config_or_refused_with_reasons(value: object) -> None:
    try:
        found = len(read(value).targets)
    except ConfigError as failure:
        found = len(failure.faults)

    assert found >= 1


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"strategy": "single", "model": ["x"]}, "test: model: must be a model or a table"),
        ({"strategy": "single", "model": "a b"}, 'test: model: "a b" is not a model\'s name'),
        ({"strategy": "single", "model": "x" * 257}, "test: model: is longer than 256 bytes"),
        ({"strategy": "single", "attempts": ["x"]}, "test: attempts: unknown key, nearest"),
        (
            {"strategy": "fallback", "attempts": ["x"], "models": ["y"]},
            "test: models: unknown key",
        ),
        ({"policy": "single", "model": "x"}, "test: model: unknown key"),
        ({"strategy": 3}, "test: strategy: must be a string, not 3"),
        ({}, "test: strategy: is missing: one of single, fallback, cost_optimized"),
        (
            {"strategy": "single", "model": "x", "timeout_ms": 0},
            "test: timeout_ms: 0 is out of range: from 1 to 86400000 ms",
        ),
        (
            {"strategy": "single", "model": "x", "retry_on": [429]},
            "test: retry_on[0]: must be a string, not 429",
        ),
        (
            {"strategy": "single", "model": {"model": "@x", "provider_credential_id": "k"}},
            "test: model.provider_credential_id: has no meaning for a routing config",
        ),
        (
            {"strategy": "fallback", "attempts": ["x"] * (ROUTE_TARGETS_MAX + 1)},
            "test: attempts: has 65 targets; at most 64",
        ),
    ],
)
def test_a_fault_of_a_routing_config_is_named(value: object, fault: str) -> None:
    assert any(one.startswith(fault) for one in refused(value)), refused(value)


def test_a_config_that_is_nested_five_deep_is_refused_before_it_is_read() -> None:
    value: object = "x"
    for _ in range(5):
        value = {"strategy": "single", "model": value}

    assert refused(value) == ["test: model.model.model.model: is nested deeper than 4"]
