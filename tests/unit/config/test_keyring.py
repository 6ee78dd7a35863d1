"""Keys of the file and made ones: kept as hashes, revoked where they were declared."""

import json
from pathlib import Path

import pytest

from modelux.config.compile import compile_snapshot
from modelux.config.keys import has_checksum, hash_key
from modelux.config.model import KeyPolicy
from modelux.config.versions import ControlDb
from modelux.errors import ConfigError, RefusedError
from tests.unit.config.worlds import (
    ENV,
    KEY_A,
    KEY_B,
    PROVIDERS,
    WHO,
    WHOLE,
    actions,
    loaded,
)


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
