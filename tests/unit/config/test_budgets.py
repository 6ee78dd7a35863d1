"""Budgets: what the file may say of them, how each mistake is told, and what names one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.config.budgets import budget_data, budget_id, remarks
from modelux.config.compile import compile_snapshot
from modelux.config.file import config_from_declaration, load_config
from modelux.config.model import Budget, Config, Scope, Target
from modelux.config.versions import ControlDb
from modelux.errors import ConfigError
from modelux.units import MONEY_NUSD_MAX, usd_text
from tests.unit.config.worlds import ENV, WHO, WHOLE, actions, known, save

PRICED = {("openai", "gpt-4o-mini"), ("openai", "gpt-4o"), ("anthropic", "claude-haiku-4-5")}
SCOPE = '{ type = "tag", key = "team", value = "ml" }'
TEAM = f"""
[[budgets]]
name = "team-ml"
scope = {SCOPE}
cap_usd = 100
period = "monthly"
action = "downgrade"
downgrade_to = "@cheap"
"""
NAMED = '[[budgets]]\nname = "x"\n'
ALL = f'{NAMED}scope = {{ type = "organization" }}\n'
KEYS = {"ci": "default", "theirs": "other", "gone": None}
CAPPED = f"{ALL}cap_usd = 1\n"


def loaded(folder: Path, text: str) -> Config:
    path = folder / "modelux.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(
        path, ENV, catalogue=known, priced=lambda vendor, model: (vendor, model) in PRICED
    )


def faults_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        loaded(folder, text)
    return [fault.removeprefix(f"{folder}/") for fault in failure.value.faults]


def the_only(config: Config) -> Budget:
    [budget] = config.budgets
    return budget


def snapshot_of(config: Config, db: ControlDb) -> Mapping[str, list[dict[str, object]]]:
    db.apply_config(config)
    found: object = json.loads(compile_snapshot(config, db))
    return cast("Mapping[str, list[dict[str, object]]]", found)


def test_the_interfaces_example_is_a_budget_with_every_default(tmp_path: Path) -> None:
    assert the_only(loaded(tmp_path, WHOLE + TEAM)) == Budget(
        name="team-ml",
        scope=(Scope(type="tag", key="team", value="ml"),),
        cap_usd=100_000_000_000,
        period="monthly",
        action="downgrade",
        downgrade_to=Target(model="@cheap"),
        timezone="UTC",
        soft_pct=80,
        unset="count",
        max_subjects=16_384,
        backfill=True,
        enabled=True,
        shadow=False,
        project=None,
    )


@pytest.mark.parametrize(
    ("written", "scopes"),
    [
        ('{ type = "organization" }', [{"type": "organization"}]),
        ('{ type = "project", id = "default" }', [{"type": "project", "id": "default"}]),
        ('{ type = "end_user", id = "*" }', [{"type": "end_user", "id": "*"}]),
        ('{ type = "key", id = "ci" }', [{"type": "key", "id": "ci"}]),
        ('{ type = "route", slug = "@cheap" }', [{"type": "route", "slug": "cheap"}]),
        (
            '[{ type = "tag", key = "team", value = "*" }, { type = "route", slug = "cheap" }]',
            [
                {"type": "tag", "key": "team", "value": "*"},
                {"type": "route", "slug": "cheap"},
            ],
        ),
    ],
)
def test_every_scope_reaches_the_snapshot(
    tmp_path: Path, db: ControlDb, written: str, scopes: list[dict[str, str]]
) -> None:
    text = f"{WHOLE}{NAMED}cap_usd = 0.000000001\nscope = {written}\n"

    [budget] = snapshot_of(loaded(tmp_path, text), db)["budgets"]

    assert budget["scopes"] == scopes
    assert budget["cap_nusd"] == 1


def test_the_snapshot_has_all_that_a_worker_needs_of_a_budget(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, WHOLE + TEAM)

    snapshot = snapshot_of(config, db)

    [budget] = snapshot["budgets"]
    downgrade = cast("list[dict[str, object]]", budget.pop("downgrade"))
    assert budget == {
        "id": budget_id(the_only(config)),
        "name": "team-ml",
        "scopes": [{"type": "tag", "key": "team", "value": "ml"}],
        "project": None,
        "cap_nusd": 100_000_000_000,
        "period": "monthly",
        "timezone": "UTC",
        "action": "downgrade",
        "soft_pct": 80,
        "unset": "count",
        "max_subjects": 16_384,
        "enabled": True,
        "shadow": False,
    }
    [cheap] = downgrade
    assert cheap == {
        **cast("dict[str, object]", _live(snapshot["routes"], "cheap")),
        "slug": "cheap",
    }


def _live(routes: list[dict[str, object]], slug: str) -> object:
    [route] = [route for route in routes if route["slug"] == slug]
    versions = cast("list[dict[str, object]]", route["versions"])
    return versions[0]["config"]


def test_a_bare_model_to_downgrade_to_is_a_config_without_a_name(
    tmp_path: Path, db: ControlDb
) -> None:
    text = (
        WHOLE
        + CAPPED
        + (
            'action = "downgrade"\n'
            'downgrade_to = { model = "gpt-4o-mini", max_output_tokens = 500 }\n'
        )
    )

    [budget] = snapshot_of(loaded(tmp_path, text), db)["budgets"]

    [node] = cast("list[dict[str, object]]", budget["downgrade"])
    assert (node["kind"], node["strategy"], node["slug"]) == ("config", "single", None)
    [leaf] = cast("list[dict[str, object]]", node["children"])
    assert (leaf["model"], leaf["max_output_tokens"]) == ("gpt-4o-mini", 500)


def test_any_routing_config_may_be_where_requests_go_at_the_cap(
    tmp_path: Path, db: ControlDb
) -> None:
    text = WHOLE + CAPPED + (
        'action = "downgrade"\n'
        "downgrade_to = { strategy = 'ab_test', variants = [\n"
        "  { name = 'a', weight = 1, target = 'gpt-4o-mini' },\n"
        "  { name = 'b', weight = 1, target = '@cheap' }] }\n"
    )  # fmt: skip

    [budget] = snapshot_of(loaded(tmp_path, text), db)["budgets"]

    [node] = cast("list[dict[str, object]]", budget["downgrade"])
    assert (node["strategy"], node["slug"], node["path"]) == ("ab_test", None, "")
    children = cast("list[dict[str, object]]", node["children"])
    assert [child["path"] for child in children] == [
        "variants[0].target",
        "variants[1].target",
    ]


@pytest.mark.parametrize(
    "target",
    [
        "strategy = 'ensemble', members = ['gpt-4o'], aggregation = 'llm_judge', "
        "judge = 'gpt-4o-mini'",
        "strategy = 'cascade', steps = [{ target = 'gpt-4o', accept_if = { judge = "
        "'gpt-4o-mini', min_score = 0.5 } }, { target = 'gpt-4o' }]",
    ],
)
def test_a_judge_where_requests_go_at_the_cap_needs_a_price(
    tmp_path: Path, target: str
) -> None:
    path = tmp_path / "modelux.toml"
    path.write_text(f"{WHOLE}{CAPPED}action = 'downgrade'\ndowngrade_to = {{ {target} }}\n")

    with pytest.raises(ConfigError) as failure:
        load_config(path, ENV, catalogue=known, priced=lambda _, model: model == "gpt-4o")

    assert any('leads to "openai/gpt-4o-mini", which has no' in f for f in failure.value.faults)


def test_each_project_that_can_match_gets_its_own_place_to_go_to(
    tmp_path: Path, db: ControlDb
) -> None:
    text = (
        WHOLE.replace("[routes.production]", "[projects.other]\n[routes.production]")
        + TEAM
        + 'project = "default"\n'
    )

    [budget] = snapshot_of(loaded(tmp_path, text), db)["budgets"]

    nodes = cast("list[object]", budget["downgrade"])
    assert [node is None for node in nodes] == [False, True]
    assert budget["project"] == 0


def test_where_a_project_lacks_the_place_to_go_to_the_budget_blocks_and_check_says_so(
    tmp_path: Path, db: ControlDb
) -> None:
    text = WHOLE.replace("[routes.production]", "[projects.other]\n[routes.production]") + TEAM
    config = loaded(tmp_path, text)

    [budget] = snapshot_of(config, db)["budgets"]

    nodes = cast("list[object]", budget["downgrade"])
    assert [node is None for node in nodes] == [False, True]
    slugs = {"default": ["production", "cheap"], "other": []}
    assert list(remarks(config, {}, slugs)) == [
        'budget "team-ml" blocks in project "other", which has no routing config "@cheap" to '
        "send its requests to"
    ]


def test_a_place_to_go_to_that_no_project_has_is_a_fault(tmp_path: Path, db: ControlDb) -> None:
    text = (
        WHOLE.replace("[routes.production]", "[projects.other]\n[routes.production]")
        + TEAM
        + 'project = "other"\n'
    )

    with pytest.raises(ConfigError) as failure:
        db.apply_config(loaded(tmp_path, text))

    [fault] = failure.value.faults
    assert fault.endswith(
        'budgets[0].downgrade_to: project "other" has no routing config "@cheap"; make it '
        "there, name a model, or give the budget one `project`"
    )


def test_every_fault_of_a_budget_is_told_at_once(tmp_path: Path) -> None:
    """Goal: the whole text, as an operator sees it. A change here is a change of interface."""
    text = f"""{WHOLE}
[[budgets]]
name = "x"
scope = {{ type = "tga", key = "team", value = "ml" }}
cap_usd = 0
period = "montly"
timezone = "Europe/Berlim"
action = "blok"
soft_pct = 0
unset = "counts"
max_subjects = 0
enabld = true
[[budgets]]
name = "x"
scope = [{{ type = "tag", key = "team" }}, {{ type = "project", id = "defualt" }}, 3]
project = "defualt"
cap_usd = "100"
downgrade_to = "gpt-4o-mni"
"""
    first = text[: text.index("[[budgets]]")].count("\n") + 1
    lines = [fault.removeprefix("modelux.toml:") for fault in faults_of(tmp_path, text)]
    told = [
        f"{int(line) - first}:{rest}" for line, _, rest in (f.partition(":") for f in lines)
    ]

    assert told == [
        '2: budgets[0].scope.type: "tga" is no scope: write one of "organization", "project", '
        '"end_user", "tag", "key", "route", nearest "tag"',
        "3: budgets[0].cap_usd: 0 must be above 0",
        '4: budgets[0].period: "montly" is none of "daily", "weekly", "monthly", "total", '
        'nearest "monthly"',
        '5: budgets[0].timezone: there is no time zone "Europe/Berlim", nearest '
        '"Europe/Berlin"',
        '6: budgets[0].action: "blok" is none of "block", "downgrade", "warn_only", nearest '
        '"block"',
        "7: budgets[0].soft_pct: 0 is out of range: from 1 to 100 % of the cap",
        '8: budgets[0].unset: "counts" is none of "count", "skip", nearest "count"',
        "9: budgets[0].max_subjects: 0 is out of range: from 1 to 1000000",
        '10: budgets[0].enabld: unknown key, nearest "enabled"',
        '12: budgets[1].name: "x" is the name of budgets[0] too',
        '13: budgets[1].scope[0].value: is missing: a scope of type "tag" needs `value`',
        '13: budgets[1].scope[1].id: unknown project "defualt", nearest "default"',
        "13: budgets[1].scope[2]: must be a table, not 3",
        '14: budgets[1].project: unknown project "defualt", nearest "default"',
        '15: budgets[1].cap_usd: must be a number of USD, not "100"',
        '16: budgets[1].downgrade_to: has no meaning with action "block": write "downgrade"',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"budgets = 3\n{WHOLE}", "budgets: must be a list, not 3"),
        (f"budgets = [3]\n{WHOLE}", "budgets[0]: must be a table, not 3"),
        (f"{WHOLE}{ALL}cap_usd = -1", "cap_usd: -1 is below 0"),
        (f"{WHOLE}{ALL}cap_usd = -0.0", "cap_usd: -0.0 must be above 0"),
        (f"{WHOLE}{ALL}cap_usd = true", "cap_usd: must be a number of USD, not true"),
        (f"{WHOLE}{ALL}cap_usd = 0.0000000001", "1E-10: more than nine decimals; at most "),
        (
            f"{WHOLE}{ALL}cap_usd = 1.00000000000000000001",
            "cap_usd: 1.00000000000000000001: more than nine decimals",
        ),
        (
            f"{WHOLE}{ALL}cap_usd = 9007199.254740993",
            "beyond 2**53 nano-USD; at most 9007199.254740992 USD",
        ),
        (f"{WHOLE}{ALL}cap_usd = 1e300", "beyond 2**53 nano-USD; at most 9007199.254740992"),
        (f"{WHOLE}{ALL}cap_usd = inf", "not a finite amount"),
        (f"{WHOLE}{ALL}cap_usd = nan", "not a finite amount"),
        (f"{WHOLE}{NAMED}cap_usd = 1\nscope = 3", "scope: must be a table, as "),
        (f"{WHOLE}{NAMED}cap_usd = 1\nscope = []", "scope: is empty"),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ id = "x" }}',
            'scope.type: is missing: write one of "organization"',
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ type = "organization", id = "x" }}',
            "scope.id: unknown key",
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ type = "key", id = "*" }}',
            'scope.id: "*" is not possible here: only the id of "end_user" and the value of '
            '"tag" may be; name one key',
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ type = "tag", key = "*", value = "*" }}',
            'scope.key: "*" is not possible here',
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ type = "end_user", id = "" }}',
            "scope.id: is empty",
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = {{ type = "end_user", id = 7 }}',
            "scope.id: must be a string, not 7",
        ),
        (
            f"{WHOLE}{NAMED}cap_usd = 1\n"
            f'scope = {{ type = "tag", key = "k", value = "{"v" * 257}" }}',
            "scope.value: is longer than 256 bytes: no request has it",
        ),
        (
            f'{WHOLE}{NAMED}cap_usd = 1\nscope = [{{ type = "organization" }}, '
            '{ type = "organization" }]',
            "scope[1]: stands here twice",
        ),
        (
            f"{WHOLE}{NAMED}cap_usd = 1\nscope = ["
            + ", ".join(f'{{ type = "end_user", id = "{n}" }}' for n in range(9))
            + "]",
            "scope: has 9 entries; at most 8",
        ),
        (
            f'{WHOLE}{CAPPED}action = "downgrade"',
            'downgrade_to: is missing: action "downgrade" needs a target',
        ),
        (
            f'{WHOLE}{CAPPED}action = "downgrade"\ndowngrade_to = "gpt-4o-mni"',
            'downgrade_to: unknown model "gpt-4o-mni", nearest "gpt-4o-mini"',
        ),
        (
            f'{WHOLE}{CAPPED}action = "downgrade"\ndowngrade_to = 3',
            "downgrade_to: must be a model or a table, not 3",
        ),
        (
            f'{WHOLE}{CAPPED}action = "downgrade"\ndowngrade_to = "gemini-2.5-flash"',
            'downgrade_to: leads to "google/gemini-2.5-flash", which has no price; add '
            '[prices."google/gemini-2.5-flash"]',
        ),
        (
            f'{WHOLE}{CAPPED}action = "downgrade"\ndowngrade_to = "@production"',
            'leads to "google/gemini-2.5-flash", which has no price',
        ),
        (
            WHOLE + CAPPED.replace('"x"', '"ä"'),
            'name: "ä" is not a name: printable ASCII',
        ),
        (WHOLE + CAPPED.replace('"x"', '""'), "name: is empty"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, fault: str) -> None:
    assert any(fault in line for line in faults_of(tmp_path, text)), faults_of(tmp_path, text)


def test_a_free_provider_has_a_price(tmp_path: Path) -> None:
    text = f'[providers.ollama]\n{CAPPED}action = "downgrade"\ndowngrade_to = "ollama/x"\n'

    assert the_only(loaded(tmp_path, text)).downgrade_to == Target(model="ollama/x")


@pytest.mark.parametrize(
    ("scope", "fault"),
    [
        (
            '{ type = "key", id = "cii" }',
            'budgets[0].scope.id: unknown key "cii", nearest "ci"',
        ),
        (
            '[{ type = "organization" }, { type = "route", slug = "chep" }]',
            'budgets[0].scope[1].slug: unknown routing config "@chep", nearest "@cheap"',
        ),
    ],
)
def test_what_only_the_store_knows_is_told_when_it_is_applied(
    tmp_path: Path, db: ControlDb, scope: str, fault: str
) -> None:
    config = loaded(tmp_path, f"{WHOLE}{NAMED}cap_usd = 1\nscope = {scope}\n")

    with pytest.raises(ConfigError) as failure:
        db.apply_config(config)

    assert [line.partition(": ")[2] for line in failure.value.faults] == [fault]
    assert db.routes() == []


def test_keys_and_routes_that_were_made_elsewhere_are_known(
    tmp_path: Path, db: ControlDb
) -> None:
    plain = loaded(tmp_path, WHOLE)
    db.apply_config(plain)
    save(db, plain, "gpt-4o", slug="handmade")
    key = db.create_key("default", plain.projects[0].keys[0].policy, WHO)
    text = (
        f"{WHOLE}{NAMED}cap_usd = 1\n"
        f'scope = [{{ type = "key", id = "{key.id}" }}, '
        '{ type = "route", slug = "handmade" }]'
    )

    assert actions(db.apply_config(loaded(tmp_path, text))) == ["budget.added budget x"]


def test_an_unknown_place_to_downgrade_to_names_the_nearest(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, WHOLE + TEAM.replace("@cheap", "@chaep"))

    with pytest.raises(ConfigError) as failure:
        db.apply_config(config)

    assert failure.value.faults[0].endswith(
        'downgrade_to: unknown routing config "@chaep", nearest "@cheap"'
    )


def test_a_route_cannot_become_something_that_a_budget_cannot_go_to(
    tmp_path: Path, db: ControlDb
) -> None:
    config = loaded(tmp_path, WHOLE + TEAM)
    db.apply_config(config)

    with pytest.raises(ConfigError) as failure:
        save(db, config, "gemini-2.5-flash", slug="cheap")

    assert "which has no price" in failure.value.faults[0]


def test_each_change_of_a_budget_is_one_audit_row(tmp_path: Path, db: ControlDb) -> None:
    db.apply_config(loaded(tmp_path, WHOLE))
    db.apply_config(loaded(tmp_path, WHOLE + TEAM))
    db.apply_config(loaded(tmp_path, WHOLE + TEAM))
    db.apply_config(loaded(tmp_path, WHOLE + TEAM.replace("100", "100.5")))
    db.apply_config(loaded(tmp_path, WHOLE))

    rows = [row for row in db.audit() if row.resource == "budget team-ml"]
    assert [row.action for row in rows] == [
        "budget.added",
        "budget.changed",
        "budget.removed",
    ]
    assert json.loads(rows[1].detail) == {
        "cap_usd": {"from": "100.000000000", "to": "100.500000000"}
    }


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        (("cap_usd = 100", "cap_usd = 7"), True),
        (('action = "downgrade"\ndowngrade_to = "@cheap"', 'action = "block"'), True),
        (('"@cheap"', '"gpt-4o-mini"'), True),
        (('period = "monthly"', 'period = "monthly"\nsoft_pct = 5\nshadow = true'), True),
        (('period = "monthly"', 'enabled = false\nunset = "skip"'), True),
        ((SCOPE, f"[{SCOPE}]"), True),
        (('"team-ml"', '"team-x"'), False),
        (('"ml" }', '"*" }'), False),
        (('"monthly"', '"weekly"'), False),
        (('period = "monthly"', 'timezone = "Europe/Berlin"'), False),
        (('period = "monthly"', 'project = "default"'), False),
    ],
)
def test_spend_is_kept_through_what_is_no_part_of_the_identity(
    tmp_path: Path, change: tuple[str, str], *, is_kept: bool
) -> None:
    before = the_only(loaded(tmp_path, WHOLE + TEAM))
    after = the_only(loaded(tmp_path, WHOLE + TEAM.replace(*change)))

    assert (budget_id(after) == budget_id(before)) is is_kept
    assert len(budget_id(after)) == 32


@given(amount=st.integers(1, MONEY_NUSD_MAX))
def test_a_cap_is_read_to_its_last_digit(
    tmp_path_factory: pytest.TempPathFactory, amount: int
) -> None:
    folder = tmp_path_factory.getbasetemp()

    config = loaded(folder, f"{WHOLE}{ALL}cap_usd = {usd_text(amount)}\n")

    again = config_from_declaration(
        config.declaration, ENV, catalogue=known, priced=lambda *_: True
    )
    assert the_only(config).cap_usd == amount
    assert the_only(again).cap_usd == amount
    assert budget_data(the_only(config))["cap_usd"] == usd_text(amount)


def test_a_declaration_has_its_budgets(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE + TEAM)

    again = config_from_declaration(
        config.declaration, {}, catalogue=known, priced=lambda *_: True
    )

    assert again.budgets == config.budgets


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        ('{ type = "route", slug = "gone" }', 'in project "default" is called "@gone"'),
        (
            '[{ type = "tag", key = "team", value = "a" }, '
            '{ type = "tag", key = "team", value = "b" }]',
            'the tag "team" cannot be "a" and "b" at once',
        ),
        (
            '[{ type = "end_user", id = "a" }, { type = "end_user", id = "b" }]',
            'the end_user cannot be "a" and "b" at once',
        ),
        ('{ type = "project", id = "other" }', "name different projects"),
        ('{ type = "key", id = "gone" }', 'the key "gone" is revoked'),
        ('{ type = "key", id = "theirs" }', 'the key "theirs" is project "other"\'s'),
    ],
)
def test_a_budget_that_can_never_match_is_remarked(
    tmp_path: Path, scope: str, why: str
) -> None:
    text = (
        WHOLE.replace("[routes.production]", "[projects.other]\n[routes.production]")
        + f'{NAMED}cap_usd = 1\nproject = "default"\nscope = {scope}\n'
    )

    [remark] = remarks(loaded(tmp_path, text), KEYS, {"default": ["production", "cheap"]})

    assert remark.startswith('budget "x" can never match: ')
    assert remark.endswith(why)


def test_budgets_that_can_match_are_not_remarked(tmp_path: Path) -> None:
    text = (
        WHOLE
        + TEAM
        + f"{NAMED}cap_usd = 1\n"
        + 'scope = [{ type = "end_user", id = "*" }, { type = "end_user", id = "a" }, '
        + '{ type = "key", id = "ci" }, { type = "route", slug = "cheap" }, '
        + '{ type = "route", slug = "production" }]\n'
    )

    config = loaded(tmp_path, text)

    assert list(remarks(config, KEYS, {"default": ["production", "cheap"]})) == []
