"""What the end-to-end tests of routing share: answers read by the real SDK, told models."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import openai

from tests.e2e.harness import KEY, WAIT_S, Gateway, Json, Simulator

HELLO: Final[list[Any]] = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told, read by its SDK."""

    text: str
    headers: Mapping[str, str]

    @property
    def model(self) -> str:
        """Which model served."""
        return self.headers["x-modelux-model-used"]

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return int(self.headers["x-modelux-attempts"])

    @property
    def request_id(self) -> str:
        """The trace's key."""
        return self.headers["x-modelux-request-id"]


@contextlib.contextmanager
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """Open an unmodified client that sends nothing twice."""
    with openai.OpenAI(
        base_url=gateway.base_url, api_key=KEY, max_retries=0, timeout=WAIT_S
    ) as client:
        yield client


def ask(
    client: openai.OpenAI,
    model: str,
    *,
    stream: bool = False,
    tags: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,  # noqa: ANN401 - whatever the SDK takes.
) -> Told:
    """Ask for a chat answer and read all of it."""
    extra = dict(headers or {}) | ({"X-Modelux-User-Tags": tags} if tags else {})
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=more.pop("messages", HELLO),
        stream=stream,
        extra_headers=extra,
        **more,
    )
    answer: Any = raw.parse()
    if not stream:
        return Told(answer.choices[0].message.content or "", raw.headers)
    deltas = [chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices]
    return Told("".join(deltas), raw.headers)


@contextlib.contextmanager
def told(simulator: Simulator, settings: Mapping[str, str]) -> Iterator[None]:
    """Have the stand-in provider answer for models as told, for the length of the block."""
    for model, text in settings.items():
        simulator.tell(model, text)
    try:
        yield
    finally:
        for model in settings:
            simulator.tell(model, "")


def asked(simulator: Simulator) -> list[str]:
    """Return the models that were asked, in the order of their requests."""
    return [each["model"] for each in simulator.requests()]


def roles(trace: Json) -> list[tuple[str, str, str]]:
    """Return model, role and outcome of each attempt."""
    return [(each["model"], each["role"], each["outcome"]) for each in trace["attempts"]]


def price(models: Sequence[str], given: float, taken: float) -> str:
    """Return the tables of models of the provider `sim` that cost the same."""
    return "".join(
        f'[prices."sim/{model}"]\n'
        f"input_usd_per_mtok = {given}\noutput_usd_per_mtok = {taken}\n\n"
        for model in models
    )
