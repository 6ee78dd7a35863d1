"""Routes: what makes a version, what sticks, and how rollbacks walk back."""

from pathlib import Path

import pytest

from modelux.config.versions import ControlDb
from modelux.errors import ConfigError, RefusedError
from tests.unit.config.worlds import (
    FULL,
    MINI,
    PROVIDERS,
    STRICT,
    WHO,
    actions,
    live,
    loaded,
    production,
    routed,
    save,
    single,
)


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
