"""What holds for every decision, whatever is configured and whatever was seen of the targets.

Goal: the order has nobody who cannot serve, everybody is explained, and the same figures decide
alike for ever. Method: trees of configs and figures that hypothesis makes up, and the function
that live traffic is routed by.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelux import _native
from modelux.pricing.catalogue import catalogue_bytes, models_bytes

Json = dict[str, Any]

TARGETS: Final = 6
NOBODY_AT_ALL: Final = {"no_tools", "below_quality_tier", "other_dimensions"}
ASIDE: Final = {"rule_not_matched", "other_variant", "not_chosen", "too_few_members"}
HEALTH: Final = {
    "breaker_open",
    "breaker_half_open",
    "rate_limited",
    "credential_rejected",
    "stalled",
}
LAST_RESORT: Final = {"breaker_open", "breaker_half_open", "rate_limited"}


def document(config: Json) -> bytes:
    provider = {
        "name": "sim",
        "vendor": "openai_compatible",
        "scheme": "http",
        "host": "sim.test",
        "port": 80,
        "base_path": "/v1",
        "auth_header": "authorization",
        "auth_prefix": "Bearer ",
        "credentials": [{"id": "sim", "ref": "env:KEY", "weight": 1}],
        "headers": [],
        "models": None,
        "stream_usage": True,
        "free": False,
    }
    server = {"header_bytes_max": 4096, "body_bytes_max": 100_000, "max_in_flight": 4}
    project = {"name": "default", "auto_resolve_bare_model": True, "store_bodies": "full"}
    version = {"version": 1, "hash": "h", "config": config}
    route = {"slug": "prod", "project": 0, "live": 1, "is_default": True}
    # What this one can do is overridden: it takes no tools.
    model = {"provider": "sim", "model": "m-0", "tools": False}
    return json.dumps(
        {
            "format": 1,
            "config_hash": "c",
            "key_pepper": "07" * 32,
            "server": server,
            "providers": [provider],
            "projects": [project],
            "keys": [],
            "routes": [route | {"versions": [version]}],
            "prices": [],
            "models": [model],
        }
    ).encode()


def compiled(config: Json) -> _native.Snapshot:
    return _native.Snapshot(document(config), catalogue_bytes(), models_bytes())


def decide(snapshot: _native.Snapshot, facts: Json, state: Json) -> Json:
    given_facts = {"id": "r-1", "model": "@prod"} | facts
    decided = _native.route(
        snapshot, json.dumps(given_facts).encode(), json.dumps({"unix_s": 0} | state).encode()
    )
    found: Json = json.loads(decided)
    return found


def target(index: int) -> Json:
    name = f"m-{index}"
    return {"kind": "target", "provider": 0, "model": name, "label": name}


def config(strategy: str, children: Sequence[Json], **own: object) -> Json:
    placed = [child | {"path": f"children[{at}]"} for at, child in enumerate(children)]
    return {"kind": "config", "strategy": strategy, "children": placed} | own


@st.composite
def trees(draw: st.DrawFn, depth: int = 4) -> Json:
    """A config of any strategy; of its children, some are configs themselves."""
    strategy = draw(
        st.sampled_from(
            [
                "single",
                "fallback",
                "cost_optimized",
                "latency_optimized",
                "ensemble",
                "ab_test",
                "cascade",
                "custom_rules",
            ]
        )
    )
    count = 1 if strategy == "single" else draw(st.integers(1, 3))
    leaf = st.integers(0, TARGETS - 1).map(target)
    child = leaf if depth == 1 else st.one_of(leaf, leaf, trees(depth - 1))
    children = [draw(child) for _ in range(count)]
    own: Json = {}
    if strategy == "ab_test":
        own["variants"] = [
            {"name": f"v{at}", "weight": draw(st.integers(1, 10_000))} for at in range(count)
        ]
        own["salt"] = draw(st.text(max_size=4))
    elif strategy == "cascade":
        accept = {"rule": {"text": "response.json_valid", "targets": {}}}
        own["accepts"] = [accept] * (count - 1) + [None]
    elif strategy == "ensemble":
        own["aggregation"] = draw(st.sampled_from(["first_valid", "weighted_vote"]))
        own["min_responses"] = draw(st.integers(1, count))
    elif strategy == "latency_optimized":
        own |= {"tolerance_pct": draw(st.integers(0, 50)), "explore_pct": 10}
    elif strategy == "custom_rules":
        texts = st.sampled_from(["tags.a == 'x'", "request.stream", "size(tags.b) > 1", ""])
        own["rules"] = [
            {"if": {"text": text, "targets": {}} if text else None, "then": at}
            for at, text in enumerate(draw(texts) for _ in range(count))
        ]
        if draw(st.booleans()):
            own["rules"].insert(0, {"if": None, "then": None, "block": "because"})
    return config(strategy, children, **own)


def leaves(node: Json) -> list[str]:
    if node["kind"] == "target":
        return [node["label"]]
    return [label for child in node["children"] for label in leaves(child)]


def strategies(node: Json) -> set[str]:
    below = (strategies(child) for child in node.get("children", ()))
    return {node.get("strategy", "")}.union(*below)


FIGURES: Final = st.fixed_dictionaries(
    {"health": st.sampled_from(["closed", "closed", "closed", "half_open", "open"])},
    optional={
        "open_since_us": st.integers(0, 1000),
        "is_due": st.booleans(),
        "cooling_until_us": st.integers(0, 1000),
        "keys_rejected": st.booleans(),
        "is_stalled": st.booleans(),
        "ttft_ms": st.floats(1, 5000, width=32),
        "in_flight": st.integers(0, 3),
        "cost_usd": st.integers(0, 9).map(lambda cents: f"0.0{cents}"),
    },
)
FACTS: Final = st.fixed_dictionaries(
    {"id": st.uuids(version=4).map(str)},
    optional={
        "tags": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2),
        "end_user": st.sampled_from(["ann", "bob"]),
        "stream": st.booleans(),
        "has_tools": st.booleans(),
    },
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Json, Json, Json]:
    tree = draw(trees())
    count = len(leaves(tree))
    state = {"targets": [draw(FIGURES) for _ in range(count)]}
    return tree, draw(FACTS), state


@given(worlds())
@settings(max_examples=400, deadline=None)
def test_the_order_is_explained_and_has_nobody_who_cannot_serve(
    world: tuple[Json, Json, Json],
) -> None:
    tree, facts, state = world
    decided = decide(compiled(tree), facts, state)

    order, candidates = decided["order"], decided["candidates"]
    assert [one["target"] for one in candidates] == leaves(tree)
    for one, figures in zip(candidates, state["targets"], strict=True):
        assert one["eligible"] == (one["reject_reason"] is None)
        if one["eligible"]:
            assert figures["health"] == "closed" or figures.get("is_due")
            assert not (facts.get("has_tools") and one["target"] == "m-0")
            assert not figures.get("keys_rejected")
            assert "cooling_until_us" not in figures
        else:
            assert one["reject_reason"] in NOBODY_AT_ALL | ASIDE | HEALTH
    if decided["stopped"]:
        assert not order
        assert decided["stopped"]["code"] in {"blocked_by_rule", "no_rule_matched"}
    # A model may stand in the tree more than once, so places are told apart by their figures:
    # no more attempts at a model than leaves that may serve it.
    tried = Counter(one["target"] for one in order)
    for name, times in tried.items():
        reasons = [one["reject_reason"] for one in candidates if one["target"] == name]
        assert times <= sum(reason is None or reason in HEALTH for reason in reasons)
    eligible = Counter(one["target"] for one in candidates if one["eligible"])
    assert eligible <= tried
    if "ensemble" not in strategies(tree):
        # An ensemble may need a member that is not well; elsewhere the others come first.
        assert Counter(one["target"] for one in order[: eligible.total()]) == eligible
    if order and not eligible:
        # Nobody is well: who only hangs or has refused keys comes before whose breaker is open,
        # and of those one is used rather than none.
        assert HEALTH & {one["reject_reason"] for one in candidates if one["target"] in tried}


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_the_same_figures_decide_alike_to_the_byte(world: tuple[Json, Json, Json]) -> None:
    tree, facts, state = world
    words = (
        json.dumps({"model": "@prod"} | facts).encode(),
        json.dumps({"unix_s": 0} | state).encode(),
    )
    first = compiled(tree)
    decided = _native.route(first, *words)

    assert _native.route(first, *words) == decided
    # Another process, another day: nothing of the first is left.
    assert _native.route(compiled(tree), *words) == decided


@given(st.lists(FIGURES, min_size=TARGETS, max_size=TARGETS))
@settings(max_examples=200, deadline=None)
def test_a_list_is_tried_in_its_order(figures: list[Json]) -> None:
    snapshot = compiled(config("fallback", [target(at) for at in range(TARGETS)]))
    decided = decide(snapshot, {}, {"targets": figures})

    eligible = [one["target"] for one in decided["candidates"] if one["eligible"]]
    assert [one["target"] for one in decided["order"]][: len(eligible)] == eligible
    if all(one["reject_reason"] in LAST_RESORT for one in decided["candidates"]):
        assert len(decided["order"]) == 1


@given(st.lists(FIGURES, min_size=TARGETS, max_size=TARGETS))
@settings(max_examples=200, deadline=None)
def test_the_cheapest_comes_first_and_what_has_no_price_last(figures: list[Json]) -> None:
    snapshot = compiled(config("cost_optimized", [target(at) for at in range(TARGETS)]))
    decided = decide(snapshot, {}, {"targets": figures})

    is_probe = {
        one["target"]: one["eligible"] and state["health"] == "open"
        for one, state in zip(decided["candidates"], figures, strict=True)
    }
    cost = {one["target"]: one["est_cost_usd"] for one in decided["candidates"]}
    eligible = {one["target"] for one in decided["candidates"] if one["eligible"]}
    tried = [one["target"] for one in decided["order"] if one["target"] in eligible]
    rest = [name for name in tried if not is_probe[name]]
    prices = [math.inf if cost[name] is None else float(cost[name]) for name in rest]
    assert prices == sorted(prices)
    # A target that may serve again is tried first, by this one request.
    assert all(is_probe[name] for name in tried[: len(tried) - len(rest)])


@given(
    st.lists(st.floats(1, 5000, width=32), min_size=2, max_size=TARGETS),
    st.integers(0, 100),
    st.uuids(version=4).map(str),
)
@settings(max_examples=300, deadline=None)
def test_who_serves_is_within_the_tolerance_of_the_fastest(
    ttft_ms: list[float], tolerance_pct: int, id_: str
) -> None:
    snapshot = compiled(
        config(
            "latency_optimized",
            [target(at) for at in range(len(ttft_ms))],
            tolerance_pct=tolerance_pct,
            explore_pct=0,
        )
    )
    state = {"targets": [{"health": "closed", "ttft_ms": each} for each in ttft_ms]}
    decided = decide(snapshot, {"id": id_}, state)

    served = int(decided["order"][0]["target"].removeprefix("m-"))
    assert ttft_ms[served] <= min(ttft_ms) * (1 + tolerance_pct / 100) * (1 + 1e-6)
    rest = [ttft_ms[int(one["target"].removeprefix("m-"))] for one in decided["order"][1:]]
    assert rest == sorted(rest)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=5), st.text(max_size=8))
@settings(max_examples=15, deadline=None)
def test_arms_get_the_share_of_subjects_that_their_weights_say(
    weights: list[int], salt: str
) -> None:
    snapshot = arms(weights, salt)
    subjects = 4000
    drawn = Counter(
        decide(snapshot, {"end_user": f"user-{number}"}, {})["variant"]
        for number in range(subjects)
    )

    for at, weight in enumerate(weights):
        share = weight / sum(weights)
        # Six standard deviations: one run in a billion is further off.
        off = 6 * math.sqrt(share * (1 - share) / subjects)
        assert abs(drawn[f"v{at}"] / subjects - share) <= off + 1 / subjects


def arms(weights: Sequence[int], salt: str, **own: object) -> _native.Snapshot:
    variants = [{"name": f"v{at}", "weight": weight} for at, weight in enumerate(weights)]
    children = [target(at) for at in range(len(weights))]
    return compiled(config("ab_test", children, variants=variants, salt=salt, **own))


def test_an_arm_of_a_hundredth_of_a_percent_is_drawn_that_often() -> None:
    snapshot = arms([1, 9999], "rare")
    subjects = 50_000
    rare = sum(
        decide(snapshot, {"end_user": f"user-{number}"}, {})["variant"] == "v0"
        for number in range(subjects)
    )

    assert 0 < rare < 25


def test_subjects_stay_in_their_arm_for_ever() -> None:
    # These were drawn once, and whoever runs an experiment over an upgrade relies on them.
    snapshot = arms([1, 1, 2], "checkout")
    drawn = [
        decide(snapshot, {"end_user": f"user-{number}"}, {})["variant"] for number in range(16)
    ]

    assert " ".join(drawn) == "v1 v2 v0 v2 v2 v0 v2 v2 v2 v2 v1 v0 v2 v0 v2 v1"


@pytest.mark.parametrize(
    ("sticky_by", "same", "other"),
    [
        ("end_user", {"end_user": "ann"}, {"end_user": "bob-%d"}),
        ("conversation", {"conversation_id": "c"}, {"conversation_id": "c-%d"}),
        ("tag:team", {"tags": {"team": "ml"}}, {"tags": {"team": "ml-%d"}}),
        ("request", {"id": "r"}, {"id": "r-%d"}),
    ],
)
def test_what_a_test_goes_by_decides_and_nothing_else(
    sticky_by: str, same: Json, other: Json
) -> None:
    snapshot = arms([1, 1], "s", sticky_by=sticky_by)

    def drawn(facts: Json, number: int) -> str:
        numbered = json.loads(json.dumps(facts).replace("%d", str(number)))
        beside = {"id": f"id-{number}", "end_user": f"who-{number}"}
        arm: str = decide(snapshot, beside | numbered, {})["variant"]
        return arm

    assert len({drawn(same, number) for number in range(50)}) == 1
    assert len({drawn(other, number) for number in range(50)}) == 2
    # Without that subject it is the request that is drawn for.
    if sticky_by != "end_user":
        assert len({drawn({}, number) for number in range(50)}) == 2


def test_nobody_is_paid_for_vectors_that_no_mean_can_be_made_of() -> None:
    mean = config(
        "ensemble",
        [target(1), target(2)],
        aggregation="weighted_average",
        weights=[1000, 1000],
        min_responses=1,
    )
    snapshot = compiled(config("fallback", [mean, target(3)]))
    asked = decide(snapshot, {"endpoint": "embeddings"}, {})

    assert [one["target"] for one in asked["order"]] == ["m-3"]
    assert [one["reject_reason"] for one in asked["candidates"]] == [
        "no_average_of_vectors",
        "no_average_of_vectors",
        None,
    ]
    assert [one["target"] for one in decide(snapshot, {}, {})["order"]] == ["m-1", "m-2", "m-3"]


@pytest.mark.parametrize(
    ("facts", "state", "told"),
    [
        ({"model": "@prob"}, {}, 'facts: the snapshot has no "@prob"'),
        ({"model": "@prod@9"}, {}, 'facts: the snapshot has no "@prod@9"'),
        ({"model": "mystery"}, {}, 'facts: the snapshot has no "mystery"'),
        ({"project": "nobody's"}, {}, 'facts: no project "nobody\'s"'),
        ({"key_id": "key_9"}, {}, 'facts: no key "key_9"'),
        ({"tags": {"a": 1}}, {}, 'facts: tag "a" is not a string'),
        ({"colour": 1}, {}, "unknown field `colour`"),
        ({}, {"targets": [{"health": "fine"}]}, 'health "fine" is none of closed'),
        ({}, {"targets": []}, "`targets` has 0 entries; the config has 1"),
        ({}, {"targets": [{"health": "closed", "cost_usd": "1e3"}]}, '"1e3" is no amount'),
        ({}, {"clock": 1}, "unknown field `clock`"),
    ],
)
def test_what_is_wrong_with_facts_or_figures_is_named(
    facts: Json, state: Json, told: str
) -> None:
    snapshot = compiled(config("single", [target(1)]))

    with pytest.raises(ValueError, match=".") as caught:
        decide(snapshot, facts, state)
    assert told in str(caught.value)
