"""Versions, rollbacks and keys: what a load changes, what sticks, and that all is whole."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelux.config.compile import compile_snapshot
from modelux.config.file import config_from_declaration
from modelux.config.keys import hash_key
from modelux.config.versions import ControlDb
from modelux.domain import Secret
from modelux.errors import ConfigError
from tests.unit.config.worlds import (
    KEY_A,
    MINI,
    WHOLE,
    actions,
    known,
    loaded,
    routed,
    save,
)

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
