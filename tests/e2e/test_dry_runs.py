"""Dry runs through the SDK, and embeddings whose vectors have to have one length."""

from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest

from tests.e2e import budgets
from tests.e2e.harness import (
    PROJECT,
    Gateway,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
)
from tests.e2e.routing import HELLO, asked, price, sdk, told

DRY: Final = {"X-Modelux-Dry-Run": "true"}

ROUTES: Final = """
[routes.chain]
strategy = "fallback"
attempts = ["sim/d-1", { model = "sim/d-2", timeout_ms = 700 }]

[routes.ruled]
strategy = "custom_rules"
rules = [{ if = "tags.tier == 'banned'", then = { block = "no" } }, { else = "@chain" }]

[routes.crowd]
strategy = "ensemble"
aggregation = "first_valid"
members = ["sim/d-1", "sim/d-2"]
shadow = { target = "sim/d-2", percent = 100 }

[routes.arms]
strategy = "ab_test"
variants = [{ name = "only", weight = 1, target = "sim/d-1" }]

[routes.vectors]
strategy = "fallback"
attempts = ["sim/text-embedding-ada-002", "sim/text-embedding-3-small"]
embedding_dimensions = 256

[routes.checked-vectors]
strategy = "fallback"
attempts = ["sim/v-short", "sim/v-right"]
embedding_dimensions = 256

[routes.any-vectors]
strategy = "fallback"
attempts = ["sim/v-1", "sim/v-2"]

"""


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = (
        PROJECT
        + provider_table("sim", shared_simulator.base_url())
        + ROUTES
        + price(["d-1", "d-2"], 0, 1000)
        + budgets.budget("dry", 100)
        + budgets.budget("dry-small", 5)
    )
    with serve(tmp_path_factory.mktemp("dry"), config) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    assert simulator.child.alive()
    with sdk(gateway) as opened:
        yield opened


def _dry(client: openai.OpenAI, model: str, tags: str = "t=dry", **more: Any) -> Any:  # noqa: ANN401
    return client.chat.completions.create(
        model=model,
        messages=HELLO,
        extra_headers=DRY | {"X-Modelux-User-Tags": tags},
        **more,
    )


@pytest.mark.parametrize("model", ["@chain", "@ruled", "@crowd", "sim/d-1"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, model: str
) -> None:
    answer = _dry(client, model, max_tokens=10)
    assert answer.choices[0].message.content in {None, ""}
    assert (answer.choices[0].finish_reason, answer.usage.total_tokens) == ("stop", 0)
    said = answer.modelux
    assert [each["model"] for each in said["attempts"]][:1] == ["d-1"]
    assert said["attempts"][0]["bound_usd"] is not None
    (budget,) = said["budgets"]
    assert (budget["name"], budget["verdict"]) == ("dry", "ok")
    assert float(budget["remaining_usd"]) == budgets.usd(100)
    assert said["decision"]["candidates"]
    assert asked(simulator) == []
    assert budgets.row(gateway, "dry")["spent_usd"] == 0
    assert budgets.row(gateway, "dry")["held_usd"] == 0


def test_a_streamed_dry_run_says_it_in_its_first_chunk(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    chunks = list(_dry(client, "@chain", stream=True))
    assert [each["model"] for each in chunks[0].modelux["attempts"]] == ["d-1", "d-2"]
    assert chunks[0].modelux["attempts"][1]["timeout_ms"] == 700
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == ""
    assert asked(simulator) == []


def test_a_dry_run_carries_the_headers_of_its_decision(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("@arms"), path="/v1/dry-run")
    assert reply.header("x-modelux-config") == "@arms (v1)"
    decision = reply.json()["modelux"]["decision"]
    assert reply.header("x-modelux-ab-variant") == decision["variant"] == "only"
    assert decision["summary"] == "ab_test -> attempt_1"


def test_a_refused_request_has_the_same_members_in_its_decision(gateway: Gateway) -> None:
    served = call(gateway.port, chat_body("@arms"))
    refused = call(gateway.port, chat_body("@nowhere"))
    assert (served.status, refused.status) == (200, 404)
    members = [set(gateway.trace(one.request_id)["decision"]) for one in (served, refused)]
    assert members[0] == members[1]


def test_the_path_of_its_own_does_what_the_header_does(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("@chain"), path="/v1/dry-run")
    assert reply.status == 200
    assert [each["model"] for each in reply.json()["modelux"]["attempts"]] == ["d-1", "d-2"]
    assert asked(simulator) == []


def test_a_dry_run_tells_what_a_budget_would_say(client: openai.OpenAI) -> None:
    small = _dry(client, "@chain", tags="t=dry-small", max_tokens=10).modelux["budgets"]
    assert [each["verdict"] for each in small] == ["block"]
    fitted = _dry(client, "@chain", tags="t=dry", extra_body={"mlx:tags": {"x": "y"}})
    assert fitted.modelux["budgets"][0]["verdict"] == "fit"
    assert fitted.modelux["budgets"][0]["fitted_max_tokens"] == 100


def test_a_dry_run_is_blocked_by_the_rule_that_would_block(client: openai.OpenAI) -> None:
    answer = _dry(client, "@ruled", tags="tier=banned")
    assert answer.modelux["attempts"] == []
    decision = answer.modelux["decision"]
    assert decision["rules"][0]["result"] is True
    assert decision["reason"].startswith("rules[0] blocks: ")
    assert decision["summary"] == "custom_rules -> none"
    assert decision["path"] == ["@ruled (v1)"]


def test_completions_and_embeddings_are_tried_dry_in_their_own_shape(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    text = client.completions.create(model="@chain", prompt="hi", extra_headers=DRY)
    assert (text.choices[0].text, text.modelux["attempts"][0]["model"]) == ("", "d-1")  # type: ignore[attr-defined]
    vectors = client.embeddings.create(
        model="@any-vectors", input=["a", "b"], encoding_format="float", extra_headers=DRY
    )
    assert vectors.modelux["attempts"][0]["model"] == "v-1"  # type: ignore[attr-defined]
    assert asked(simulator) == []


def test_embeddings_fail_over_like_any_other_request(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"v-1": "status=500", "v-2": "dimensions=64"}):
        vectors = client.embeddings.create(model="@any-vectors", input=["a", "b"])
    assert [len(each.embedding) for each in vectors.data] == [64, 64]
    assert asked(simulator) == ["v-1", "v-2"]


def test_every_vector_of_a_route_has_the_length_that_it_says(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    vectors = client.embeddings.create(model="@vectors", input="a")
    assert len(vectors.data[0].embedding) == 256
    # The one in front has 1,536 whatever it is asked for, so it is not a candidate.
    assert asked(simulator) == ["text-embedding-3-small"]


def test_the_routes_length_holds_whatever_a_caller_asks_for(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    vectors = client.embeddings.create(model="@vectors", input="a", dimensions=512)
    assert len(vectors.data[0].embedding) == 256
    assert budgets.sent_body(simulator)["dimensions"] == 256


def test_a_vector_of_another_length_goes_on_to_the_next_target(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"v-short": "dimensions=64", "v-right": "dimensions=256"}):
        vectors = client.embeddings.create(model="@checked-vectors", input="a")
    assert len(vectors.data[0].embedding) == 256
    assert asked(simulator) == ["v-short", "v-right"]
