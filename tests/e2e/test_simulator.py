"""The stand-in provider itself: what it says, how it fails, and what its ledger knows."""

import gzip
import json
import ssl
import statistics
import zlib
from collections.abc import Iterator

import openai
import pytest

from modelux.simulator.faults import CANARY_PATH, POISON
from modelux.simulator.settings import Fault
from tests.e2e.harness import (
    PROVIDER_KEY,
    Ending,
    RawClient,
    Simulator,
    call,
    certificate,
    chat_body,
    child,
    command,
    post,
    simulate,
)

PRICES = ("--price", "gpt-4o-mini=0.15:0.60:0.075", "--price", "gpt-4o=2.50:10")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulate(tmp_path_factory.mktemp("simulate"), *PRICES, "--keep-bodies") as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=simulator.base_url(), api_key=PROVIDER_KEY, max_retries=0
    ) as sdk:
        yield sdk


HELLO = [{"role": "user", "content": "hello"}]


# --- honest answers ------------------------------------------------------------------------


def test_the_sdk_reads_a_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o-mini?tokens=5", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content == " the river kept its own"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 5)


def test_a_stream_opens_with_the_role_and_ends_with_finish_usage_and_done(
    simulator: Simulator,
) -> None:
    body = chat_body(
        "gpt-4o-mini?tokens=2", stream=True, stream_options={"include_usage": True}
    )
    reply = call(simulator.port, body)
    role, *tokens, finish, usage, done = reply.events()
    assert json.loads(role)["choices"][0]["delta"]["role"] == "assistant"
    assert [json.loads(each)["choices"][0]["delta"]["content"] for each in tokens] == [
        " the",
        " river",
    ]
    assert json.loads(finish)["choices"][0]["finish_reason"] == "stop"
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"


def test_a_stream_reports_usage_only_when_asked(simulator: Simulator) -> None:
    reply = call(simulator.port, chat_body("gpt-4o-mini", stream=True))
    assert b'"usage"' not in reply.body


def test_the_callers_limit_cuts_the_output_and_says_so(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o-mini?tokens=50",
        messages=[{"role": "user", "content": "hello"}],
        max_completion_tokens=3,
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_several_choices_are_billed_each(client: openai.OpenAI, simulator: Simulator) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o-mini?tokens=4", messages=[{"role": "user", "content": "hello"}], n=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert simulator.only()["output_tokens"] == 12


def test_the_sdk_reads_streams_completions_embeddings_and_models(
    client: openai.OpenAI,
) -> None:
    stream = client.chat.completions.create(
        model="gpt-4o-mini?tokens=3",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == " the river kept"
    old = client.completions.create(model="gpt-4o-mini?tokens=2", prompt="hello")
    assert old.choices[0].text == " the river"
    vectors = client.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"], dimensions=8
    )
    assert [len(each.embedding) for each in vectors.data] == [8, 8]
    assert vectors.data[0].embedding != vectors.data[1].embedding
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def test_embeddings_in_both_encodings_are_the_same_floats(simulator: Simulator) -> None:
    with openai.OpenAI(base_url=simulator.base_url(), api_key="k") as sdk:
        packed = sdk.embeddings.create(model="e", input="text", dimensions=16)
        plain = sdk.embeddings.create(
            model="e", input="text", dimensions=16, encoding_format="float"
        )
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)


def test_a_tool_is_called_with_readable_arguments(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="gpt-4o-mini?tokens=4;tool_call=1",
        messages=[{"role": "user", "content": "hello"}],
        tools=[{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
        stream=True,
    )
    calls = [
        call.function
        for chunk in stream
        for call in chunk.choices[0].delta.tool_calls or []
        if call.function is not None
    ]
    assert calls[0].name == "look_up"
    assert json.loads("".join(each.arguments or "" for each in calls)) == {
        "text": " the river kept its"
    }


def test_a_missing_model_and_broken_json_are_refused_as_openai_does(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-unheard-of")
    assert call(simulator.port, b'{"model":').status == 400
    assert call(simulator.port, b'{"messages":[]}').status == 400
    assert simulator.ledger()["totals"]["cost_nusd"] == 0


def test_an_unknown_setting_is_refused_with_the_nearest_known(simulator: Simulator) -> None:
    reply = call(simulator.port, chat_body("gpt-4o?token=3"))
    assert reply.status == 400
    assert "`tokens`" in reply.error()["message"]


def test_settings_of_flag_path_name_and_header_win_in_this_order(simulator: Simulator) -> None:
    body = chat_body("gpt-4o-mini?tokens=4")
    path = "/_s/tokens=3;label=path/v1/chat/completions"
    by_name = call(simulator.port, body, path=path)
    by_header = call(simulator.port, body, path=path, headers={"x-simulate": "tokens=5"})
    assert by_name.json()["usage"]["completion_tokens"] == 4
    assert by_header.json()["usage"]["completion_tokens"] == 5
    assert len(simulator.requests(label="path")) == 2


# --- chance and repeats --------------------------------------------------------------------


def _run(folder_name: str, factory: pytest.TempPathFactory, seed: str) -> list[bytes]:
    flags = ("--seed", seed, "--tokens", "lognormal:20:0.8", "--error-rate", "0.3")
    with simulate(factory.mktemp(folder_name), *flags) as simulator:
        return [call(simulator.port, chat_body(f"m{n % 5}")).body for n in range(20)]


def test_a_run_repeats_byte_for_byte_with_its_seed_and_differs_with_another(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    first = _run("first", tmp_path_factory, "7")
    assert first == _run("second", tmp_path_factory, "7")
    assert first != _run("third", tmp_path_factory, "8")


def test_the_error_rate_is_kept(simulator: Simulator) -> None:
    path = "/_s/error_rate=0.3;error_status=503/v1/chat/completions"
    statuses = [
        call(simulator.port, chat_body("m", user=str(n)), path=path).status for n in range(300)
    ]
    assert set(statuses) == {200, 503}
    assert 0.2 < statuses.count(503) / len(statuses) < 0.4


def test_lognormal_lengths_have_the_median_they_are_given(simulator: Simulator) -> None:
    path = "/_s/tokens=lognormal:40:0.5/v1/chat/completions"
    lengths = [
        call(simulator.port, chat_body("m", user=str(n)), path=path).json()["usage"][
            "completion_tokens"
        ]
        for n in range(300)
    ]
    assert 34 < statistics.median(lengths) < 46
    assert min(lengths) < 25
    assert max(lengths) > 65


def test_misbehaviour_can_be_limited_to_a_number_of_times(simulator: Simulator) -> None:
    body = chat_body("m?status=500;times=2")
    assert [call(simulator.port, body).status for _ in range(4)] == [500, 500, 200, 200]


# --- the ledger ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_it_says_what_it_is_told_to_say(simulator: Simulator, *, stream: bool) -> None:
    said = call(simulator.port, chat_body('m?text={"index": 1}%3B  ok', stream=stream))
    assert said.text() == '{"index": 1};  ok'
    assert simulator.only()["output_tokens"] == 3
    cut = call(simulator.port, chat_body("m?text=one two three", stream=stream, max_tokens=2))
    assert cut.text() == "one two"
    empty = call(simulator.port, chat_body("m?text=", stream=stream))
    assert (empty.status, empty.text()) == (200, "")


def test_a_models_settings_can_be_changed_while_it_runs(simulator: Simulator) -> None:
    simulator.tell("told", "status=503")
    assert call(simulator.port, chat_body("told")).status == 503
    assert call(simulator.port, chat_body("told?status=200")).status == 200, "the name wins"
    assert call(simulator.port, chat_body("other")).status == 200
    simulator.reset()
    assert call(simulator.port, chat_body("told")).status == 503, (
        "only the ledger was forgotten"
    )
    simulator.tell("told", "")
    assert call(simulator.port, chat_body("told")).status == 200
    with RawClient(simulator.port) as client:
        client.send(b"PUT /_models/told HTTP/1.1\r\nContent-Length: 6\r\n\r\nspeed=")
        assert client.read_reply().status == 400


def test_the_ledger_bills_input_output_and_cached_at_the_models_price(
    simulator: Simulator,
) -> None:
    call(simulator.port, chat_body("gpt-4o-mini?input_tokens=1000;cached_tokens=400;tokens=10"))
    record = simulator.only()
    assert (record["input_tokens"], record["cached_tokens"], record["output_tokens"]) == (
        1000,
        400,
        10,
    )
    assert record["cost_nusd"] == 600 * 150 + 400 * 75 + 10 * 600
    assert simulator.ledger()["totals"]["cost_usd"] == "0.000126000"


def test_a_model_without_a_price_is_counted_as_unpriced_not_as_free(
    simulator: Simulator,
) -> None:
    call(simulator.port, chat_body("mystery"))
    assert simulator.only()["cost_nusd"] is None
    assert simulator.ledger()["totals"]["unpriced"] == 1


def test_an_error_costs_nothing(simulator: Simulator) -> None:
    assert call(simulator.port, chat_body("gpt-4o?status=500")).status == 500
    assert simulator.only()["cost_nusd"] == 0
    assert simulator.ledger()["totals"]["errors"] == 1


def test_the_ledger_has_fingerprints_and_bodies_but_no_key(simulator: Simulator) -> None:
    body = chat_body("gpt-4o")
    call(simulator.port, body, key="sk-very-secret")
    call(simulator.port, body, key="sk-very-secret")
    call(simulator.port, body, key="sk-another")
    ledger = simulator.ledger()
    assert "sk-very-secret" not in json.dumps(ledger)
    first, second, third = ledger["requests"]
    assert first["authorization"] == second["authorization"] != third["authorization"]
    assert first["body_sha256"] == third["body_sha256"]
    assert first["body"].encode() == body


def test_a_lying_usage_leaves_the_ledger_true(simulator: Simulator) -> None:
    for lie, told in {
        "negative": -16,
        "string": "16",
        "huge": 2**62,
        "zero": 0,
        "honest": 16,
    }.items():
        reply = call(simulator.port, chat_body(f"m?usage={lie}"))
        assert reply.json()["usage"]["completion_tokens"] == told, lie
    assert "usage" not in call(simulator.port, chat_body("m?usage=missing")).json()
    assert call(simulator.port, chat_body("m?usage=null")).json()["usage"] is None
    assert [each["output_tokens"] for each in simulator.requests()] == [16] * 7


def test_usage_can_be_reported_twice(simulator: Simulator) -> None:
    options = {"include_usage": True}
    body = chat_body("m?usage=twice_lower;tokens=9", stream=True, stream_options=options)
    usages = [
        json.loads(each)["usage"]
        for each in call(simulator.port, body).events()
        if each != "[DONE]" and json.loads(each)["usage"]
    ]
    assert [each["completion_tokens"] for each in usages] == [9, 0]


def test_a_caller_that_goes_away_is_noticed_and_billed_for_what_left(
    simulator: Simulator,
) -> None:
    with RawClient(simulator.port) as client:
        client.send(post(chat_body("gpt-4o?tokens=1000;token_ms=5", stream=True)))
        client.read_until(b'" river"')
    record = simulator.wait_request(lambda each: each["disconnected"])
    assert record["state"] == "disconnected"
    assert 2 <= record["output_tokens"] < 1000
    assert record["output_tokens"] == record["output_tokens_sent"]
    assert record["first_byte_us"] <= record["disconnected_us"] <= record["ended_us"]


@pytest.mark.parametrize(("bill", "output"), [("all", 1000), ("none", 0)])
def test_what_a_cut_answer_costs_can_be_chosen(
    simulator: Simulator, bill: str, output: int
) -> None:
    model = f"gpt-4o?tokens=1000;token_ms=5;bill={bill};label={bill}"
    with RawClient(simulator.port) as client:
        client.send(post(chat_body(model, stream=True)))
        client.read_until(b'" river"')
    record = simulator.wait_request(lambda each: each["disconnected"], label=bill)
    assert record["output_tokens"] == output


def test_the_ledger_is_bounded_and_its_totals_are_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with simulate(tmp_path_factory.mktemp("small"), "--ledger-max", "3") as simulator:
        for _ in range(5):
            call(simulator.port, chat_body("m"))
        ledger = simulator.ledger()
    assert ledger["totals"]["requests"] == 5
    assert [each["ordinal"] for each in ledger["requests"]] == [2, 3, 4]
    assert ledger["shed"] == 2


# --- faults --------------------------------------------------------------------------------

FIN, RESET, SILENCE, WHOLE = Ending.FIN, Ending.RESET, Ending.SILENCE, Ending.WHOLE


def _ask(port: int, fault: str, *, stream: bool = False, settings: str = "") -> RawClient:
    client = RawClient(port, timeout_s=0.3 if "stall" in fault or "hold" in fault else 20)
    client.send(post(chat_body(f"m?fault={fault};tokens=6{settings}", stream=stream)))
    return client


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("reset_before", RESET),
        ("fin_before", FIN),
        ("stall_headers", SILENCE),
    ],
)
def test_a_fault_before_the_head_sends_nothing(
    simulator: Simulator, fault: str, ending: Ending
) -> None:
    with _ask(simulator.port, fault) as client:
        assert client.read_end() == (b"", ending)


@pytest.mark.parametrize(
    ("fault", "ending"),
    [("reset_mid_head", RESET), ("fin_mid_head", FIN), ("stall_mid_head", SILENCE)],
)
def test_a_fault_in_the_head_sends_part_of_it(
    simulator: Simulator, fault: str, ending: Ending
) -> None:
    with _ask(simulator.port, fault) as client:
        sent, ended = client.read_end()
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in sent
    assert ended is ending


@pytest.mark.parametrize(
    ("fault", "bytes_seen"),
    [
        ("garbage", b"\x16\x03\x01"),
        ("bad_status_line", b"HTTP/1.1 2OO OK"),
        ("header_nul", b"x-nul: a\x00b\r\n"),
        ("header_ctl", b"x-ctl: a\x07b\r\n"),
        ("header_ctl_cr", b"x-cr: a\rx-smuggled: b\r\n"),
        ("cl_negative", b"content-length: -"),
        ("te_and_cl", b"transfer-encoding: chunked\r\n"),
        ("upgrade_101", b"HTTP/1.1 101 "),
        ("status_100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"),
        ("status_103", b"HTTP/1.1 103 Early Hints\r\n"),
        ("bad_chunk_size", b"\r\nzz\r\n"),
        ("chunk_size_overflow", b"\r\n100000000000000000000\r\n"),
        ("trailers", b"0\r\nx-checksum: 1\r\nauthorization: Bearer trailer\r\n"),
        ("extra_response", POISON),
        ("extra_bytes", b"\x00\x01extra"),
        ("redirect", CANARY_PATH.encode()),
        ("redirect_307", b"HTTP/1.1 307 "),
        ("http10_close", b"HTTP/1.0 200 OK"),
        ("huge_header", b"x-huge: hhhhhhhh"),
        ("many_headers", b"\r\nx-4999: v\r\n"),
        ("endless_headers", b"x-endless: hhhh"),
        ("endless_100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"),
        ("endless_body", b"eeeeeeeeeeeeeeee"),
    ],
)
def test_a_fault_puts_its_mark_on_the_wire(
    simulator: Simulator, fault: str, bytes_seen: bytes
) -> None:
    with _ask(simulator.port, fault) as client:
        assert client.read_until(bytes_seen).endswith(bytes_seen)


def test_two_lengths_differ(simulator: Simulator) -> None:
    with _ask(simulator.port, "cl_twice_differ") as client:
        head = client.read_until(b"\r\n\r\n")
    lengths = [
        line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    ]
    assert len(set(lengths)) == 2


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("fin_mid_body", FIN),
        ("reset_mid_body", RESET),
        ("stall_mid_body", SILENCE),
        ("stall_body", SILENCE),
        ("cl_too_long", FIN),
        ("sse_reset_mid", RESET),
        ("sse_fin_mid", FIN),
        ("sse_cut_in_event", FIN),
    ],
)
def test_a_whole_answer_is_cut(simulator: Simulator, fault: str, ending: Ending) -> None:
    with _ask(simulator.port, fault) as client:
        reply = client.read_reply()
    assert reply.status == 200
    assert reply.ending is ending


@pytest.mark.parametrize(
    ("fault", "ending"),
    [("sse_reset_mid", RESET), ("sse_fin_mid", FIN), ("sse_stall_mid", SILENCE)],
)
def test_a_stream_is_cut_between_events(
    simulator: Simulator, fault: str, ending: Ending
) -> None:
    with _ask(simulator.port, fault, stream=True) as client:
        reply = client.read_reply()
    assert reply.body.endswith(b"}\n\n")
    assert reply.text() == " the river kept"
    assert reply.ending is ending


def test_a_cut_falls_where_it_is_asked_for(simulator: Simulator) -> None:
    with RawClient(simulator.port) as client:
        client.send(post(chat_body("m?cut=reset@2;tokens=50", stream=True)))
        reply = client.read_reply()
    assert (reply.text(), reply.ending) == (" the river", RESET)
    with RawClient(simulator.port) as client:
        client.send(post(chat_body("m?cut=fin@0;tokens=50", stream=True)))
        reply = client.read_reply()
    assert (len(reply.events()), reply.text(), reply.ending) == (1, "", FIN)


def test_a_stream_is_cut_inside_an_event_and_inside_a_character(simulator: Simulator) -> None:
    with _ask(simulator.port, "sse_cut_in_event", stream=True) as client:
        inside_event = client.read_reply()
    assert not inside_event.body.endswith(b"\n\n")
    assert inside_event.ending is FIN
    with _ask(simulator.port, "sse_cut_utf8", stream=True) as client:
        inside_character = client.read_reply()
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        inside_character.body.decode()


def test_an_error_event_ends_a_stream_without_done(simulator: Simulator) -> None:
    with _ask(simulator.port, "sse_error_mid", stream=True) as client:
        reply = client.read_reply()
    assert json.loads(reply.events()[-1])["error"]["type"] == "server_error"
    assert reply.ending is WHOLE


def test_a_big_event_is_as_big_as_asked(simulator: Simulator) -> None:
    with _ask(simulator.port, "sse_big_event", stream=True, settings=";size_bytes=300000") as c:
        reply = c.read_reply()
    assert max(map(len, reply.events())) > 300_000
    assert reply.events()[-1] == "[DONE]"


@pytest.mark.parametrize("fault", ["sse_split1", "drip", "drip_head", "drip_body"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_dripped_answer_is_the_same_answer(
    simulator: Simulator, fault: str, *, stream: bool
) -> None:
    with _ask(simulator.port, fault, stream=stream, settings=";drip_ms=0") as client:
        dripped = client.read_reply()
    honest = call(simulator.port, chat_body("m?tokens=6", stream=stream))
    assert dripped.text() == honest.text()
    assert dripped.ending is WHOLE


def test_encoded_answers(simulator: Simulator) -> None:
    with _ask(simulator.port, "gzip") as client:
        good = client.read_reply()
    assert good.header("content-encoding") == "gzip"
    assert json.loads(gzip.decompress(good.body))["object"] == "chat.completion"
    with _ask(simulator.port, "gzip_bad") as client:
        bad = client.read_reply()
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(bad.body)
    with _ask(simulator.port, "gzip_bomb", settings=";size_bytes=8388608") as client:
        bomb = client.read_reply()
    assert len(gzip.decompress(bomb.body)) > 8_000_000 > 100 * len(bomb.body)


@pytest.mark.parametrize(
    "fault", ["conn_close", "http10_close", "eof_delimited", "close_after_ok", "half_close"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_whole_before_its_connection_closes(
    simulator: Simulator, fault: str, *, stream: bool
) -> None:
    with _ask(simulator.port, fault, stream=stream) as client:
        reply = client.read_reply()
        _, ended = client.read_end()
    assert reply.text() == " the river kept its own time"
    assert ended is FIN
    assert simulator.only()["state"] == "done"


@pytest.mark.parametrize(("fault", "ending"), [("stale_reset", RESET), ("stale_fin", FIN)])
def test_a_stale_connection_fails_only_when_it_is_used_again(
    simulator: Simulator, fault: str, ending: Ending
) -> None:
    with _ask(simulator.port, fault) as client:
        assert client.read_reply().status == 200
        client.send(post(chat_body(f"m?fault={fault}")))
        assert client.read_end() == (b"", ending)


@pytest.mark.parametrize(("fault", "status"), [("early_413", 413), ("early_200", 200)])
def test_an_early_answer_comes_before_the_body_is_sent(
    simulator: Simulator, fault: str, status: int
) -> None:
    whole = post(chat_body("m"), path=f"/_s/fault={fault}/v1/chat/completions")
    head = whole[: whole.index(b"\r\n\r\n") + 4]
    with RawClient(simulator.port) as client:
        client.send(head)
        assert client.read_reply().status == status


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_echoed_as_providers_do(simulator: Simulator, status: int) -> None:
    reply = call(simulator.port, chat_body(f"m?status={status}"), key="sk-echo-me")
    assert reply.status == status
    assert "sk-echo-me" in reply.error()["message"]


def test_a_429_says_when_to_come_back(simulator: Simulator) -> None:
    reply = call(simulator.port, chat_body("m?status=429; retry_after=2"))
    assert (reply.status, reply.header("retry-after")) == (429, "2")


def test_only_known_keys_are_accepted_where_keys_are_given(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with simulate(tmp_path_factory.mktemp("keys"), "--api-key", "right") as simulator:
        assert call(simulator.port, chat_body("m"), key="right").status == 200
        assert call(simulator.port, chat_body("m"), key="wrong").status == 401
        assert call(simulator.port, chat_body("m"), key=None).status == 401


def test_every_fault_leaves_the_server_serving(simulator: Simulator) -> None:
    for fault in Fault:
        for stream in (False, True):
            with RawClient(simulator.port) as client:
                client.send(post(chat_body(f"m?fault={fault}", stream=stream)))
                if "stall" not in fault:
                    client.read_some(1)
    assert call(simulator.port, chat_body("m")).status == 200
    assert "Traceback" not in simulator.child.said()


def test_tls_serves_and_cuts_as_plain_connections_do(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    context = ssl.create_default_context(cafile=cert)
    flags = ("--tls-cert", str(cert), "--tls-key", str(key))
    with simulate(folder, *flags) as simulator, RawClient(simulator.port) as client:
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        client.send(post(chat_body("m?tokens=6")))
        assert client.read_reply().text() == " the river kept its own time"
        client.send(post(chat_body("m?cut=reset@2;tokens=6", stream=True)))
        reply = client.read_reply()
        assert reply.text() == " the river"
        # OpenSSL tells its caller of a reset as of any other end without a farewell.
        assert reply.ending in {FIN, RESET}
        assert simulator.address.startswith("https://")
        assert simulator.ledger()["totals"]["requests"] == 2


# --- the connection ------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(simulator: Simulator) -> None:
    with RawClient(simulator.port) as client:
        client.send(b"".join(post(chat_body(f"m{n}?first_byte_ms=2")) for n in range(20)))
        assert [client.read_reply().json()["model"] for _ in range(20)] == [
            f"m{n}" for n in range(20)
        ]


def test_the_body_is_asked_for_where_the_caller_waits_for_that(simulator: Simulator) -> None:
    whole = post(chat_body("m"), headers={"Expect": "100-continue"})
    split = whole.index(b"\r\n\r\n") + 4
    with RawClient(simulator.port) as client:
        client.send(whole[:split])
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(whole[split:])
        assert client.read_reply().status == 200


def test_an_endless_answer_waits_for_a_caller_that_does_not_read(simulator: Simulator) -> None:
    with RawClient(simulator.port) as client:
        client.send(post(chat_body("slow?fault=endless_body")))
        client.read_until(b"eeee")
        settled = simulator.only(model="slow")["bytes_sent"]
        assert call(simulator.port, chat_body("m")).status == 200
        assert simulator.only(model="slow")["bytes_sent"] <= settled + (64 << 20)


def test_a_wrong_flag_says_what_is_known(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flags")
    words = command("simulate", "--fault", "explode")
    with child("wrong", words, folder, expect=2) as running:
        running.process.wait()
    assert "explode" in running.said()
