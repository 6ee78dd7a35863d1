"""The unmodified `openai` SDK through the gateway: what a caller relies on, read by its SDK."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest

from tests.e2e.harness import (
    KEY,
    PROVIDER_KEY,
    Gateway,
    RawClient,
    Simulator,
    call,
    chat_body,
    post,
    provider_table,
    serve,
)

LIMITED_KEY: Final = "mlx_sk_limited_0123456789abcdefgh"
MODEL: Final = "sim/gpt-4o-mini"
HELLO: Final[list[Any]] = [{"role": "user", "content": "hello"}]

ROUTES: Final = """
[routes.production]
strategy = "fallback"
attempts = [{ model = "sim/gpt-4o?status=500", timeout_ms = 20000 }, "sim/gpt-4o-mini"]

[routes.plain]
strategy = "single"
model = "sim/gpt-4o-mini"

[prices."sim/gpt-4o-mini"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    project = (
        '[projects.default]\nkeys = ["env:MODELUX_E2E_KEY", '
        '{ id = "limited", key = "env:LIMITED_KEY", rpm = 60 }]\n\n'
    )
    config = project + provider_table("sim", shared_simulator.base_url()) + ROUTES
    folder = tmp_path_factory.mktemp("sdk")
    with serve(folder, config, env={"LIMITED_KEY": LIMITED_KEY}) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    assert simulator.child.alive()
    with openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


# --- answers -------------------------------------------------------------------------------


def test_a_chat_answer_arrives_with_our_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="@production", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert raw.headers["x-modelux-provider-used"] == "sim"
    assert raw.headers["x-modelux-model-used"] == "gpt-4o-mini"
    assert raw.headers["x-modelux-config"] == "@production (v1)"
    assert raw.headers["x-modelux-attempts"] == "2"
    assert raw.headers["x-modelux-cache"] == "MISS"
    assert int(raw.headers["x-modelux-overhead-us"]) >= 0
    assert len(raw.headers["x-modelux-request-id"]) == 36


def test_the_cost_header_and_the_trace_agree_with_what_the_provider_billed(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=7
    )
    billed = simulator.only()
    assert billed["output_tokens"] == 7
    trace = gateway.trace(raw.headers["x-modelux-request-id"])
    assert trace["cost"]["total_usd"] == billed["cost_usd"]
    assert float(raw.headers["x-modelux-cost-usd"]) == float(billed["cost_usd"])
    assert trace["usage"]["output_tokens"] == 7
    assert trace["usage"]["source"] == "provider"


def test_a_bare_model_name_and_the_openai_prefix_serve_too(
    gateway: Gateway, simulator: Simulator
) -> None:
    base_url = f"{gateway.address}/openai/v1"
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as sdk:
        assert sdk.chat.completions.create(model=MODEL, messages=HELLO).choices
    assert simulator.only()["model"] == "gpt-4o-mini"


def test_an_async_client_gets_many_answers_at_once(
    gateway: Gateway, simulator: Simulator
) -> None:
    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=gateway.base_url, api_key=KEY, max_retries=0
        ) as sdk:
            answers = await asyncio.gather(
                *(
                    sdk.chat.completions.create(
                        model="sim/gpt-4o-mini?first_byte_ms=20;tokens=40",
                        messages=HELLO,
                        max_tokens=n + 1,
                    )
                    for n in range(30)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    texts = asyncio.run(ask_all())
    assert [len((text or "").split()) for text in texts] == list(range(1, 31))
    assert simulator.ledger()["totals"]["requests"] == 30


def test_a_stream_arrives_whole_and_without_the_usage_nobody_asked_for(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    chunks = list(
        client.chat.completions.create(
            model="sim/gpt-4o-mini?tokens=5", messages=HELLO, stream=True
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == " the river kept its own"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert json.loads(simulator.only()["body"])["stream_options"] == {"include_usage": True}


def test_the_trace_of_a_stream_has_the_usage_that_was_cut_out(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("@plain", stream=True))
    assert reply.events()[-1] == "[DONE]"
    assert reply.header("x-modelux-cost-usd") is None
    trace = gateway.trace(reply.request_id)
    assert trace["stream"] is True
    assert trace["usage"]["output_tokens"] == 16
    assert trace["cost"]["total_usd"] == simulator.only()["cost_usd"]


def test_usage_that_was_asked_for_arrives(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_an_async_stream_arrives_event_by_event(gateway: Gateway, simulator: Simulator) -> None:
    async def first_word() -> str | None:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=KEY) as sdk:
            # The provider sends one token and nothing more: it can only be seen unbuffered.
            stream = await sdk.chat.completions.create(
                model="sim/gpt-4o-mini?hang=mid@1", messages=HELLO, stream=True
            )
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    return chunk.choices[0].delta.content
        return None

    assert asyncio.run(first_word()) == " the"
    assert simulator.wait_request(lambda each: each["disconnected"])["state"] == "stalled"


def test_tools_images_and_unknown_fields_reach_the_provider_untouched(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    answer = client.chat.completions.create(
        model="sim/gpt-4o-mini?tool_call=1;tokens=3",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Grüße, 東京"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ],
        tools=[{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
        extra_body={"not_yet_invented": {"a": [1, 2.50, None]}},
    )
    calls = answer.choices[0].message.tool_calls or []
    assert calls[0].to_dict()["function"] == {
        "name": "look_up",
        "arguments": '{"text":" the river kept"}',
    }
    sent = json.loads(simulator.only()["body"])
    assert sent["not_yet_invented"] == {"a": [1, 2.5, None]}
    assert sent["messages"][0]["content"][0]["text"] == "Grüße, 東京"


def test_completions_and_embeddings(client: openai.OpenAI) -> None:
    old = client.completions.create(model="sim/gpt-4o-mini?tokens=2", prompt="hello")
    assert old.choices[0].text == " the river"
    pieces = client.completions.create(
        model="sim/gpt-4o-mini?tokens=3", prompt="hello", stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == " the river kept"
    vectors = client.embeddings.create(
        model="sim/text-embedding-3-small", input=["a", "b"], dimensions=8
    )
    assert [len(each.embedding) for each in vectors.data] == [8, 8]


def test_models_are_listed_with_routes_and_one_can_be_retrieved(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"@production", "@plain"} <= set(names)
    assert client.models.retrieve("@production").id == "@production"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("@unheard-of")


# --- bytes ---------------------------------------------------------------------------------


def test_the_body_reaches_the_provider_unchanged_but_for_the_model(
    gateway: Gateway, simulator: Simulator
) -> None:
    body = (
        b'{ "messages" : [{"role":"user","content":"\\u00e9 \xf0\x9f\x9b\xb6"}],\n'
        b'\t"temperature": 1.50, "model":"sim/gpt-4o-mini" , "seed": 9007199254740993 }'
    )
    assert call(gateway.port, body).status == 200
    sent = simulator.only()["body"].encode()
    assert sent == body.replace(b'"sim/gpt-4o-mini"', b'"gpt-4o-mini"')


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_reaches_the_caller_byte_for_byte(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    more: dict[str, object] = {"stream_options": {"include_usage": True}} if stream else {}
    through = call(gateway.port, chat_body(MODEL, stream=stream, **more))
    sent = simulator.only()["body"].encode()
    simulator.reset()  # Also what a repeat is known by, so the same body gets the same answer.
    direct = call(simulator.port, sent)
    assert through.body == direct.body


def test_headers_are_passed_on_by_rule(gateway: Gateway, simulator: Simulator) -> None:
    extra = {
        "User-Agent": "my-app/1",
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj-1",
        "Cookie": "session=1",
        "X-Api-Key": "caller",
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
        "X-Modelux-User-Tags": "team=ml",
        "Accept-Encoding": "gzip, br",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
    }
    reply = call(gateway.port, chat_body(MODEL), headers=extra)
    direct = call(simulator.port, chat_body("m"), key=PROVIDER_KEY)
    through, with_provider_key = simulator.requests()
    sent = dict(through["headers"])
    assert sent["user-agent"] == "my-app/1"
    assert (sent["openai-organization"], sent["openai-project"]) == ("org-1", "proj-1")
    assert sent["accept-encoding"] == "identity"
    assert through["authorization"] == with_provider_key["authorization"]
    for name in ("cookie", "x-api-key", "x-forwarded-for", "x-real-ip", "forwarded", "x-hop"):
        assert name not in sent, name
    assert not [name for name in sent if name.startswith("x-modelux")]
    assert reply.header("x-request-id") == f"req_{through['id']}"
    assert direct.header("set-cookie")
    for name in ("set-cookie", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"):
        assert reply.header(name) is None, name


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["mlx_sk_unknown_0123456789abcdefghi", "nonsense", PROVIDER_KEY]
)
def test_an_unknown_key_is_an_authentication_error(
    gateway: Gateway, simulator: Simulator, key: str
) -> None:
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert simulator.requests() == []


def test_an_unknown_slug_is_not_found(client: openai.OpenAI, simulator: Simulator) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="@produktion", messages=HELLO)
    assert caught.value.code == "routing_config_not_found"
    assert caught.value.response.headers["x-modelux-request-id"]
    assert simulator.requests() == []


def test_an_unknown_model_is_a_bad_request_that_names_the_field(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert simulator.requests() == []


def test_a_providers_own_refusal_keeps_its_status_and_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature is too hot"):
        client.chat.completions.create(
            model="sim/m?status=400;message=temperature is too hot", messages=HELLO
        )
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="sim/m?status=404", messages=HELLO)
    with pytest.raises(openai.ConflictError):
        client.chat.completions.create(model="sim/m?status=409", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="sim/m?status=422", messages=HELLO)


def test_a_providers_429_is_a_rate_limit_error_with_its_retry_after(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="sim/m?status=429;retry_after=3", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_failed_provider_is_an_internal_server_error_that_the_sdk_does_not_resend(
    gateway: Gateway, simulator: Simulator
) -> None:
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=2) as sdk,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        sdk.chat.completions.create(model="sim/m?status=500", messages=HELLO)
    assert caught.value.status_code == 502
    assert caught.value.code == "all_attempts_failed"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(simulator.requests()) == 1


def _ask_often(sdk: openai.OpenAI, count: int) -> None:
    for _ in range(count):
        sdk.chat.completions.create(model=MODEL, messages=HELLO)


def test_a_key_over_its_rate_is_a_rate_limit_error(
    gateway: Gateway, simulator: Simulator
) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=LIMITED_KEY, max_retries=0) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        assert raw.headers["x-ratelimit-limit-requests"] == "60"
        assert int(raw.headers["x-ratelimit-remaining-requests"]) < 60
        # 60 a minute with a burst of 10: a second's wait earns one more.
        with pytest.raises(openai.RateLimitError) as caught:
            _ask_often(sdk, 200)
    assert caught.value.code == "rate_limited"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert simulator.requests()


def test_a_slow_provider_is_a_timeout_error_on_the_callers_side(
    gateway: Gateway, simulator: Simulator
) -> None:
    with (
        openai.OpenAI(
            base_url=gateway.base_url, api_key=KEY, max_retries=0, timeout=0.3
        ) as sdk,
        pytest.raises(openai.APITimeoutError),
    ):
        sdk.chat.completions.create(model="sim/m?hang=head", messages=HELLO)
    assert simulator.wait_request(lambda each: each["disconnected"])


def test_an_error_event_in_a_stream_is_an_api_error(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="sim/m?cut=fin@3", messages=HELLO, stream=True
    )
    words: list[str | None] = []
    with pytest.raises(openai.APIError):
        words.extend(chunk.choices[0].delta.content for chunk in stream)


def test_a_gateway_that_is_not_there_is_a_connection_error(simulator: Simulator) -> None:
    assert simulator.child.alive()
    with (
        openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY, max_retries=0) as sdk,
        pytest.raises(openai.APIConnectionError),
    ):
        sdk.chat.completions.create(model=MODEL, messages=HELLO)


# --- traces --------------------------------------------------------------------------------


def test_the_trace_explains_a_failover(gateway: Gateway, simulator: Simulator) -> None:
    reply = call(gateway.port, chat_body("@production", user="u-1"))
    assert len(simulator.requests()) == 2
    trace = gateway.trace(f"req_{reply.request_id}")
    assert trace["id"] == reply.request_id
    assert (trace["route"], trace["route_version"], trace["status"]) == ("@production", 1, 200)
    assert (trace["project"], trace["end_user"]) == ("default", "u-1")
    assert (trace["provider"], trace["model"]) == ("sim", "gpt-4o-mini")
    first, second = trace["attempts"]
    assert (first["outcome"], first["status"]) == ("http_error", 500)
    assert (second["outcome"], second["status"]) == ("ok", 200)
    assert trace["decision"]["reason"]
    assert KEY not in json.dumps(trace)
    assert PROVIDER_KEY not in json.dumps(trace)


def test_a_refused_request_is_traced_too(gateway: Gateway, simulator: Simulator) -> None:
    reply = call(gateway.port, chat_body("@unheard-of"))
    trace = gateway.trace(reply.request_id)
    assert trace["status"] == 404
    assert trace["error"]["code"] == "routing_config_not_found"
    assert trace["attempts"] == []
    assert simulator.requests() == []


def test_a_kept_connection_serves_one_request_after_another(
    gateway: Gateway, simulator: Simulator
) -> None:
    with RawClient(gateway.port) as client:
        for number in range(5):
            client.send(post(chat_body(MODEL, max_tokens=number + 1)))
            assert client.read_reply().json()["usage"]["completion_tokens"] == number + 1
    assert len({each["connection"] for each in simulator.requests()}) == 1


# --- helpers of the SDK --------------------------------------------------------------------


def test_the_stream_helper_builds_the_whole_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="sim/gpt-4o-mini?tokens=5", messages=HELLO
    ) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert answer.choices[0].message.content == " the river kept its own"


def test_a_streamed_raw_response_has_our_headers(client: openai.OpenAI) -> None:
    create = client.chat.completions.with_streaming_response.create
    with create(model=MODEL, messages=HELLO, logprobs=True, seed=7) as raw:
        assert raw.headers["x-modelux-request-id"]
        assert json.loads(raw.read())["choices"]


def test_a_cancelled_task_cancels_its_provider(gateway: Gateway, simulator: Simulator) -> None:
    async def cancel_after_a_word() -> None:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=KEY) as sdk:
            seen = asyncio.Event()

            async def read() -> None:
                model = "sim/leaver?tokens=100000;token_ms=5"
                stream = await sdk.chat.completions.create(
                    model=model, messages=HELLO, stream=True
                )
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        seen.set()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(read())
                await seen.wait()
                task.cancel()

    asyncio.run(cancel_after_a_word())
    assert simulator.wait_request(lambda each: each["disconnected"], model="leaver")
