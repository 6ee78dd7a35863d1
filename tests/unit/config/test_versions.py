"""Versions, rollbacks and keys: what a load changes, what sticks, and that all is whole."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelux.config.compile import compile_snapshot
from modelux.config.database import Who
from modelux.config.file import config_from_declaration
from modelux.config.keys import has_checksum, hash_key
from modelux.config.model import Config, KeyPolicy, RoutingConfig
from modelux.config.read import Faults, Reading
from modelux.config.routing import read_routing
from modelux.config.versions import Change, ControlDb, RouteRow
from modelux.domain import Secret
from modelux.errors import ConfigError, RefusedError
from tests.unit.config.worlds import ENV, KEY_A, KEY_B, PROVIDERS, WHOLE, known, loaded, routed

WHO = Who(actor="cli:somebody", source="a test")
MINI = 'production: strategy = "single"\nmodel = "gpt-4o-mini"'
FULL = 'production: strategy = "single"\nmodel = "gpt-4o"'
STRICT = 'provision = "strict"'


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ControlDb]:
    db = ControlDb(tmp_path / "data")
    yield db
    db.close()


def single(model: str) -> RoutingConfig:
    reading = Reading(faults=Faults("test"), folder=Path("/"), env={}, with_secrets=False)
    found = read_routing({"strategy": "single", "model": model}, "", reading)
    assert found is not None
    return found


def actions(changes: list[Change]) -> list[str]:
    return [f"{change.action} {change.resource}" for change in changes]


def production(db: ControlDb) -> RouteRow:
    row = db.route("default", "production")
    assert row is not None
    return row


def live(db: ControlDb) -> int | None:
    row = production(db)
    return None if row.live is None else row.live.version


def save(db: ControlDb, config: Config, model: str, slug: str = "production") -> int:
    return db.save_route(config, "default", slug, single(model), WHO).version


# --- loads ---------------------------------------------------------------------------------


def test_the_first_load_adds_everything(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, WHOLE)

    planned = db.plan_config(config)

    assert db.routes() == []
    assert list(db.audit()) == []
    assert db.apply_config(config) == planned
    key_id = f"key_{hash_key(db.pepper, Secret(KEY_A))[:8]}"
    assert actions(planned) == [
        "server.added server",
        "provider.added provider openai",
        "provider.added provider anthropic",
        "provider.added provider google",
        "provider.added provider vllm",
        "project.added project default",
        "price.added price vllm/llama-3.3-70b",
        f"key.added key {key_id}",
        "key.added key ci",
        "route.added route @production",
        "route.added route @cheap",
    ]
    assert [f"{row.action} {row.resource}" for row in db.audit()] == actions(planned)
    assert {row.actor for row in db.audit()} == {"file"}
    assert db.verify() is None


def test_loading_the_same_again_changes_nothing(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))
    count = len(list(db.audit()))

    assert db.apply_config(loaded(tmp_path, f"# only a comment\n{WHOLE}")) == []
    assert len(list(db.audit())) == count


def test_a_change_names_what_changed_from_and_to(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))
    text = WHOLE.replace('listen = "127.0.0.1:8080"', 'listen = "127.0.0.1:9090"')

    [change] = db.apply_config(loaded(tmp_path, text))

    assert change.action == "server.changed"
    assert change.detail == {"listen": {"from": "127.0.0.1:8080", "to": "127.0.0.1:9090"}}


def test_what_the_file_says_no_more_is_removed(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))

    changes = db.apply_config(loaded(tmp_path, "[providers.ollama]\n"))

    assert "provider.removed provider openai" in actions(changes)
    assert "price.removed price vllm/llama-3.3-70b" in actions(changes)
    assert "key.removed key ci" in actions(changes)
    assert "route.retired route @production" in actions(changes)
    assert all(row.revoked_at is not None for row in db.key_rows())


def test_an_invalid_load_changes_nothing(tmp_path: Path, db: ControlDb) -> None:
    """Goal: the fault is one that only the store can find: another's route names a provider."""
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "claude-haiku-4-5", slug="theirs")
    before = [*db.routes(), *db.audit()]
    version = db.data_version()

    with pytest.raises(ConfigError) as failure:
        db.apply_config(
            loaded(
                tmp_path,
                "[providers.openai]\n\n"
                + MINI.replace("production: ", "[routes.production]\n"),
                env={},
            )
        )

    assert failure.value.faults == [
        '@theirs (v1).model: no provider serves "claude-haiku-4-5": add [providers.anthropic]'
    ]
    assert [*db.routes(), *db.audit()] == before
    assert db.data_version() == version
    compile_snapshot(config, db)


def test_a_fault_that_only_the_store_can_find_still_has_its_line(
    tmp_path: Path, db: ControlDb
) -> None:
    text = routed('production: strategy = "single"\nmodel = "@nobody"')
    line = text.splitlines().index('model = "@nobody"') + 1

    with pytest.raises(ConfigError) as failure:
        db.apply_config(loaded(tmp_path, text))

    assert failure.value.faults == [
        f"{tmp_path}/modelux.toml:{line}: routes.production.model: unknown routing config "
        '"@nobody", known: @production'
    ]


def test_the_applied_declaration_can_be_read_again(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, WHOLE)
    db.apply_config(config)
    declaration = db.declaration()
    assert declaration is not None

    again = config_from_declaration(declaration, {}, catalogue=known)

    assert again.providers == config.providers
    assert compile_snapshot(again, db) == compile_snapshot(config, db)


# --- versions ------------------------------------------------------------------------------


def test_only_a_changed_text_makes_a_version(tmp_path: Path, db: ControlDb) -> None:
    for text, version in [(MINI, 1), (MINI, 1), (FULL, 2), (FULL, 2), (MINI, 3)]:
        db.apply_config(loaded(tmp_path, routed(text)))
        assert live(db) == version

    assert [row.actor for row in db.versions(production(db))] == ["file"] * 3


def test_another_order_of_keys_makes_no_version(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, routed(MINI)))
    text = 'production: model = "gpt-4o-mini"\n\n# turned round\nstrategy = "single"'

    assert db.apply_config(loaded(tmp_path, routed(text))) == []


def test_a_rollback_sticks_until_the_file_changes(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(FULL))
    db.apply_config(loaded(tmp_path, routed(MINI)))
    db.apply_config(config)
    db.rollback(config, "default", "production", None, WHO)

    assert live(db) == 1
    assert production(db).differs_from_file
    assert db.apply_config(loaded(tmp_path, routed(FULL))) == []
    assert live(db) == 1
    third = 'production: strategy = "single"\nmodel = "claude-haiku-4-5"'
    assert actions(db.apply_config(loaded(tmp_path, routed(third)))) == [
        "route.changed route @production"
    ]
    assert live(db) == 3
    assert not production(db).differs_from_file


def test_a_saved_version_sticks_until_the_file_changes(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)

    assert save(db, config, "gpt-4o") == 2
    assert db.apply_config(loaded(tmp_path, routed(MINI))) == []
    assert live(db) == 2


def test_strict_restores_the_file_at_each_load(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI, server=STRICT))
    db.apply_config(config)
    save(db, config, "gpt-4o")
    save(db, config, "gpt-4o", slug="theirs")

    changes = db.apply_config(config)

    assert actions(changes) == [
        "route.changed route @production",
        "route.retired route @theirs",
    ]
    assert changes[0].detail["to"] == 1
    assert live(db) == 1
    assert db.apply_config(config) == []


def test_a_route_that_leaves_the_file_is_retired_and_comes_back_as_it_was(
    tmp_path: Path, db: ControlDb
) -> None:
    db.apply_config(loaded(tmp_path, routed(MINI)))
    db.apply_config(loaded(tmp_path, PROVIDERS))
    assert live(db) is None

    db.apply_config(loaded(tmp_path, routed(MINI)))

    assert live(db) == 1
    assert production(db).latest == 1


def test_a_route_that_somebody_took_over_stays_when_it_leaves_the_file(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "gpt-4o")

    assert db.apply_config(loaded(tmp_path, PROVIDERS)) == []
    assert live(db) == 2
    assert not production(db).differs_from_file


def test_a_file_that_comes_to_say_what_is_live_makes_no_version(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "gpt-4o")

    assert db.apply_config(loaded(tmp_path, routed(FULL))) == []
    assert live(db) == 2
    assert not production(db).differs_from_file


def test_saving_what_is_live_makes_no_version(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    count = len(list(db.audit()))

    saved = db.save_route(config, "default", "production", single("gpt-4o-mini"), WHO)

    assert (saved.version, saved.is_made, saved.is_live) == (1, False, True)
    assert len(list(db.audit())) == count


def test_a_draft_is_kept_and_not_served_until_it_is_promoted(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)

    saved = db.save_route(config, "default", "production", single("gpt-4o"), WHO, draft=True)

    assert (saved.version, saved.is_live, live(db)) == (2, False, 1)
    db.promote(config, "default", "production", 2, WHO)
    assert live(db) == 2


def test_promote_and_rollback_are_idempotent(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "gpt-4o")
    count = len(list(db.audit()))

    db.promote(config, "default", "production", 2, WHO)
    db.rollback(config, "default", "production", 2, WHO)

    assert len(list(db.audit())) == count


def test_rollbacks_walk_back_step_by_step(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    for model in ("gpt-4o", "claude-haiku-4-5", "claude-sonnet-4-5"):
        save(db, config, model)
    seen = [live(db)]
    for _ in range(3):
        db.rollback(config, "default", "production", None, WHO)
        seen.append(live(db))

    assert seen == [4, 3, 2, 1]
    with pytest.raises(RefusedError, match="no earlier version"):
        db.rollback(config, "default", "production", None, WHO)


def test_a_rollback_undoes_a_promote(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    for model in ("gpt-4o", "claude-haiku-4-5"):
        save(db, config, model)
    db.promote(config, "default", "production", 1, WHO)

    db.rollback(config, "default", "production", None, WHO)

    assert live(db) == 3


def test_what_does_not_exist_is_refused_by_name(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)

    with pytest.raises(RefusedError, match="@production has no version 7; it has 1 to 1"):
        db.promote(config, "default", "production", 7, WHO)
    with pytest.raises(
        RefusedError,
        match='unknown routing config @prodction in project "default", nearest "production"',
    ):
        db.promote(config, "default", "prodction", 1, WHO)


def test_a_version_that_could_not_serve_any_more_is_not_made_live(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "claude-haiku-4-5")
    save(db, config, "gpt-4o")
    fewer = loaded(tmp_path, routed(MINI).replace("[providers.anthropic]", "[providers.groq]"))
    db.apply_config(fewer)

    with pytest.raises(ConfigError, match=r"@production \(v2\).model: no provider serves"):
        db.rollback(fewer, "default", "production", 2, WHO)
    assert live(db) == 3


def test_a_saved_cycle_is_refused_and_nothing_is_saved(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, routed(MINI))
    db.apply_config(config)
    save(db, config, "@production", slug="alias")

    with pytest.raises(
        ConfigError, match="makes a cycle: @production -> @alias -> @production"
    ):
        save(db, config, "@alias")
    assert production(db).latest == 1


# --- keys ----------------------------------------------------------------------------------


def test_a_made_key_is_kept_as_a_hash_only(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))

    made = db.create_key("default", KeyPolicy(name="ci", rpm=600), WHO)

    assert has_checksum(made.secret.reveal())
    row = next(row for row in db.key_rows() if row.id == made.id)
    assert row.hash == hash_key(db.pepper, made.secret)
    assert row.policy == KeyPolicy(name="ci", rpm=600)
    for path in (tmp_path / "data").iterdir():
        assert made.secret.reveal().encode() not in path.read_bytes()
        assert KEY_A.encode() not in path.read_bytes()


def test_a_revoked_key_leaves_the_snapshot(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, WHOLE)
    db.apply_config(config)
    made = db.create_key("default", KeyPolicy(), WHO)
    assert made.id in compile_snapshot(config, db).decode()

    assert db.revoke_key(made.id, WHO)
    assert not db.revoke_key(made.id, WHO)
    assert made.id not in compile_snapshot(config, db).decode()


def test_a_key_of_the_file_is_revoked_in_the_file(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))

    with pytest.raises(RefusedError, match='key "ci" is declared in the configuration file'):
        db.revoke_key("ci", WHO)
    with pytest.raises(RefusedError, match='unknown key "cj"'):
        db.revoke_key("cj", WHO)


def test_a_key_of_the_file_follows_its_value(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))
    env = {**ENV, "CI_KEY": "mlx_sk_" + "c" * 24}

    [change] = db.apply_config(loaded(tmp_path, WHOLE, env=env))

    assert (change.action, change.resource) == ("key.changed", "key ci")
    assert change.detail["value"] is True
    assert "ccc" not in json.dumps(change.detail)


def test_two_keys_of_the_file_may_swap_their_values(tmp_path: Path, db: ControlDb) -> None:
    text = (
        '[providers.ollama]\n[projects.p]\nkeys = [{ id = "a", key = "env:MODELUX_KEY" }, '
        '{ id = "b", key = "env:CI_KEY" }]\n'
    )
    db.apply_config(loaded(tmp_path, text))

    changes = db.apply_config(
        loaded(tmp_path, text, env={"MODELUX_KEY": KEY_B, "CI_KEY": KEY_A})
    )

    assert actions(changes) == ["key.changed key a", "key.changed key b"]


def test_a_key_that_left_the_file_comes_back_under_its_id(
    tmp_path: Path, db: ControlDb
) -> None:
    without = WHOLE.replace(
        '{ id = "ci", key = "env:CI_KEY", rpm = 120, require = ["tag:team"] }', ""
    )
    db.apply_config(loaded(tmp_path, WHOLE))
    assert actions(db.apply_config(loaded(tmp_path, without))) == ["key.removed key ci"]

    assert actions(db.apply_config(loaded(tmp_path, WHOLE))) == ["key.added key ci"]


def test_the_file_cannot_take_the_id_of_a_made_key(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, PROVIDERS))
    made = db.create_key("default", KeyPolicy(), WHO)
    text = WHOLE.replace('id = "ci"', f'id = "{made.id}"')

    with pytest.raises(ConfigError, match="belongs to a key that was made with"):
        db.apply_config(loaded(tmp_path, text))


def test_without_secrets_the_keys_of_the_file_stay_as_they_are(
    tmp_path: Path, db: ControlDb
) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))

    assert db.plan_config(loaded(tmp_path, WHOLE, env={}, with_secrets=False)) == []


def test_the_default_key_is_made_at_the_first_start_only(tmp_path: Path, db: ControlDb) -> None:
    config = loaded(tmp_path, PROVIDERS)

    made = db.ensure_default_key(config, WHO)

    assert made is not None
    assert db.ensure_default_key(config, WHO) is None
    db.revoke_key(made.id, WHO)
    assert db.ensure_default_key(config, WHO) is None


def test_no_default_key_is_made_where_projects_are_declared(
    tmp_path: Path, db: ControlDb
) -> None:
    assert db.ensure_default_key(loaded(tmp_path, WHOLE), WHO) is None


def test_a_policy_reads_back_as_it_was_kept(tmp_path: Path, db: ControlDb) -> None:
    text = (
        '[providers.ollama]\n[projects.p]\nkeys = [{ key = "env:CI_KEY", name = "n", rpm = 5, '
        'expires_at = 2027-01-31T12:00:00.5Z, allowed_routes = ["@a", "b"], '
        'allowed_models = ["x/y"], tags = { team = "ml", a = "b" }, end_user = "u", '
        'require = ["end_user", "tag:t"], allow_versions = true }]\n'
    )
    config = loaded(tmp_path, text)
    db.apply_config(config)

    [row] = db.key_rows()

    assert row.policy == config.projects[0].keys[0].policy
    assert row.policy.expires_at == 1_801_396_800_500_000
    assert row.policy.allowed_routes == ("a", "b")


# --- processes -----------------------------------------------------------------------------

APPLIER = """
import sys
from pathlib import Path
from modelux.config.file import load_config
from modelux.config.versions import ControlDb
folder = Path(sys.argv[1])
configs = [load_config(folder / name, {}) for name in ("a.toml", "b.toml")]
db = ControlDb(folder / "data")
print("ready", flush=True)
while True:
    for config in configs:
        db.apply_config(config)
"""


def files(folder: Path) -> None:
    for name, model in (("a.toml", "x"), ("b.toml", "y")):
        routes = "".join(
            f"[routes.r{index}]\nstrategy = 'single'\nmodel = 'ollama/{model}'\n"
            for index in range(12)
        )
        headers = f'headers = {{ "x-a" = "{model}" }}'
        (folder / name).write_text(f"[providers.ollama]\n{headers}\n{routes}")


def test_a_kill_during_a_load_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    """Method: one process loads two files in turn and is killed at any moment, ten times."""
    files(tmp_path)
    for pause_ms in range(10):
        applier = subprocess.Popen(
            [sys.executable, "-c", APPLIER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert applier.stdout is not None
        assert applier.stdout.readline() == b"ready\n"
        watched = ControlDb(tmp_path / "data")
        for _ in range(pause_ms * 3):
            watched.routes()
        applier.send_signal(signal.SIGKILL)
        assert applier.wait() == -signal.SIGKILL
        applier.stdout.close()

        hashes = {row.live.hash for row in watched.routes() if row.live is not None}

        assert len(hashes) <= 1
        assert len(watched.routes()) in {0, 12}
        assert len({row.latest for row in watched.routes()}) <= 1
        assert watched.verify() is None
        watched.close()


SAVER = """
import sys
from pathlib import Path
from modelux.config.database import Who
from modelux.config.file import load_config
from modelux.config.read import Faults, Reading
from modelux.config.routing import read_routing
from modelux.config.versions import ControlDb
folder, me = Path(sys.argv[1]), sys.argv[2]
config = load_config(folder / "a.toml", {})
db = ControlDb(folder / "data")
for index in range(10):
    reading = Reading(faults=Faults("t"), folder=folder, env={}, with_secrets=False)
    target = f"ollama/{me}-{index}"
    routing = read_routing({"strategy": "single", "model": target}, "", reading)
    db.save_route(config, "default", "r0", routing, Who(actor=me, source="s"))
"""


def test_savers_of_several_processes_get_a_version_each(tmp_path: Path) -> None:
    files(tmp_path)
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path), f"saver-{index}"])
        for index in range(3)
    ]
    assert [saver.wait(timeout=120) for saver in savers] == [0, 0, 0]

    db = ControlDb(tmp_path / "data")
    row = db.route("default", "r0")
    assert row is not None
    versions = db.versions(row)

    assert [version.version for version in versions] == list(range(1, 31))
    assert len({version.content for version in versions}) == 30
    assert row.live is not None
    assert row.live.version == 30
    assert db.verify() is None
    db.close()


def test_a_change_of_another_process_shows_in_the_data_version(
    tmp_path: Path, db: ControlDb
) -> None:
    before = db.data_version()
    child = (
        "import sys; from pathlib import Path; from modelux.config.versions import ControlDb; "
        "from modelux.config.database import Who; from modelux.config.model import KeyPolicy; "
        "ControlDb(Path(sys.argv[1])).create_key('default', KeyPolicy(), "
        "Who(actor='a', source='b'))"
    )
    subprocess.run([sys.executable, "-c", child, str(tmp_path / "data")], check=True)

    assert db.data_version() != before
