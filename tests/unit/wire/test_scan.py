"""What a body says and how it is changed, against Python's JSON reader as the oracle."""

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux import _native
from modelux.limits import (
    IDENTIFIER_BYTES_MAX,
    JSON_DEPTH_MAX,
    TAG_KEY_BYTES_MAX,
    TAG_VALUE_BYTES_MAX,
    TAGS_COUNT_MAX,
)
from tests import corpus
from tests.unit.wire.strict_json import Members, Number, Value, depth, is_readable, parse

SHAPES: Final = ("chat", "completions", "embeddings")


SINGLE: Final = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "metadata",
    "user",
    "safety_identifier",
)
STRINGS: Final = ("user", "safety_identifier", "mlx:end_user")


def repeated(members: Members, *keys: str) -> bool:
    return any(len(members.all(key)) > 1 for key in keys)


def faults(body: Value) -> set[str]:
    """Every code that a body of valid JSON deserves, in no order."""
    if not isinstance(body, Members):
        return {"invalid_json"}
    found = set()
    ours = {key for key, _ in body.pairs if key.startswith("mlx:")}
    if repeated(body, *SINGLE, *ours):
        found.add("duplicate_key")
    if not all(is_readable(key) for key in ours):
        found.add("invalid_json")
    if body.get("model") is None:
        found.add("missing_field")
    for key, value in body.pairs:
        match key, value:
            case _, None:
                pass
            case (("model" | "user" | "safety_identifier" | "mlx:end_user"), str()):
                found |= text_faults(value)
            case (("model" | "user" | "safety_identifier" | "mlx:end_user"), _):
                found.add("invalid_request")
            case (("stream" | "mlx:trace"), _) if not isinstance(value, bool):
                found.add("invalid_request")
            case (("n" | "best_of" | "max_tokens" | "max_completion_tokens"), _):
                if not isinstance(value, Number) or value.count() == -1:
                    found.add("invalid_request")
            case (("stream_options" | "metadata" | "mlx:cache"), _):
                found |= object_faults(key, value)
            case "mlx:tags", _:
                found |= tag_faults(value)
            case _:
                pass
    return found


def text_faults(text: str) -> set[str]:
    if not is_readable(text):
        return {"invalid_json"}
    return {"invalid_request"} if len(text.encode()) > IDENTIFIER_BYTES_MAX else set()


def object_faults(key: str, value: Value) -> set[str]:
    if not isinstance(value, Members):
        return {"invalid_request"}
    inner = {"stream_options": ("include_usage",), "mlx:cache": ("skip",)}.get(
        key, ("trace_id", "conversation_id")
    )
    found = {"duplicate_key"} if repeated(value, *inner) else set()
    for member in value.all(*inner):
        if key == "metadata" and isinstance(member, str):
            found |= text_faults(member)
        elif member is not None and not (key != "metadata" and isinstance(member, bool)):
            found.add("invalid_request")
    return found


def tag_faults(value: Value) -> set[str]:
    if not isinstance(value, Members):
        return {"invalid_tag"}
    found = set()
    if len(value.pairs) > TAGS_COUNT_MAX or repeated(value, *dict(value.pairs)):
        found.add("invalid_tag")
    for key, text in value.pairs:
        if not is_readable(key) or (isinstance(text, str) and not is_readable(text)):
            found.add("invalid_json")
        elif (
            not 1 <= len(key.encode()) <= TAG_KEY_BYTES_MAX
            or not isinstance(text, str)
            or len(text.encode()) > TAG_VALUE_BYTES_MAX
        ):
            found.add("invalid_tag")
    return found


def expected(body: Members) -> dict[str, object]:
    """The facts of a body without faults, but for sizes."""
    options = body.get("stream_options")
    metadata = body.get("metadata")
    cache = body.get("mlx:cache")
    tags = body.get("mlx:tags")
    response_formats = body.all("response_format")
    messages = [
        message
        for messages in body.all("messages")
        if isinstance(messages, list)
        for message in messages
    ]
    limits = [
        limit
        for key in ("max_tokens", "max_completion_tokens")
        if isinstance(limit := count(body.get(key)), int)
    ]
    return {
        "model": body.get("model"),
        "stream": body.get("stream") is True,
        "include_usage": options.get("include_usage") if isinstance(options, Members) else None,
        "max_output_tokens": max(limits, default=None),
        "n": count(body.get("n")),
        "best_of": count(body.get("best_of")),
        "has_tools": any(
            isinstance(tools, list) and len(tools) > 0
            for tools in body.all("tools", "functions")
        ),
        "has_images": any(is_image(part) for part in parts(messages)),
        "json_schema": any(
            "json_schema" in form.all("type")
            for form in response_formats
            if isinstance(form, Members)
        ),
        "messages": len(messages),
        "end_user": body.get("mlx:end_user")
        or body.get("safety_identifier")
        or body.get("user")
        or None,
        "tags": list(tags.pairs) if isinstance(tags, Members) else [],
        "trace_id": (metadata.get("trace_id") or None)
        if isinstance(metadata, Members)
        else None,
        "conversation_id": (metadata.get("conversation_id") or None)
        if isinstance(metadata, Members)
        else None,
        "mlx_trace": body.get("mlx:trace") is True,
        "cache_skip": isinstance(cache, Members) and cache.get("skip") is True,
    }


def count(value: Value) -> int | None:
    return value.count() if isinstance(value, Number) else None


def parts(messages: list[Value]) -> list[Members]:
    return [
        part
        for message in messages
        if isinstance(message, Members)
        for content in message.all("content")
        if isinstance(content, list)
        for part in content
        if isinstance(part, Members)
    ]


def is_image(part: Members) -> bool:
    return "image_url" in part.all("type") or bool(part.all("image_url"))


def patched(body: Members, model: str | None, *, include_usage: bool) -> Members:
    """What a body means once it is patched; an added member comes first."""
    pairs: list[tuple[str, Value]] = []
    for key, value in body.pairs:
        if key.startswith("mlx:"):
            continue
        if key == "model" and model is not None:
            pairs.append((key, model))
        elif key == "stream_options" and include_usage and body.get("stream") is True:
            pairs.append((key, asking_for_usage(value)))
        else:
            pairs.append((key, value))
    is_added = include_usage and body.get("stream") is True and not body.all("stream_options")
    added: list[tuple[str, Value]] = [("stream_options", asking_for_usage(None))]
    return Members(tuple((added if is_added else []) + pairs))


def asking_for_usage(options: Value) -> Members:
    if not isinstance(options, Members):
        return Members((("include_usage", True),))
    if not options.all("include_usage"):
        return Members((("include_usage", True), *options.pairs))
    return Members(tuple((k, True if k == "include_usage" else v) for k, v in options.pairs))


# --- bodies ----------------------------------------------------------------------------------

SPACES: Final = st.sampled_from(["", "", "", " ", "\n", "\t\r\n  "])
TEXTS: Final = st.one_of(
    st.sampled_from(["", "gpt-4o", "json_schema", "image_url", "data:a", "é", "😀", '"\\/\n']),
    st.text(max_size=12),
    st.sampled_from(["x" * IDENTIFIER_BYTES_MAX, "x" * (IDENTIFIER_BYTES_MAX + 1), "\ud800"]),
)
NUMBERS: Final = st.sampled_from(
    ["0", "-0", "1", "-1", "16", "1.0", "1e2", "1E-400", "1e999", "18446744073709551615"]
    + ["18446744073709551616", "9" * 5000]
)
OUR_KEYS: Final = ("mlx:end_user", "mlx:tags", "mlx:cache", "mlx:trace", "mlx:", "mlx:x\ud800")
KEYS: Final = st.one_of(
    st.sampled_from(SINGLE),
    st.sampled_from(OUR_KEYS),
    st.sampled_from(["messages", "tools", "functions", "response_format", "Model", "model "]),
    st.text(max_size=4),
)


@st.composite
def quoted(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> str:
    """One spelling of a string: plain, ASCII only, or every character escaped."""
    text = draw(texts)
    match draw(st.integers(0, 2)):
        case 0 if is_readable(text):
            return json.dumps(text, ensure_ascii=False)
        case 1:
            units = text.encode("utf-16-be", "surrogatepass")
            pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
            return '"' + "".join(f"\\u{pair}" for pair in pairs) + '"'
        case _:
            return json.dumps(text)


@st.composite
def members(
    draw: st.DrawFn, values: st.SearchStrategy[str], keys: st.SearchStrategy[str] = KEYS
) -> str:
    """One spelling of an object."""
    rows = draw(st.lists(st.tuples(quoted(keys), values, SPACES, SPACES), max_size=6))
    texts = [f"{before}{key}{after}:{value}{after}" for key, value, before, after in rows]
    return "{" + draw(SPACES) + ",".join(texts) + "}"


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(values, max_size=4), SPACES).map(
        lambda drawn: "[" + drawn[1] + ("," + drawn[1]).join(drawn[0]) + "]"
    )


SCALARS: Final = st.one_of(st.sampled_from(["null", "true", "false"]), NUMBERS, quoted())
VALUES: Final = st.recursive(
    SCALARS, lambda inner: st.one_of(arrays(inner), members(inner)), max_leaves=6
)
PARTS: Final = members(
    st.one_of(quoted(), members(quoted(), st.sampled_from(["url", "data", "file_data"]))),
    st.sampled_from(["type", "image_url", "input_audio", "file", "text"]),
)
NAMES: Final = quoted(st.sampled_from(["", "gpt-4o", "json_schema", "image_url", 'é😀"', "\0"]))
COUNTS: Final = st.sampled_from(["0", "1", "16", "18446744073709551615", "-1", "null"])
FITTING: Final = {
    "model": NAMES,
    "stream": st.sampled_from(["true", "true", "false", "null"]),
    "stream_options": st.one_of(
        st.just("null"),
        members(
            st.sampled_from(["true", "false", "null"]), st.sampled_from(["include_usage", "x"])
        ),
    ),
    "metadata": members(NAMES, st.sampled_from(["trace_id", "conversation_id", "x"])),
    "mlx:tags": members(NAMES, st.sampled_from(["team", "env", "", "k" * 64, "k" * 65])),
    "mlx:cache": members(st.sampled_from(["true", "false"]), st.sampled_from(["skip", "x"])),
    "mlx:end_user": NAMES,
    "mlx:trace": st.sampled_from(["true", "false"]),
    "user": NAMES,
    "safety_identifier": NAMES,
    "n": COUNTS,
    "max_tokens": COUNTS,
    "max_completion_tokens": COUNTS,
    "response_format": members(NAMES, st.just("type")),
    "messages": arrays(members(st.one_of(NAMES, arrays(PARTS)), st.just("content"))),
    "tools": arrays(SCALARS),
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body: mostly of keys that we read with values that fit, each key mostly once."""
    names = draw(
        st.lists(st.one_of(st.sampled_from([*FITTING]), KEYS), max_size=7, unique=True)
    )
    if draw(st.integers(0, 9)):
        names.insert(draw(st.integers(0, len(names))), "model")
    rows = []
    for name in names:
        fits = name in FITTING and draw(st.integers(0, 9))
        value = draw(FITTING[name] if fits else VALUES)
        space = draw(SPACES)
        key = draw(quoted(st.just(name)))
        rows.append(f"{space}{key}{space}:{space}{value}{space}")
    space = draw(SPACES)
    text = f"{space}{{{space}{','.join(rows)}}}{space}"
    return text.encode()


def verdict(body: bytes, shape: str = "chat") -> str | _native.Facts:
    """The facts, or the code of the refusal."""
    try:
        return _native.scan(body, shape)
    except _native.ScanError as fault:
        code: str = fault.args[0]
        return code


def check(body: bytes, shape: str = "chat") -> None:
    """Compare with the oracle whatever the body is."""
    found = verdict(body, shape)
    try:
        value = parse(body)
    except ValueError:
        # Something before the place where the JSON breaks may be refused first.
        assert isinstance(found, str), body
        return
    if depth(value) > JSON_DEPTH_MAX:
        assert isinstance(found, str), body
        return
    codes = faults(value)
    if codes:
        assert found in codes, (found, codes, body)
        return
    assert isinstance(value, Members)
    assert isinstance(found, _native.Facts), (found, body)
    facts = expected(value)
    if shape != "chat":
        facts |= {"messages": 0, "has_images": False}
    assert {name: getattr(found, name) for name in facts} == facts
    assert found.text_bytes + found.media_bytes == len(body)
    for model, include_usage in ((None, False), ('a"\\\n\u00e9/b', True), ("m", False)):
        after = _native.patch(body, model, include_usage=include_usage)
        assert parse(after) == patched(value, model, include_usage=include_usage), after


@given(body=bodies())
def test_a_body_says_what_another_reader_reads_in_it(body: bytes) -> None:
    check(body)


@given(
    body=bodies(),
    at=st.floats(0, 1),
    cut=st.integers(0, 3),
    put=st.sampled_from(
        [
            b"",
            b",",
            b"}",
            b"{",
            b'"',
            b"\\",
            b":",
            b"\x00",
            b"\xff",
            b"\xed\xa0\x80",
            b"0",
            b"-",
        ]
        + [b"e", b".", b"[", b"]", b"\xef\xbb\xbf", b" ", b"NaN", b"\\u12", b"null", b"\x7f"]
    ),
)
def test_a_damaged_body_is_refused_or_read_as_another_reader_reads_it(
    body: bytes, at: float, cut: int, put: bytes
) -> None:
    """Method: some bytes are replaced anywhere in a good body."""
    start = int(at * len(body))
    check(body[:start] + put + body[start + cut :])


@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    check(body)


@pytest.mark.parametrize("shape", SHAPES)
def test_recorded_bodies_are_read_and_patched(shape: str) -> None:
    bodies = [e.request for e in corpus.openai_exchanges(shape) if e.request is not None]
    assert len(bodies) >= 5
    read = 0
    for body in bodies:
        check(body, shape)
        check(json.dumps(json.loads(body), indent=2).encode(), shape)
        read += isinstance(verdict(body, shape), _native.Facts)
    # A few recordings ask for nothing valid, on purpose.
    assert read >= 0.95 * len(bodies), (read, len(bodies))


def test_a_body_without_anything_of_ours_is_not_changed() -> None:
    for exchange in corpus.openai_exchanges("chat", "completions", "embeddings"):
        body = exchange.request
        if body is None or isinstance(verdict(body), str):
            continue
        assert _native.patch(body) == body
        facts = _native.scan(body, "chat")
        assert _native.patch(body, facts.model) == body


# --- cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ('{"mlx:a":1,"model":"m"}', '{"model":"m"}'),
        ('{"model":"m","mlx:a":1}', '{"model":"m"}'),
        ('{ "mlx:a" : 1 , "model" : "m" }', '{ "model" : "m" }'),
        ('{ "model" : "m" , "mlx:a" : 1 }', '{ "model" : "m" }'),
        ('{"a":1,"mlx:a":{"x":[1,2]},"model":"m"}', '{"a":1,"model":"m"}'),
        ('{"mlx:a":1,"mlx:b":2,"model":"m","mlx:c":3,"mlx:d":4}', '{"model":"m"}'),
        ('{"a":1, "mlx:a":1, "mlx:b":2, "model":"m"}', '{"a":1, "model":"m"}'),
        ('{"model":"m",\n  "mlx:a":1,\n  "z":2\n}', '{"model":"m",\n  "z":2\n}'),
        ('{"m\\u006cx:a":1,"model":"m"}', '{"model":"m"}'),
        ('{"model":"m","x":{"mlx:a":1}}', '{"model":"m","x":{"mlx:a":1}}'),
        ('{"model":"m","MLX:a":1,"mlx":2}', '{"model":"m","MLX:a":1,"mlx":2}'),
    ],
)
def test_members_of_ours_are_cut_with_their_comma_and_nothing_else(
    body: str, after: str
) -> None:
    assert _native.patch(body.encode()).decode() == after


@pytest.mark.parametrize(
    ("options", "after"),
    [
        ("{}", '{"include_usage":true}'),
        ("{ }", '{"include_usage":true }'),
        ("null", '{"include_usage":true}'),
        ('{"include_usage":false}', '{"include_usage":true}'),
        ('{"include_usage" : null}', '{"include_usage" : true}'),
        ('{"include_usage":true}', '{"include_usage":true}'),
        ('{"x":1}', '{"include_usage":true,"x":1}'),
        ('{"x":1, "include_usage":false }', '{"x":1, "include_usage":true }'),
    ],
)
def test_usage_is_asked_for_in_whatever_options_there_are(options: str, after: str) -> None:
    body = b'{"model":"m","stream":true,"stream_options":%s}'
    before = body % options.encode()
    assert _native.patch(before, include_usage=True) == body % after.encode()


def test_usage_is_asked_for_where_there_are_no_options() -> None:
    assert _native.patch(b' {"model":"m","stream":true} ', include_usage=True) == (
        b' {"stream_options":{"include_usage":true},"model":"m","stream":true} '
    )


@pytest.mark.parametrize("stream", ['"stream":false,', '"stream":null,', ""])
def test_usage_is_not_asked_for_without_a_stream(stream: str) -> None:
    body = f'{{{stream}"model":"m"}}'.encode()
    assert _native.patch(body, include_usage=True) == body


def test_the_model_is_replaced_where_it_stands() -> None:
    body = b'{"a":"\\u006d","mod\\u0065l" : "\\u0040fast" ,"n":1.0e0}'
    with pytest.raises(_native.ScanError):
        _native.patch(body)
    body = body.replace(b"1.0e0", b"1")
    assert _native.scan(body, "chat").model == "@fast"
    assert _native.patch(body, 'x"\\\n\u00e9') == (
        b'{"a":"\\u006d","mod\\u0065l" : "x\\"\\\\\\u000a\xc3\xa9" ,"n":1}'
    )


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ("", "invalid_json", None),
        ("  ", "invalid_json", None),
        ("[]", "invalid_json", None),
        ('"model"', "invalid_json", None),
        ("null", "invalid_json", None),
        ('\ufeff{"model":"m"}', "invalid_json", None),
        ('{"model":"m"}x', "invalid_json", None),
        ('{"model":"m"}{}', "invalid_json", None),
        ('{"model":"m","a":NaN}', "invalid_json", None),
        ('{"model":"m","a":-Infinity}', "invalid_json", None),
        ('{"model":"m","a":01}', "invalid_json", None),
        ('{"model":"m","a":1.}', "invalid_json", None),
        ('{"model":"m","a":+1}', "invalid_json", None),
        ('{"model":"m\ud800"}'.encode("utf-8", "surrogatepass"), "invalid_json", None),
        ('{"model":"\\ud800"}', "invalid_json", None),
        ('{"model":"m","user":"\\udc00x"}', "invalid_json", None),
        ('{"model":"m","a":"\t"}', "invalid_json", None),
        ("{}", "missing_field", "model"),
        ('{"model":null}', "missing_field", "model"),
        ('{"Model":"m"}', "missing_field", "model"),
        ('{"model":1}', "invalid_request", "model"),
        ('{"model":["m"]}', "invalid_request", "model"),
        ('{"model":"m","stream":"true"}', "invalid_request", "stream"),
        ('{"model":"m","stream":1}', "invalid_request", "stream"),
        ('{"model":"m","max_tokens":1.5}', "invalid_request", "max_tokens"),
        ('{"model":"m","n":"2"}', "invalid_request", "n"),
        ('{"model":"m","stream_options":[]}', "invalid_request", "stream_options"),
        ('{"model":"m","metadata":"x"}', "invalid_request", "metadata"),
        ('{"model":"m","user":5}', "invalid_request", "user"),
        ('{"model":"a","model":"b"}', "duplicate_key", "model"),
        ('{"model":"a","mod\\u0065l":"a"}', "duplicate_key", "model"),
        ('{"stream":true,"model":"a","stream":true}', "duplicate_key", "stream"),
        ('{"model":"a","mlx:x":1,"mlx:x":1}', "duplicate_key", "mlx:x"),
        ('{"model":"a","max_tokens":1,"max_tokens":1}', "duplicate_key", "max_tokens"),
        ('{"model":"a","mlx:tags":{"a":1}}', "invalid_tag", "mlx:tags"),
        ('{"model":"a","mlx:tags":{"":"1"}}', "invalid_tag", "mlx:tags"),
        ('{"model":"a","mlx:tags":{"a":"1","\\u0061":"1"}}', "invalid_tag", "mlx:tags"),
        ('{"model":"a","mlx:tags":[]}', "invalid_tag", "mlx:tags"),
    ],
)
def test_a_refusal_names_its_cause_and_the_key(
    body: str | bytes, code: str, param: str | None
) -> None:
    raw = body if isinstance(body, bytes) else body.encode("utf-8")
    with pytest.raises(_native.ScanError) as refused:
        _native.scan(raw, "chat")
    assert refused.value.args[:2] == (code, param)
    assert refused.value.args[2]


def test_a_key_may_be_repeated_inside_of_values_that_are_not_ours() -> None:
    body = b'{"model":"m","x":{"model":"a","model":"b"},"temperature":1,"temperature":1}'
    assert _native.scan(body, "chat").model == "m"


def test_numbers_beyond_any_machine_are_numbers() -> None:
    body = b'{"model":"m","x":[1e999,-1E+9999,' + b"9" * 5000 + b"]}"
    assert _native.scan(body, "chat").model == "m"


def test_nesting_is_counted_from_the_body_itself() -> None:
    def body(levels: int) -> bytes:
        inside = levels - 1
        return b'{"model":"m","x":' + b"[" * inside + b"]" * inside + b"}"

    assert _native.scan(body(JSON_DEPTH_MAX), "chat").model == "m"
    assert verdict(body(JSON_DEPTH_MAX + 1)) == "invalid_json"
    assert verdict(b'{"model":"m","x":' + b"[" * 1_000_000) == "invalid_json"


def test_tags_have_their_limits() -> None:
    def body(tags: dict[str, str]) -> bytes:
        return json.dumps({"model": "m", "mlx:tags": tags}).encode()

    many = {f"k{at}": "v" for at in range(TAGS_COUNT_MAX)}
    assert _native.scan(body(many), "chat").tags == list(many.items())
    assert verdict(body(many | {"more": "v"})) == "invalid_tag"
    assert verdict(body({"k" * (TAG_KEY_BYTES_MAX + 1): "v"})) == "invalid_tag"
    assert verdict(body({"k": "v" * (TAG_VALUE_BYTES_MAX + 1)})) == "invalid_tag"
    longest = {"k" * TAG_KEY_BYTES_MAX: "v" * TAG_VALUE_BYTES_MAX}
    assert _native.scan(body(longest), "chat").tags == list(longest.items())


def test_many_members_of_ours_are_cut_in_linear_time() -> None:
    ours = ",".join(f'"mlx:{at}":{at}' for at in range(200_000))
    body = f'{{{ours},"model":"m",{ours.replace("mlx:", "mlx:_")}}}'
    assert _native.patch(body.encode()) == b'{"model":"m"}'


def test_a_huge_key_is_only_a_key() -> None:
    body = b'{"' + b"\\u006d" * 300_000 + b'":1,"model":"m"}'
    assert _native.patch(body) == body


def test_base64_media_are_no_text() -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100}},
        {"type": "image_url", "image_url": {"url": "https://example.org/" + "b" * 50}},
        {"type": "input_audio", "input_audio": {"data": "C" * 70, "format": "wav"}},
        {"type": "file", "file": {"file_data": "D" * 30, "filename": "x.pdf"}},
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()
    facts = _native.scan(body, "chat")
    assert facts.media_bytes == len("data:image/png;base64,") + 100 + 70 + 30
    assert facts.text_bytes == len(body) - facts.media_bytes
    assert facts.has_images


@pytest.mark.parametrize(
    ("limits", "expected_limit", "key"),
    [
        ({"max_tokens": 5}, 5, "max_tokens"),
        ({"max_completion_tokens": 7}, 7, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7, "max_completion_tokens"),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9, "max_tokens"),
        ({"max_tokens": None}, None, None),
        ({"max_tokens": -1}, None, None),
        ({"max_tokens": 0}, 0, "max_tokens"),
    ],
)
def test_the_larger_of_two_output_limits_counts(
    limits: dict[str, int | None], expected_limit: int | None, key: str | None
) -> None:
    facts = _native.scan(json.dumps({"model": "m", **limits}).encode(), "chat")
    assert (facts.max_output_tokens, facts.limit_key) == (expected_limit, key)


@pytest.mark.parametrize(
    ("users", "end_user"),
    [
        ({"user": "a", "safety_identifier": "b", "mlx:end_user": "c"}, "c"),
        ({"user": "a", "safety_identifier": "b"}, "b"),
        ({"user": "a"}, "a"),
        ({"user": ""}, None),
        ({"user": "a", "mlx:end_user": None}, "a"),
        ({}, None),
    ],
)
def test_the_end_user_is_the_most_explicit_one(
    users: dict[str, str | None], end_user: str | None
) -> None:
    facts = _native.scan(json.dumps({"model": "m", **users}).encode(), "chat")
    assert facts.end_user == end_user
