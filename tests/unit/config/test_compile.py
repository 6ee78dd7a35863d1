"""The snapshot: what a worker needs, and no secret."""

import json
from pathlib import Path
from typing import cast

import pytest

from modelux.config.compile import compile_snapshot
from modelux.config.keys import hash_key
from modelux.config.model import Config, KeyPolicy
from modelux.config.versions import ControlDb
from modelux.domain import Secret
from modelux.errors import ConfigError
from tests.unit.config.worlds import (
    ENV,
    KEY_A,
    PROVIDERS,
    WHO,
    WHOLE,
    loaded,
    routed,
    save,
)

Tables = dict[str, list[dict[str, object]]]


def compiled(config: Config, db: ControlDb) -> Tables:
    db.apply_config(config)
    return cast("Tables", json.loads(compile_snapshot(config, db)))


def test_the_snapshot_of_the_interfaces_example(tmp_path: Path, db: ControlDb) -> None:
    snapshot = compiled(loaded(tmp_path, WHOLE), db)

    assert snapshot["providers"][1] == {
        "name": "anthropic",
        "vendor": "anthropic",
        "scheme": "https",
        "host": "api.anthropic.com",
        "port": 443,
        "base_path": "/v1",
        "auth_header": "authorization",
        "auth_prefix": "Bearer ",
        "credentials": [{"id": "anthropic", "ref": "env:ANTHROPIC_API_KEY", "weight": 1}],
        "headers": [],
        "models": None,
        "stream_usage": True,
        "on_cancel": "bills_generated",
        "drain_max_ms": 10000,
        "ca_file": None,
        "proxy": None,
        "connect_ip_family": "any",
        "max_connections": 512,
        "free": False,
    }
    assert snapshot["projects"] == [
        {"name": "default", "auto_resolve_bare_model": True, "store_bodies": "full"}
    ]
    assert snapshot["keys"][1] == {
        "id": "ci",
        "hash": hash_key(db.pepper, Secret(ENV["CI_KEY"])),
        "project": 0,
        "name": None,
        "rpm": 120,
        "expires_at_us": None,
        "allowed_routes": None,
        "allowed_models": None,
        "tags": [],
        "end_user": None,
        "require_end_user": False,
        "require_tags": ["team"],
        "allow_versions": False,
    }
    assert snapshot["prices"] == [
        {
            "provider": "vllm",
            "model": "llama-3.3-70b",
            "input_nusd_per_mtok": 100_000_000,
            "output_nusd_per_mtok": 400_000_000,
            "cached_nusd_per_mtok": None,
            "cache_write_nusd_per_mtok": None,
            "request_nusd": 0,
        }
    ]
    assert [
        (route["slug"], route["live"], route["is_default"]) for route in snapshot["routes"]
    ] == [
        ("production", 1, True),
        ("cheap", 1, False),
    ]


def test_no_secret_stands_in_the_snapshot(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, WHOLE)
    db.apply_config(config)

    blob = compile_snapshot(config, db)

    assert KEY_A.encode() not in blob
    assert not any(value.encode() in blob for value in ENV.values() if len(value) > 8)


def test_the_hash_follows_what_is_served_and_nothing_else(
    tmp_path: Path, db: ControlDb
) -> None:
    first = compiled(loaded(tmp_path, WHOLE), db)["config_hash"]
    same = compiled(loaded(tmp_path, f"{WHOLE}\n# a comment\n"), db)["config_hash"]
    other = compiled(loaded(tmp_path, WHOLE.replace("2000", "2001")), db)["config_hash"]

    assert first == same
    assert first != other


def test_a_projects_bodies_are_the_servers_where_it_says_nothing(
    tmp_path: Path, db: ControlDb
) -> None:
    text = (
        '[server]\nstore_bodies = "metadata"\n[providers.ollama]\n[projects.a]\n'
        '[projects.b]\nstore_bodies = "none"\n'
    )

    snapshot = compiled(loaded(tmp_path, text), db)

    assert [project["store_bodies"] for project in snapshot["projects"]] == ["metadata", "none"]


def test_default_is_the_route_of_that_name_else_the_first_of_each_project(
    tmp_path: Path, db: ControlDb
) -> None:
    text = "[providers.ollama]\n[projects.a]\n[projects.b]\n" + "".join(
        f"[routes.{slug}]\nproject = '{project}'\nstrategy = 'single'\nmodel = 'ollama/m'\n"
        for slug, project in [("x", "a"), ("y", "b"), ("default", "b"), ("z", "a")]
    )

    snapshot = compiled(loaded(tmp_path, text), db)

    assert [route["slug"] for route in snapshot["routes"] if route["is_default"]] == [
        "x",
        "default",
    ]


def test_versions_that_are_not_live_are_there_for_keys_that_may_ask(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed('production: strategy = "single"\nmodel = "gpt-4o"'))
    db.apply_config(config)
    save(db, config, "gpt-4o-mini")

    def versions() -> list[int]:
        snapshot = json.loads(compile_snapshot(config, db))
        return sorted(one["version"] for one in snapshot["routes"][0]["versions"])

    assert versions() == [2]
    made = db.create_key("default", KeyPolicy(allow_versions=True), WHO)
    assert versions() == [1, 2]
    db.revoke_key(made.id, WHO)
    assert versions() == [2]


def test_a_version_that_could_not_serve_any_more_is_left_out(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed('production: strategy = "single"\nmodel = "gpt-4o"'))
    db.apply_config(config)
    save(db, config, "claude-haiku-4-5")
    save(db, config, "gpt-4o-mini")
    db.create_key("default", KeyPolicy(allow_versions=True), WHO)
    fewer = loaded(
        tmp_path,
        routed('production: strategy = "single"\nmodel = "gpt-4o"').replace(
            "[providers.anthropic]", "[providers.groq]"
        ),
    )
    db.apply_config(fewer)

    snapshot = json.loads(compile_snapshot(fewer, db))

    assert [one["version"] for one in snapshot["routes"][0]["versions"]] == [3, 1]


def test_what_cannot_serve_makes_no_snapshot(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))

    with pytest.raises(
        ConfigError, match=r"@production \(v1\)\.attempts\[0\]\.model: no provider"
    ):
        compile_snapshot(loaded(tmp_path, "[providers.openai]\n", env={}), db)


def test_keys_of_a_project_that_is_gone_open_nothing(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, PROVIDERS)
    db.apply_config(config)
    made = db.create_key("gone", KeyPolicy(), WHO)

    assert made.id not in compile_snapshot(config, db).decode()
