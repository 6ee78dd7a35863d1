"""Whose money it is: what each scope matches, what `*` splits, what nobody can dodge."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.e2e.budgets import (
    CHEAP,
    TEXT,
    TOK,
    budget,
    configuration,
    question,
    row,
    rows,
    settled,
    spent,
    usd,
)
from tests.e2e.harness import (
    KEY,
    KEY_VARIABLE,
    Gateway,
    Json,
    Reply,
    Simulator,
    call,
    serve,
)

KEYS: Final = {
    name: f"mlx_sk_{name.ljust(24, '0')}"
    for name in ("ci", "fixed", "other", "split", "skip", "full", "pair", "sum1", "sum2")
}
"""Each with a project of its own, but for `ci`, `fixed` (the default one) and the `sum`s."""

PROJECTS: Final = f"""
[projects.default]
keys = ["env:{KEY_VARIABLE}", {{ id = "ci", key = "env:KEY_CI" }},
  {{ id = "fixed", key = "env:KEY_FIXED", tags = {{ team = "robots" }}, end_user = "robot" }}]

[projects.other]
keys = ["env:KEY_OTHER"]

[projects.split]
keys = ["env:KEY_SPLIT"]

[projects.skip]
keys = ["env:KEY_SKIP"]

[projects.full]
keys = ["env:KEY_FULL"]

[projects.pair]
keys = ["env:KEY_PAIR"]

[projects.sums]
keys = [{{ id = "sum1", key = "env:KEY_SUM1" }}, {{ id = "sum2", key = "env:KEY_SUM2" }}]

"""

ROUTES: Final = """
[routes.production]
strategy = "single"
model = "sim/tok"

[routes.outer]
strategy = "fallback"
attempts = ["sim/tok?status=500", "@production"]

[routes.elsewhere]
strategy = "single"
model = "sim/tok"

[routes.rescue]
strategy = "single"
model = "sim/cheap"

[prices."sim/tok?status=500"]
input_usd_per_mtok = 0
output_usd_per_mtok = 1000
"""

EVERYBODY: Final = '{ type = "organization" }'
BUDGETS: Final = (
    budget("everybody", 1_000_000, scope=EVERYBODY),
    budget("project-other", 100, scope='{ type = "project", id = "other" }'),
    budget("user-ann", 100, scope='{ type = "end_user", id = "ann" }'),
    budget("tag-ml", 100, scope='{ type = "tag", key = "team", value = "ml" }'),
    budget("tag-inside", 100, scope='{ type = "tag", key = "team", value = "inside" }'),
    budget("key-ci", 100, scope='{ type = "key", id = "ci" }'),
    budget("route-production", 100, scope='{ type = "route", slug = "production" }'),
    budget("robots", 100, scope='{ type = "tag", key = "team", value = "robots" }'),
    budget("robot", 1000, scope='{ type = "end_user", id = "robot" }'),
    budget(
        "bob-elsewhere", 100,
        scope='[{ type = "end_user", id = "bob" }, { type = "route", slug = "elsewhere" }]',
    ),
    budget("each-user", 100, scope='{ type = "end_user", id = "*" }', project="split"),
    budget(
        "each-team", 100, scope='{ type = "tag", key = "team", value = "*" }',
        project="skip", unset="skip",
    ),
    budget(
        "few-users", 100, scope='{ type = "end_user", id = "*" }', project="full",
        max_subjects=3,
    ),
    budget(
        "each-pair", 100,
        scope='[{ type = "end_user", id = "*" }, '
        '{ type = "tag", key = "team", value = "*" }]',
        project="pair",
    ),
    budget("sum-project", 10_000, scope='{ type = "project", id = "sums" }'),
    budget("sum-one", 10_000, scope='{ type = "key", id = "sum1" }'),
    budget("sum-two", 10_000, scope='{ type = "key", id = "sum2" }'),
    budget("rescued", 101, scope='{ type = "tag", key = "team", value = "rescued" }',
           project="default", action="downgrade", downgrade_to="@rescue"),
    budget("rescue", 100, scope='{ type = "route", slug = "rescue" }'),
    budget("small", 5, scope='{ type = "tag", key = "team", value = "small" }'),
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = configuration(shared_simulator, BUDGETS, routes=ROUTES, project=PROJECTS)
    env = {f"KEY_{name.upper()}": key for name, key in KEYS.items()}
    with serve(tmp_path_factory.mktemp("scopes"), config, env=env) as running:
        yield running


def _ask(
    gateway: Gateway,
    *,
    key: str = KEY,
    model: str = TOK,
    limit: int = 60,
    headers: Mapping[str, str] | None = None,
    user: str | None = None,
    body_tags: Mapping[str, str] | None = None,
) -> Reply:
    more: Json = {"user": user} if user is not None else {}
    more |= {"mlx:tags": dict(body_tags)} if body_tags is not None else {}
    body = question(model, limit=limit, simulate=f"tokens={limit}", **more)
    return call(gateway.port, body, key=key, headers=headers)


def _user(name: str) -> dict[str, str]:
    return {"X-Modelux-User-Id": name}


def _team(name: str) -> dict[str, str]:
    return {"X-Modelux-User-Tags": f"team={name}"}


# --- what a scope matches ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("project-other", {"key": KEYS["other"]}, {}),
        ("user-ann", {"headers": _user("ann")}, {"headers": _user("anna")}),
        ("tag-ml", {"headers": _team("ml")}, {"headers": {"X-Modelux-User-Tags": "tea=ml"}}),
        ("key-ci", {"key": KEYS["ci"]}, {}),
        ("route-production", {"model": "@production"}, {"model": "@elsewhere"}),
    ],
)
def test_a_scope_counts_what_it_names_and_nothing_else(
    gateway: Gateway,
    name: str,
    inside: dict[str, object],
    outside: dict[str, object],
) -> None:
    before = spent(gateway, name)
    assert _ask(gateway, **inside).status == 200  # type: ignore[arg-type]
    assert spent(gateway, name) == round(before + usd(60), 9)
    refused = _ask(gateway, **inside)  # type: ignore[arg-type]
    assert (refused.status, refused.error()["budget"]["name"]) == (402, name)
    assert _ask(gateway, **outside).status == 200  # type: ignore[arg-type]
    assert spent(gateway, name) == round(before + usd(60), 9)


def test_a_route_counts_also_where_another_route_leads_to_it(gateway: Gateway) -> None:
    before = spent(gateway, "route-production")
    reply = _ask(gateway, model="@outer", limit=20)
    assert reply.status == 200
    assert spent(gateway, "route-production") == round(before + usd(20), 9)


def test_all_of_several_scopes_must_match(gateway: Gateway) -> None:
    assert _ask(gateway, headers=_user("bob")).status == 200
    assert _ask(gateway, model="@elsewhere").status == 200
    assert settled(gateway, "bob-elsewhere")["spent_usd"] == 0
    assert _ask(gateway, model="@elsewhere", headers=_user("bob")).status == 200
    assert spent(gateway, "bob-elsewhere") == usd(60)
    assert _ask(gateway, model="@elsewhere", headers=_user("bob")).status == 402


# --- `*` -----------------------------------------------------------------------------------


def test_a_star_gives_each_value_a_cap_of_its_own(gateway: Gateway) -> None:
    key = KEYS["split"]
    for name in ("eve", "dan", "ça va"):
        assert _ask(gateway, key=key, headers=None, user=name).status == 200
    refused = _ask(gateway, key=key, user="eve")
    assert (refused.status, refused.error()["budget"]["name"]) == (402, "each-user")
    assert _ask(gateway, key=key, user="dora").status == 200
    assert {
        each["subject"]: each["spent_usd"]
        for each in rows(gateway, "each-user")
        if each["subject"]
    } == dict.fromkeys(("eve", "dan", "ça va", "dora"), usd(60))


def test_requests_without_the_value_share_one_cap(gateway: Gateway) -> None:
    key = KEYS["split"]
    assert _ask(gateway, key=key).status == 200
    assert _ask(gateway, key=key).status == 402
    assert row(gateway, "each-user", "")["spent_usd"] == usd(60)


def test_requests_without_the_value_are_let_pass_where_the_budget_skips_them(
    gateway: Gateway,
) -> None:
    key = KEYS["skip"]
    for _ in range(3):
        assert _ask(gateway, key=key).status == 200
    assert _ask(gateway, key=key, headers=_team("a")).status == 200
    assert _ask(gateway, key=key, headers=_team("a")).status == 402
    assert [each["subject"] for each in rows(gateway, "each-team")] == ["a"]


def test_invented_values_beyond_the_most_subjects_share_one_cap(gateway: Gateway) -> None:
    key = KEYS["full"]
    statuses = [_ask(gateway, key=key, user=f"u{n}").status for n in range(3)]
    assert statuses == [200, 200, 200]
    assert _ask(gateway, key=key, user="u3").status == 200
    refused = _ask(gateway, key=key, user="u4")
    assert (refused.status, refused.error()["budget"]["spend_usd"]) == (402, usd(60))
    # Those who came before it was full go on with what is theirs.
    assert _ask(gateway, key=key, user="u0", limit=40).status == 200
    found = {each["subject"]: each["spent_usd"] for each in rows(gateway, "few-users")}
    assert found == {"u0": usd(100), "u1": usd(60), "u2": usd(60), "*": usd(60)}


def test_several_stars_split_by_all_of_their_values(gateway: Gateway) -> None:
    key = KEYS["pair"]
    for name, team in (("eve", "a"), ("eve", "b"), ("dan", "a")):
        assert _ask(gateway, key=key, headers=_user(name) | _team(team)).status == 200
    assert _ask(gateway, key=key, headers=_user("eve") | _team("a")).status == 402
    assert {each["subject"] for each in rows(gateway, "each-pair")} == {
        "eve,a", "eve,b", "dan,a",
    }  # fmt: skip


# --- what nobody can dodge -----------------------------------------------------------------


def test_what_the_key_fixes_cannot_be_renamed_away(gateway: Gateway) -> None:
    key = KEYS["fixed"]
    dodging = _user("somebody") | _team("nobody")
    assert _ask(gateway, key=key, headers=dodging).status == 200
    refused = _ask(
        gateway, key=key, user="other", headers=_team("other"), body_tags={"team": "x"}
    )
    assert (refused.status, refused.error()["budget"]["name"]) == (402, "robots")
    assert spent(gateway, "robot") == spent(gateway, "robots") == usd(60)


def test_tags_in_the_body_count_as_those_in_the_header_do(gateway: Gateway) -> None:
    reply = _ask(gateway, limit=10, body_tags={"team": "inside"})
    assert reply.status == 200
    assert spent(gateway, "tag-inside") == usd(10)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello there"}]}),
        ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/v1/chat/completions/", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello there"}),
        ("/v1/embeddings", {"input": "hello there, you"}),
    ],
)
def test_no_path_and_no_form_of_answer_is_beside_the_cap(
    gateway: Gateway, simulator: Simulator, path: str, body: dict[str, object], *, stream: bool
) -> None:
    fields = {"model": TEXT} | body | ({"stream": True} if stream else {})
    reply = call(gateway.port, json.dumps(fields).encode(), path=path, headers=_team("small"))
    assert (reply.status, reply.error()["type"]) == (402, "request_exceeds_budget")
    assert simulator.requests() == []


def test_a_downgrade_counts_on_the_route_that_it_leads_to_as_well(gateway: Gateway) -> None:
    assert _ask(gateway, headers=_team("rescued"), limit=100).status == 200
    before = spent(gateway, "rescue")
    reply = _ask(gateway, headers=_team("rescued"), limit=100)
    assert reply.header("x-modelux-model-used") == CHEAP.partition("/")[2]
    assert spent(gateway, "rescue") == round(before + usd(1), 9)
    assert spent(gateway, "rescued") == usd(101)
    # Its cap is spent to the last token: not even cheap ones are left.
    assert _ask(gateway, headers=_team("rescued"), limit=100).status == 402


# --- sums ----------------------------------------------------------------------------------


def test_what_keys_spend_is_what_their_project_spends(
    gateway: Gateway, simulator: Simulator
) -> None:
    for number in range(12):
        key = KEYS["sum1" if number % 3 else "sum2"]
        assert _ask(gateway, key=key, limit=1 + number).status == 200
    one, two = spent(gateway, "sum-one"), spent(gateway, "sum-two")
    total = settled(gateway, "sum-project")["spent_usd"]
    assert round((one + two) * 1e9) == round(total * 1e9) == round(usd(78) * 1e9)
    assert simulator.totals()["total"]["billed_nusd"] == round(total * 1e9)
    assert spent(gateway, "everybody") >= total
