"""Who serves what a routing config names; references, cycles and depth."""

from pathlib import Path

import pytest

from modelux._native import Cells, Gate
from modelux.config.compile import compile_snapshot
from modelux.config.model import Config, RoutingConfig
from modelux.config.read import Faults, Reading
from modelux.config.resolve import (
    LiveRoute,
    PinnedVersion,
    Resolver,
    default_slug,
    resolve_model,
    served_names,
)
from modelux.config.routing import read_routing
from modelux.config.versions import ControlDb
from modelux.errors import ConfigError
from modelux.limits import MIB
from modelux.pricing.catalogue import catalogue_bytes, models_bytes
from tests.unit.config.worlds import ENV, PROVIDERS, WHO, loaded, routed


def read(value: object) -> RoutingConfig:
    faults = Faults("test")
    reading = Reading(faults=faults, folder=Path("/"), env={}, with_secrets=False)
    found = read_routing(value, "", reading)
    faults.check()
    assert found is not None
    return found


def opened(
    config: Config,
    routes: dict[str, object],
    slug: str,
    pinned: PinnedVersion | None = None,
) -> dict[str, object]:
    live = [
        LiveRoute(project="default", slug=name, version=1, config=read(value))
        for name, value in routes.items()
    ]
    faults = Faults("test")
    resolver = Resolver(config, live, pinned or (lambda _p, _s, _v: None), faults)
    node = resolver.open(next(route for route in live if route.slug == slug))
    faults.check()
    return node


def leaves(node: object) -> list[str]:
    assert isinstance(node, dict)
    if node["kind"] == "target":
        return [str(node["model"])]
    return [leaf for child in node["children"] for leaf in leaves(child)]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return loaded(tmp_path, PROVIDERS)


# --- who serves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "provider", "model"),
    [
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "openai", "gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:acme::abc", "openai", "ft:gpt-4o-mini:acme::abc"),
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openai/ft:gpt-4o-mini:acme::abc", "openai", "ft:gpt-4o-mini:acme::abc"),
        ("claude-haiku-4-5-20251001", "anthropic", "claude-haiku-4-5-20251001"),
        ("llama-3.3-70b", "vllm", "llama-3.3-70b"),
        ("vllm/llama-3.3-70b", "vllm", "llama-3.3-70b"),
    ],
)
def test_a_name_finds_its_provider(
    config: Config, text: str, provider: str, model: str
) -> None:
    index, found = resolve_model(config, text)

    assert (config.providers[index].name, found) == (provider, model)


def test_a_provider_that_lists_a_model_wins_over_the_prefix(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        f"{PROVIDERS}\n[providers.azureish]\nvendor = 'openai_compatible'\n"
        "base_url = 'http://127.0.0.1:1/v1'\nmodels = ['gpt-4o', 'meta/llama']\n",
    )

    assert config.providers[resolve_model(config, "gpt-4o")[0]].name == "azureish"
    assert resolve_model(config, "meta/llama")[1] == "meta/llama"


def test_a_model_that_has_a_price_is_known(tmp_path: Path) -> None:
    text = (
        f"{PROVIDERS}\n[prices.'openai/gpt-9']\ninput_usd_per_mtok = 1\n"
        "output_usd_per_mtok = 1\n[models.'google/veo']\n"
    )
    config = loaded(tmp_path, text)

    assert resolve_model(config, "openai/gpt-9") == (0, "gpt-9")
    assert resolve_model(config, "veo") == (2, "veo")


def test_any_model_may_be_at_an_address_that_is_not_the_vendors_own(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, "[providers.openai]\nbase_url = 'http://127.0.0.1:1/v1'\n", env={}
    )

    assert resolve_model(config, "openai/whatever") == (0, "whatever")
    assert resolve_model(config, "gpt-whatever") == (0, "gpt-whatever")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt-4o-mni", 'unknown model "gpt-4o-mni", nearest "gpt-4o-mini"'),
        ("openai/gpt-4o-mni", 'unknown model "gpt-4o-mni", nearest "gpt-4o-mini"'),
        ("llama-3.3-7b", 'unknown model "llama-3.3-7b", nearest "llama-3.3-70b"'),
        (
            "vllm/gpt",
            'provider `vllm` may call only its `models`, and "gpt" is not among them, known: '
            "llama-3.3-70b",
        ),
        ("opnai/gpt-4o", 'unknown model "opnai/gpt-4o", nearest "openai/gpt-4o"'),
        (
            "opnai/other",
            'unknown provider "opnai" in "opnai/other", nearest "openai/other"',
        ),
        (
            "openai/brandnew",
            'unknown model "brandnew"; if it is new, add [models."openai/brandnew"]',
        ),
    ],
)
def test_a_name_that_nobody_serves_has_the_fix(config: Config, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as failure:
        resolve_model(config, text)

    assert str(failure.value) == message


def test_a_vendor_without_a_provider_is_asked_for(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[providers.openai]\n", env={})

    with pytest.raises(ValueError, match=r"no provider serves .*: add \[providers.anthropic\]"):
        resolve_model(config, "claude-haiku-4-5")


@pytest.mark.parametrize(
    "providers",
    [
        "[providers.a]\nvendor = 'openai'\n[providers.b]\nvendor = 'openai'\n",
        "[providers.a]\nvendor = 'vllm'\nmodels = ['gpt-4o']\n"
        "[providers.b]\nvendor = 'vllm'\nmodels = ['gpt-4o']\n",
    ],
)
def test_a_name_that_two_serve_is_refused_with_both(tmp_path: Path, providers: str) -> None:
    config = loaded(tmp_path, providers, env={})

    with pytest.raises(ValueError, match=r"served by") as failure:
        resolve_model(config, "gpt-4o")

    assert str(failure.value) == (
        '"gpt-4o" is served by a and b: write "a/gpt-4o" or "b/gpt-4o"'
    )


def test_two_vendors_whose_catalogues_know_a_name_are_both_named(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[providers.mistral]\n[providers.groq]\n", env={})

    with pytest.raises(ValueError, match="served by mistral and groq"):
        resolve_model(config, "shared-model")


def test_every_served_name_resolves_to_what_it_says(config: Config) -> None:
    for name in served_names(config):
        index, model = resolve_model(config, name)
        assert name in {model, f"{config.providers[index].name}/{model}"}


# --- nesting -------------------------------------------------------------------------------

ONE = {"strategy": "single", "model": "gpt-4o"}
TWO = {"strategy": "single", "model": "claude-haiku-4-5"}


def test_inner_configs_stand_where_they_are_named(config: Config) -> None:
    routes: dict[str, object] = {
        "outer": {"strategy": "fallback", "attempts": ["@one", TWO, "llama-3.3-70b"]},
        "one": ONE,
    }

    node = opened(config, routes, "outer")

    assert leaves(node) == ["gpt-4o", "claude-haiku-4-5", "llama-3.3-70b"]
    children = node["children"]
    assert isinstance(children, list)
    assert [(child["kind"], child.get("slug")) for child in children] == [
        ("config", "one"),
        ("config", None),
        ("target", None),
    ]


def test_a_targets_time_limit_tightens_the_config_that_it_names(config: Config) -> None:
    routes: dict[str, object] = {
        "outer": {"strategy": "single", "model": {"model": "@one", "timeout_ms": 500}},
        "one": {**ONE, "timeout_ms": 900},
    }

    children = opened(config, routes, "outer")["children"]

    assert isinstance(children, list)
    assert [(child["slug"], child["timeout_ms"]) for child in children] == [("one", 500)]


def test_a_pinned_version_is_opened_whatever_is_live(config: Config) -> None:
    routes: dict[str, object] = {"outer": {"strategy": "single", "model": "@one@7"}, "one": ONE}

    def pinned(project: str, slug: str, version: int) -> RoutingConfig | None:
        return read(TWO) if (project, slug, version) == ("default", "one", 7) else None

    assert leaves(opened(config, routes, "outer", pinned)) == ["claude-haiku-4-5"]
    with pytest.raises(ConfigError, match="unknown version"):
        opened(config, {**routes, "outer": {"strategy": "single", "model": "@one@8"}}, "outer")


def test_default_is_the_first_route_where_none_has_that_name(config: Config) -> None:
    routes: dict[str, object] = {
        "one": ONE,
        "outer": {"strategy": "single", "model": "@default"},
    }

    assert leaves(opened(config, routes, "outer")) == ["gpt-4o"]
    assert default_slug(["a", "default"]) == "default"
    assert default_slug(["a", "b"]) == "a"
    assert default_slug([]) is None


def test_a_cycle_is_named_with_its_way(config: Config) -> None:
    routes: dict[str, object] = {
        "a": {"strategy": "fallback", "attempts": ["gpt-4o", "@b"]},
        "b": {"strategy": "single", "model": "@c"},
        "c": {"strategy": "single", "model": "@a"},
    }

    with pytest.raises(ConfigError) as failure:
        opened(config, routes, "a")

    assert failure.value.faults == ["test: model: makes a cycle: @a -> @b -> @c -> @a"]


def test_nesting_by_name_counts_like_nesting_inline(config: Config) -> None:
    routes: dict[str, object] = {"d": ONE}
    for name, inner in [("a", "b"), ("b", "c"), ("c", "d")]:
        routes[name] = {"strategy": "single", "model": f"@{inner}"}

    assert leaves(opened(config, routes, "a")) == ["gpt-4o"]
    routes["d"] = {"strategy": "single", "model": ONE}
    with pytest.raises(ConfigError, match="is nested 5 deep; at most 4, the outermost counted"):
        opened(config, routes, "a")


def test_opened_configs_have_a_bounded_number_of_targets(config: Config) -> None:
    many = {"strategy": "fallback", "attempts": ["gpt-4o"] * 40}
    routes: dict[str, object] = {
        "many": many,
        "outer": {"strategy": "fallback", "attempts": ["@many", "@many"]},
    }

    assert len(leaves(opened(config, routes, "many"))) == 40
    with pytest.raises(ConfigError, match="one target too many: at most 64"):
        opened(config, routes, "outer")


def test_a_credential_that_the_provider_does_not_have_is_refused(config: Config) -> None:
    target = {"model": "gpt-4o", "provider_credential_id": "opnai"}

    with pytest.raises(ConfigError, match='has no credential "opnai", nearest "openai"'):
        opened(config, {"a": {"strategy": "single", "model": target}}, "a")


def test_an_unknown_config_names_the_nearest(config: Config) -> None:
    routes: dict[str, object] = {
        "a": {"strategy": "single", "model": "@chep"},
        "cheap": ONE,
    }

    with pytest.raises(ConfigError, match='unknown routing config "@chep", nearest "@cheap"'):
        opened(config, routes, "a")


def test_a_cycle_in_the_file_is_found_when_the_file_is_read(tmp_path: Path) -> None:
    text = routed(
        'a: strategy = "single"\nmodel = "@b"',
        'b: strategy = "single"\nmodel = "@a"',
    )

    with pytest.raises(ConfigError, match="makes a cycle: @a -> @b -> @a"):
        loaded(tmp_path, text)


# --- strategies ----------------------------------------------------------------------------

BUDGET = '[[budgets]]\nname = "team"\nscope = { type = "organization" }\ncap_usd = 5\n'
EVERY: dict[str, object] = {
    "one": ONE,
    "single": {
        "strategy": "single",
        "model": {"model": "gpt-4o", "params": {"temperature": 0.5}},
        "shadow": {"target": "@one", "percent": 5.25},
        "embedding_dimensions": 1536,
    },
    "price": {
        "strategy": "cost_optimized",
        "quality_tier": "standard",
        "allowed_models": ["gpt-4o-mini", "gpt-4o", "llama-3.3-70b", "@one"],
    },
    "cheapest": {"strategy": "cost_optimized"},
    "latency": {
        "strategy": "latency_optimized",
        "models": ["gpt-4o", "gpt-4o-mini"],
        "tolerance_pct": 12.5,
    },
    "vote": {
        "strategy": "ensemble",
        "members": [{"model": "gpt-4o", "weight": 2.25}, "gpt-4o-mini", "@single"],
        "aggregation": "weighted_vote",
    },
    "pick": {
        "strategy": "ensemble",
        "members": ["gpt-4o", "gpt-4o-mini"],
        "aggregation": "llm_judge",
        "judge": "@one",
    },
    "first": {
        "strategy": "ensemble",
        "members": ["gpt-4o", "gpt-4o-mini"],
        "aggregation": "first_valid",
        "validate": "size(response.text) > 3",
    },
    "test": {
        "strategy": "ab_test",
        "variants": [
            {"name": "old", "weight": 99.5, "target": "@one"},
            {"name": "new", "weight": 0.5, "target": TWO},
        ],
    },
    "steps": {
        "strategy": "cascade",
        "steps": [
            {"target": "gpt-4o-mini", "accept_if": "response.finish_reason == 'stop'"},
            {"target": "@one", "accept_if": {"judge": "gpt-4o", "min_score": 0.7}},
            {"target": "claude-sonnet-4-5"},
        ],
    },
    "rules": {
        "strategy": "custom_rules",
        "rules": [
            {"if": "latency['gpt-4o'].ttft_ms < 300", "then": "gpt-4o"},
            {"if": "budgets['team'].used_pct > 0.9", "then": {"block": "no money left"}},
            {
                "else": {
                    "strategy": "custom_rules",
                    "rules": [{"if": "request.stream", "then": "@one"}, {"else": TWO}],
                }
            },
        ],
    },
}


@pytest.fixture
def rich(tmp_path: Path) -> Config:
    return loaded(tmp_path, f"{PROVIDERS}\n{BUDGET}")


def said(node: object) -> object:
    """Return a node without what every node has, and what is null."""
    if isinstance(node, list):
        return [said(item) for item in node]
    if not isinstance(node, dict):
        return node
    usual = {"retry_on", "max_retries_per_attempt", "label"}
    return {
        key: said(item) for key, item in node.items() if item is not None and key not in usual
    }


def leaf(provider: int, model: str, path: str, **more: object) -> dict[str, object]:
    return {"kind": "target", "provider": provider, "model": model, "path": path, **more}


def named(slug: str, path: str, *children: object) -> dict[str, object]:
    return {
        "kind": "config",
        "strategy": "single",
        "slug": slug,
        "version": 1,
        "path": path,
        "children": list(children),
    }


def own_of(config: Config, slug: str) -> dict[str, object]:
    node = said(opened(config, EVERY, slug))
    assert isinstance(node, dict)
    head = {"kind": "config", "slug": slug, "version": 1, "path": ""}
    assert head.items() <= node.items()
    return {key: item for key, item in node.items() if key not in head and key != "strategy"}


def inner(path: str) -> dict[str, object]:
    return named("one", path, leaf(0, "gpt-4o", "model"))


def test_a_shadow_and_what_a_target_sets_stand_in_the_node(rich: Config) -> None:
    assert own_of(rich, "single") == {
        "children": [leaf(0, "gpt-4o", "model", params={"temperature": 0.5})],
        "embedding_dimensions": 1536,
        "shadow": {"target": inner("shadow.target"), "percent_bp": 525},
    }


def test_a_named_model_below_the_tier_never_serves_and_one_without_a_tier_may(
    rich: Config,
) -> None:
    assert own_of(rich, "price") == {
        "children": [
            leaf(0, "gpt-4o-mini", "allowed_models[0]", rejected="below_quality_tier"),
            leaf(0, "gpt-4o", "allowed_models[1]"),
            leaf(3, "llama-3.3-70b", "allowed_models[2]"),
            inner("allowed_models[3]"),
        ]
    }


def test_where_all_that_is_named_is_below_the_tier_that_is_a_fault(rich: Config) -> None:
    value = {
        "strategy": "cost_optimized",
        "quality_tier": "frontier",
        "allowed_models": ["gpt-4o-mini"],
    }

    with pytest.raises(ConfigError, match='quality_tier: no target has the tier "frontier"'):
        opened(rich, {"a": value}, "a")


def test_a_choice_by_price_without_names_has_the_cheapest_chat_models(rich: Config) -> None:
    found = leaves(opened(rich, EVERY, "cheapest"))

    # By three parts of input and one of output; no embeddings, and nothing without a tier.
    assert found == [
        "gpt-4o-mini",
        "gemini-2.5-flash",
        "claude-haiku-4-5",
        "gpt-4o",
        "claude-sonnet-4-5",
    ]


def test_a_choice_by_price_counts_what_the_file_says_of_models(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "[providers.vllm]\nvendor = 'openai_compatible'\nbase_url = 'http://127.0.0.1:1/v1'\n"
        "models = ['dear', 'cheap', 'low', 'unpriced', 'embed-me']\n"
        + "".join(
            f"[models.'vllm/{name}']\ntier = '{tier}'\n"
            for name, tier in [
                ("dear", "frontier"),
                ("cheap", "premium"),
                ("low", "economy"),
                ("unpriced", "premium"),
                ("embed-me", "premium"),
            ]
        )
        + "".join(
            f"[prices.'vllm/{name}']\ninput_usd_per_mtok = {usd}\noutput_usd_per_mtok = 1\n"
            for name, usd in [("dear", 9), ("cheap", 2), ("low", 1), ("embed-me", 1)]
        ),
        env={},
    )
    routes: dict[str, object] = {
        "a": {"strategy": "cost_optimized", "quality_tier": "premium"},
        "b": {"strategy": "cost_optimized", "quality_tier": "frontier"},
    }

    assert leaves(opened(config, routes, "a")) == ["cheap", "dear"]
    assert leaves(opened(config, routes, "b")) == ["dear"]


def test_a_choice_by_price_among_nothing_is_refused(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[providers.ollama]\nmodels = ['llama3.2']\n", env={})

    with pytest.raises(ConfigError, match=r"allowed_models: is missing, and of what"):
        opened(config, {"a": {"strategy": "cost_optimized"}}, "a")


def test_latency_says_what_was_said(rich: Config) -> None:
    assert own_of(rich, "latency") == {
        "children": [leaf(0, "gpt-4o", "models[0]"), leaf(0, "gpt-4o-mini", "models[1]")],
        "tolerance_pct": 12.5,
    }


def test_an_ensemble_has_weights_beside_its_members_and_its_judge_apart(rich: Config) -> None:
    single = named(
        "single", "members[2]", leaf(0, "gpt-4o", "model", params={"temperature": 0.5})
    )

    assert own_of(rich, "vote") == {
        "children": [
            leaf(0, "gpt-4o", "members[0]"),
            leaf(0, "gpt-4o-mini", "members[1]"),
            # Its shadow is not mirrored: it is an inner config here.
            {**single, "embedding_dimensions": 1536},
        ],
        "aggregation": "weighted_vote",
        "weights": [2250, 1000, 1000],
    }
    assert own_of(rich, "pick")["judge"] == inner("judge")
    assert own_of(rich, "first")["validate"] == {
        "rule": {"text": "size(response.text) > 3", "targets": {}}
    }


def test_an_ab_test_is_salted_with_the_slug(rich: Config) -> None:
    two = leaf(1, "claude-haiku-4-5", "variants[1].target.model")

    assert own_of(rich, "test") == {
        "children": [
            inner("variants[0].target"),
            {
                "kind": "config",
                "strategy": "single",
                "path": "variants[1].target",
                "children": [two],
            },
        ],
        "variants": [{"name": "old", "weight": 9950}, {"name": "new", "weight": 50}],
        "sticky_by": "end_user",
        "salt": "test",
    }


def test_a_cascade_has_beside_each_step_what_makes_it_the_last(rich: Config) -> None:
    rule = {"text": "response.finish_reason == 'stop'", "targets": {}}
    judge = leaf(0, "gpt-4o", "steps[1].accept_if.judge")

    assert own_of(rich, "steps") == {
        "children": [
            leaf(0, "gpt-4o-mini", "steps[0].target"),
            inner("steps[1].target"),
            leaf(1, "claude-sonnet-4-5", "steps[2].target"),
        ],
        "accepts": [{"rule": rule}, {"judge": judge, "min_score_permille": 700}, None],
    }


def test_rules_name_their_targets_and_where_they_stand(rich: Config) -> None:
    one = {"gpt-4o": {"provider": 0, "model": "gpt-4o"}}
    nested = {
        "kind": "config",
        "strategy": "custom_rules",
        "path": "rules[2].else",
        "children": [
            inner("rules[2].else.rules[0].then"),
            {
                "kind": "config",
                "strategy": "single",
                "path": "rules[2].else.rules[1].else",
                "children": [leaf(1, "claude-haiku-4-5", "rules[2].else.rules[1].else.model")],
            },
        ],
        "rules": [
            {
                "if": {"text": "request.stream", "targets": {}},
                "then": 0,
                "path": "rules[2].else.rules[0]",
            },
            {"then": 1, "path": "rules[2].else.rules[1]"},
        ],
    }

    assert own_of(rich, "rules") == {
        "children": [leaf(0, "gpt-4o", "rules[0].then"), nested],
        "rules": [
            {
                "if": {"text": "latency['gpt-4o'].ttft_ms < 300", "targets": one},
                "then": 0,
                "path": "rules[0]",
            },
            {
                "if": {"text": "budgets['team'].used_pct > 0.9", "targets": {}},
                "block": "no money left",
                "path": "rules[1]",
            },
            {"then": 1, "path": "rules[2]"},
        ],
    }


def test_the_gate_serves_by_every_strategy(tmp_path: Path, rich: Config) -> None:
    control = ControlDb(None)
    control.apply_config(rich)
    for slug, value in EVERY.items():
        control.save_route(rich, "default", slug, read(value), WHO)
    for name in ("data", "spill"):
        (tmp_path / name).mkdir()
    Cells.create(tmp_path / "cells", 1)

    # It compiles every route, or refuses the whole snapshot.
    Gate(
        compile_snapshot(rich, control),
        {f"env:{name}": value for name, value in ENV.items()},
        catalogue_bytes(),
        models_bytes(),
        cells_path=tmp_path / "cells",
        ring_path=tmp_path / "ring.0.1",
        ring_bytes=MIB,
        spill_dir=tmp_path / "spill",
        spill_bytes_max=MIB,
        boot_id="",
        slot=0,
        generation=1,
        seed=(1, 2),
    )
    control.close()


def rule(text: str) -> dict[str, object]:
    rules = [{"if": text, "then": "gpt-4o"}, {"else": "gpt-4o"}]
    return {"strategy": "custom_rules", "rules": rules}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "tags.a == 'b' &&\n  latency['gpt-4o-mni'].ttft_ms < 300",
            'rules[0].if: line 2, column 11: unknown model "gpt-4o-mni", nearest "gpt-4o-mini"',
        ),
        (
            "budgets['taem'].used_pct > 0.5",
            'rules[0].if: line 1, column 9: unknown budget "taem", nearest "team"',
        ),
        ("cost['@one'].est_usd < 1", 'rules[0].if: line 1, column 6: unknown model "@one"'),
    ],
)
def test_a_name_in_a_rule_that_is_not_there_is_told_with_its_place(
    rich: Config, text: str, fault: str
) -> None:
    with pytest.raises(ConfigError) as failure:
        opened(rich, {"a": rule(text)}, "a")

    assert failure.value.faults[0].startswith(f"test: {fault}")


@pytest.mark.parametrize(
    "value",
    [
        {"strategy": "single", "model": "gpt-4o", "shadow": {"target": "@a", "percent": 1}},
        {
            "strategy": "ensemble",
            "members": ["gpt-4o"],
            "aggregation": "llm_judge",
            "judge": "@a",
        },
        {
            "strategy": "cascade",
            "steps": [
                {"target": "gpt-4o", "accept_if": {"judge": "@a", "min_score": 1}},
                {"target": "gpt-4o"},
            ],
        },
        {"strategy": "custom_rules", "rules": [{"else": "@a"}]},
        {
            "strategy": "ab_test",
            "variants": [
                {"name": "a", "weight": 1, "target": {"strategy": "single", "model": "@a"}}
            ],
        },
    ],
)
def test_a_cycle_is_found_wherever_a_target_may_stand(rich: Config, value: object) -> None:
    with pytest.raises(ConfigError, match="makes a cycle: @a -> @a"):
        opened(rich, {"a": value}, "a")


@pytest.mark.parametrize("around", [[], ["fallback"]])
@pytest.mark.parametrize("strategy", ["ensemble", "cascade"])
@pytest.mark.parametrize("asked_by", ["ensemble", "cascade"])
def test_a_judge_makes_its_word_of_one_answer(
    rich: Config, asked_by: str, strategy: str, around: list[str]
) -> None:
    members = {"members": ["gpt-4o", "gpt-4o"]}
    several: dict[str, object] = {
        "ensemble": {"strategy": "ensemble", "aggregation": "first_valid", **members},
        "cascade": {
            "strategy": "cascade",
            "steps": [{"target": "gpt-4o", "accept_if": "true"}, {"target": "gpt-4o"}],
        },
    }
    judge: object = several[strategy]
    for _ in around:
        judge = {"strategy": "fallback", "attempts": ["gpt-4o", judge]}
    asking: dict[str, object] = {
        "ensemble": {
            "strategy": "ensemble",
            "aggregation": "llm_judge",
            "judge": judge,
            **members,
        },
        "cascade": {
            "strategy": "cascade",
            "steps": [
                {"target": "gpt-4o", "accept_if": {"judge": judge, "min_score": 1}},
                {"target": "gpt-4o"},
            ],
        },
    }
    with pytest.raises(ConfigError, match=f"makes its answer of several, by `{strategy}`"):
        opened(rich, {"a": asking[asked_by]}, "a")


def test_what_is_opened_beside_the_targets_is_bounded_too(rich: Config) -> None:
    many = [
        *[{"target": "gpt-4o", "accept_if": {"judge": "@many", "min_score": 1}}] * 20,
        {"target": "gpt-4o"},
    ]
    routes: dict[str, object] = {
        "many": {"strategy": "fallback", "attempts": ["gpt-4o"] * 60},
        "a": {"strategy": "cascade", "steps": many},
    }

    with pytest.raises(ConfigError, match="is one too many: at most 1024"):
        opened(rich, routes, "a")
