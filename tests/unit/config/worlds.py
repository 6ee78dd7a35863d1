"""Configurations that tests of this folder start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from modelux.config.database import Who
from modelux.config.file import Probe, load_config
from modelux.config.model import Config, RoutingConfig
from modelux.config.read import Faults, Reading
from modelux.config.routing import read_routing
from modelux.config.rows import Change, RouteRow
from modelux.config.versions import ControlDb

KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "openai": ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small"),
    "anthropic": ("claude-haiku-4-5", "claude-sonnet-4-5"),
    "google": ("gemini-2.5-flash",),
    "mistral": ("mistral-small-latest", "shared-model"),
    "groq": ("shared-model",),
}
KEY_A: Final = "mlx_sk_" + "a" * 24
KEY_B: Final = "mlx_sk_" + "b" * 24
ENV: Final[Mapping[str, str]] = {
    "OPENAI_API_KEY": "sk-openai",
    "ANTHROPIC_API_KEY": "sk-ant",
    "GEMINI_API_KEY": "AIza",
    "MODELUX_KEY": KEY_A,
    "CI_KEY": KEY_B,
}
PROVIDERS: Final = """
[providers.openai]
api_key = "env:OPENAI_API_KEY"
[providers.anthropic]
api_key = "env:ANTHROPIC_API_KEY"
[providers.google]
api_key = "env:GEMINI_API_KEY"
[providers.vllm]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:8000/v1"
models = ["llama-3.3-70b"]
"""
WHOLE: Final = f"""
[server]
listen = "127.0.0.1:8080"
data_dir = "./modelux-data"
{PROVIDERS}
[projects.default]
keys = ["env:MODELUX_KEY",
  {{ id = "ci", key = "env:CI_KEY", rpm = 120, require = ["tag:team"] }}]

[routes.production]
strategy = "fallback"
attempts = [
  {{ model = "claude-haiku-4-5", timeout_ms = 2000 }},
  {{ model = "gpt-4o-mini", timeout_ms = 3000 }},
  {{ model = "gemini-2.5-flash", timeout_ms = 5000 }},
]
retry_on = ["429", "5xx", "timeout"]

[routes.cheap]
strategy = "single"
model = "vllm/llama-3.3-70b"

[prices."vllm/llama-3.3-70b"]
input_usd_per_mtok = 0.10
output_usd_per_mtok = 0.40
"""


def known(vendor: str) -> Sequence[str]:
    """Stand in for the catalogue."""
    return KNOWN.get(vendor, ())


def loaded(
    folder: Path,
    text: str,
    *,
    env: Mapping[str, str] = ENV,
    with_secrets: bool = True,
) -> Config:
    """Load a file that holds this text."""
    path = folder / "modelux.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, env, catalogue=known, with_secrets=with_secrets)


def without_file(env: Mapping[str, str], probe: Probe | None = None) -> Config:
    """Load built-in defaults."""
    return load_config(None, env, probe=probe, catalogue=known)


def routed(*routes: str, server: str = "") -> str:
    """Return a file with these routes: `slug: TOML of the config`, one a line."""
    tables = "".join(
        f"[routes.{slug}]\n{config.strip()}\n"
        for slug, _, config in (route.partition(":") for route in routes)
    )
    return f"[server]\n{server}\n{PROVIDERS}\n{tables}"


WHO: Final = Who(actor="cli:somebody", source="a test")
MINI: Final = 'production: strategy = "single"\nmodel = "gpt-4o-mini"'
FULL: Final = 'production: strategy = "single"\nmodel = "gpt-4o"'
STRICT: Final = 'provision = "strict"'


def single(model: str) -> RoutingConfig:
    """Return the config that sends everything to one model."""
    reading = Reading(faults=Faults("test"), folder=Path("/"), env={}, with_secrets=False)
    found = read_routing({"strategy": "single", "model": model}, "", reading)
    assert found is not None
    return found


def actions(changes: list[Change]) -> list[str]:
    """Return what each change does to what."""
    return [f"{change.action} {change.resource}" for change in changes]


def production(db: ControlDb) -> RouteRow:
    """Return the route that tests are about."""
    row = db.route("default", "production")
    assert row is not None
    return row


def live(db: ControlDb) -> int | None:
    """Return the live version of it."""
    row = production(db)
    return None if row.live is None else row.live.version


def save(db: ControlDb, config: Config, model: str, slug: str = "production") -> int:
    """Save a version as somebody at a shell would; return its number."""
    return db.save_route(config, "default", slug, single(model), WHO).version
