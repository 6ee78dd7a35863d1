"""Who serves what a routing config names; references, cycles and depth."""

from pathlib import Path

import pytest

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
from modelux.errors import ConfigError
from tests.unit.config.worlds import PROVIDERS, loaded, routed


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
