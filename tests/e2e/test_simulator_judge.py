"""The stand-in provider as the judge of caps: what it billed can be read at every moment."""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.harness import RawClient, Simulator, call, chat_body, post, simulate, until

INPUT_NUSD: Final = 1_000
OUTPUT_NUSD: Final = 10_000
PRICES: Final = ("--price", "m=1:10", "--price", "other=1:10", "--input-tokens", "5")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulate(tmp_path_factory.mktemp("judge"), *PRICES, "--keep-bodies") as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    running.reset()
    return running


def _nusd(output_tokens: int) -> int:
    return 5 * INPUT_NUSD + output_tokens * OUTPUT_NUSD


def _asking(settings: str, **more: object) -> bytes:
    return post(chat_body("m", stream=True, metadata={"simulate": settings}, **more))


def _total(simulator: Simulator) -> dict[str, int]:
    total: dict[str, int] = simulator.totals()["total"]
    return total


def test_an_open_stream_is_billed_for_what_has_left_and_may_cost_its_whole_answer(
    simulator: Simulator,
) -> None:
    with RawClient(simulator.port) as client:
        client.send(_asking("tokens=40;fault=sse_stall_mid;at=3;label=a"))
        client.read_until(b"kept")
        total = until(
            lambda: found if (found := _total(simulator))["billed_nusd"] == _nusd(3) else None,
            what="three tokens billed",
        )
        assert (total["open"], total["worst_nusd"]) == (1, _nusd(40))
        assert simulator.totals()["by_label"]["a"]["billed_nusd"] == _nusd(3)
    until(lambda: _total(simulator)["open"] == 0, what="the end of it")
    assert _total(simulator)["worst_nusd"] == _total(simulator)["billed_nusd"] == _nusd(3)


@pytest.mark.parametrize(("bill", "tokens"), [("all", 40), ("generated", 3), ("none", None)])
def test_who_bills_all_bills_it_from_the_start_and_who_bills_none_only_at_the_end(
    simulator: Simulator, bill: str, tokens: int | None
) -> None:
    billed = 0 if tokens is None else _nusd(tokens)
    with RawClient(simulator.port) as client:
        client.send(_asking(f"tokens=40;fault=sse_stall_mid;at=3;bill={bill}"))
        client.read_until(b"kept")
        until(lambda: _total(simulator)["billed_nusd"] == billed, what="the bill")
        client.reset()
    until(lambda: _total(simulator)["open"] == 0, what="the end of it")
    assert _total(simulator)["billed_nusd"] == billed


def test_what_was_billed_never_falls_whatever_happens_to_the_answers(
    simulator: Simulator,
) -> None:
    faults = (
        "tokens=9", "tokens=9;bill=none", "status=500", "fault=sse_reset_mid;bill=all",
        "fault=fin_before", "malformed=json;bill=all", "tokens=9;token_ms=1",
    )  # fmt: skip
    seen = 0
    for number, settings in enumerate(faults * 3):
        with RawClient(simulator.port) as client:
            client.send(_asking(settings))
            if number % 3:
                client.read_until(b"\r\n\r\n")
            now = _total(simulator)["billed_nusd"]
            assert now >= seen
            seen = now
    until(lambda: _total(simulator)["open"] == 0, what="the end of all")
    assert _total(simulator)["billed_nusd"] >= seen > 0


def test_sums_of_models_and_labels_add_up_to_the_total(simulator: Simulator) -> None:
    for model, label in (("m", "a"), ("m", "b"), ("other", "b")):
        body = chat_body(model, metadata={"simulate": f"tokens=2;label={label}"})
        assert call(simulator.port, body).status == 200
    totals = simulator.totals()
    for part in ("by_model", "by_label"):
        sums = [each["billed_nusd"] for each in totals[part].values()]
        assert sum(sums) == totals["total"]["billed_nusd"] == 3 * _nusd(2)
    assert totals["by_label"]["b"]["requests"] == totals["by_model"]["m"]["requests"] == 2


def test_the_body_says_how_one_request_is_answered(simulator: Simulator) -> None:
    body = chat_body("m?tokens=4", metadata={"simulate": "tokens=3"})
    assert call(simulator.port, body).json()["usage"]["completion_tokens"] == 3
    by_header = call(simulator.port, body, headers={"x-simulate": "tokens=2"})
    assert by_header.json()["usage"]["completion_tokens"] == 2


def test_an_answer_may_run_and_bill_beyond_the_callers_limit(simulator: Simulator) -> None:
    body = chat_body("m", max_tokens=2, metadata={"simulate": "tokens=7;ignore_limit=1"})
    assert call(simulator.port, body).json()["usage"]["completion_tokens"] == 7
    assert _total(simulator)["billed_nusd"] == _nusd(7)


@pytest.mark.parametrize(
    ("usage", "told"), [("running", [1, 2, 3, 3]), ("running_only", [1, 2, 3])]
)
def test_usage_may_run_along_with_the_stream(
    simulator: Simulator, usage: str, told: list[int]
) -> None:
    body = chat_body(
        "m",
        stream=True,
        stream_options={"include_usage": True},
        metadata={"simulate": f"tokens=3;usage={usage}"},
    )
    events = [json.loads(each) for each in call(simulator.port, body).events()[:-1]]
    counts = [each["usage"]["completion_tokens"] for each in events if each.get("usage")]
    assert counts[: len(told)] == told
