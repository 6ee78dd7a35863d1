"""Commands on configuration against a running server: each takes effect without a restart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.harness import (
    KEY,
    PROJECT,
    Gateway,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
    until,
)

pytestmark = pytest.mark.slow

ROUTE: Final = '[routes.production]\nstrategy = "single"\nmodel = "sim/gpt-4o-mini"\n'


@pytest.fixture
def gateway(tmp_path: Path, simulator: Simulator) -> Iterator[Gateway]:
    config = f"{provider_table('sim', simulator.base_url())}{PROJECT}{ROUTE}"
    with serve(tmp_path, config) as gateway:
        yield gateway


def set_route(gateway: Gateway, folder: Path, model: str, *flags: str) -> None:
    path = folder / "route.json"
    path.write_text(json.dumps({"strategy": "single", "model": model}))
    done = gateway.run("routes", "set", "production", str(path), *flags)
    assert done.returncode == 0, done.stderr


def served(gateway: Gateway, model: str = "@production", key: str = KEY) -> tuple[int, str]:
    """Return the status of a request and the config that it went through."""
    reply = call(gateway.port, chat_body(model), key=key)
    return reply.status, reply.header("x-modelux-config") or ""


def wait_served(gateway: Gateway, config: str) -> None:
    until(lambda: served(gateway) == (200, config), what=f"{config} serves")


def test_a_saved_route_and_a_rollback_are_served_without_a_restart(
    tmp_path: Path, gateway: Gateway
) -> None:
    assert served(gateway) == (200, "@production (v1)")

    set_route(gateway, tmp_path, "sim/gpt-4o")
    wait_served(gateway, "@production (v2)")

    done = gateway.run("routes", "rollback", "production")
    assert done.stdout == "@production (v1) is live, was v2\n"
    wait_served(gateway, "@production (v1)")


def test_a_key_works_once_it_is_made_and_not_once_it_is_revoked(gateway: Gateway) -> None:
    made = json.loads(gateway.run("keys", "create", "--json").stdout)
    until(lambda: served(gateway, key=made["key"])[0] == 200, what="the made key works")

    assert gateway.run("keys", "revoke", made["id"]).returncode == 0

    until(lambda: served(gateway, key=made["key"])[0] == 401, what="the revoked key is refused")
    assert served(gateway)[0] == 200


def test_a_key_that_may_ask_for_versions_gets_them(tmp_path: Path, gateway: Gateway) -> None:
    set_route(gateway, tmp_path, "sim/gpt-4o")
    made = json.loads(gateway.run("keys", "create", "--allow-versions", "--json").stdout)

    def pinned() -> bool:
        return served(gateway, "@production@1", made["key"]) == (200, "@production (v1)")

    until(pinned, what="version 1 serves the key that may ask for it")
    assert served(gateway, "@production@1")[0] == 403


def test_check_apply_makes_the_running_server_load_the_file(gateway: Gateway) -> None:
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('"sim/gpt-4o-mini"', '"sim/gpt-4o"'))

    done = gateway.run("check", "--apply")

    assert done.returncode == 0, done.stderr
    assert "  ~ route @production: v1 -> v2" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1].startswith("applied by the running server (process ")
    wait_served(gateway, "@production (v2)")
    assert "changes nothing" in gateway.run("check").stdout


def test_check_apply_needs_no_secrets_where_a_server_runs(gateway: Gateway) -> None:
    """Goal: the operator's shell has not the server's environment."""
    gateway.config.write_text(f"{gateway.config.read_text()}\n# touched\n")
    shell = Gateway(gateway.child, gateway.config, gateway.port, gateway.control_port, {})

    assert "is not set" in shell.run("check").stderr
    assert shell.run("check", "--apply").returncode == 0
    assert served(gateway)[0] == 200


def test_what_the_running_server_refuses_is_told_to_who_asked(gateway: Gateway) -> None:
    """Goal: a fault that only the server can find: its own environment lacks a variable."""
    gateway.config.write_text(
        f'{gateway.config.read_text()}\n[providers.more]\nvendor = "ollama"\n'
        'api_key = "env:ONLY_THE_OPERATOR_HAS_IT"\n'
    )
    env = {**gateway.env, "ONLY_THE_OPERATOR_HAS_IT": "x"}
    shell = Gateway(gateway.child, gateway.config, gateway.port, gateway.control_port, env)

    done = shell.run("check", "--apply")

    assert done.returncode == 78
    assert "providers.more.api_key: the environment variable" in done.stderr
    assert served(gateway) == (200, "@production (v1)")
