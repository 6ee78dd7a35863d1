"""Requests as attackers and careless clients write them, and what must come of each.

Data only: `test_http_conformance` sends them. A probe's bytes may hold more than one request;
`answers` says which statuses come back, in order, and nothing else may. After a probe that is
`kept` the connection serves another request, which shows that both sides agree where the bytes
of this one end; after any other the connection is closed.
"""

from dataclasses import dataclass, field
from typing import Final

from tests.e2e.harness import HOST, KEY

LEGIT: Final = "legit"
"""The model of a request that is meant; the provider may see it as often as `calls` says."""

SMUGGLED: Final = "smuggled"
"""The model of a request that hides in another one: the provider must never see it."""

BAD: Final = (400,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is sent, and what must come back."""

    name: str
    wire: bytes
    answers: tuple[int, ...] = BAD
    kept: bool = False
    calls: int = 0
    """How many requests reach the provider."""
    method: str = "POST"
    """Of the request whose answer is read; `HEAD` answers have no body."""
    code: str | None = None
    """`error.code` of the first answer."""
    fields: dict[str, str] = field(default_factory=dict)
    """Fields that the first answer must have."""


def body_for(model: str) -> bytes:
    """Return a small body for that model."""
    return b'{"model":"sim/%s?tokens=2","messages":[{"role":"user","content":"x"}]}' % (
        model.encode()
    )


BODY: Final = body_for(LEGIT)
CHAT: Final = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOSTED: Final = b"Host: %s\r\n" % HOST.encode()
KEYED: Final = b"Authorization: Bearer %s\r\n" % KEY.encode()
JSON: Final = b"Content-Type: application/json\r\n"
LENGTH: Final = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
END: Final = b"\r\n"


def chat(
    *lines: bytes,
    body: bytes = BODY,
    line: bytes = CHAT,
    host: bytes = HOSTED,
    framing: bytes | None = None,
) -> bytes:
    """Return a chat request with these lines in its head."""
    if framing is None:
        framing = b"Content-Length: %d\r\n" % len(body)
    return line + host + KEYED + JSON + b"".join(lines) + framing + END + body


def get(
    target: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1"
) -> bytes:
    """Return a request without a body, with a key."""
    head = b"%s %s %s\r\n" % (method, target, version)
    return head + HOSTED + KEYED + b"".join(lines) + END


SMUGGLE: Final = chat(body=body_for(SMUGGLED))
"""A whole request, to be hidden in or behind another."""


def refused(name: str, wire: bytes, **more: object) -> Probe:
    """Return a probe whose bytes are refused with one 400, whatever follows them."""
    return Probe(name=name, wire=wire + SMUGGLE, **more)  # type: ignore[arg-type]


def served(name: str, wire: bytes, *, calls: int = 1, **more: object) -> Probe:
    """Return a probe that is served, on a connection that goes on."""
    return Probe(name=name, wire=wire, answers=(200,) * calls, kept=True, calls=calls, **more)  # type: ignore[arg-type]


def found(name: str, wire: bytes, status: int, **more: object) -> Probe:
    """Return a probe that is understood and answered without a provider."""
    return Probe(name=name, wire=wire, answers=(status,), kept=True, **more)  # type: ignore[arg-type]


def _start_lines() -> list[Probe]:
    lines = {
        "lf only": b"POST /v1/chat/completions HTTP/1.1\n",
        "cr only": b"POST /v1/chat/completions HTTP/1.1\r",
        "two spaces before the target": b"POST  /v1/chat/completions HTTP/1.1\r\n",
        "two spaces before the version": b"POST /v1/chat/completions  HTTP/1.1\r\n",
        "a tab before the target": b"POST\t/v1/chat/completions HTTP/1.1\r\n",
        "a tab before the version": b"POST /v1/chat/completions\tHTTP/1.1\r\n",
        "a vertical tab": b"POST\x0b/v1/chat/completions HTTP/1.1\r\n",
        "a space first": b" POST /v1/chat/completions HTTP/1.1\r\n",
        "a space last": b"POST /v1/chat/completions HTTP/1.1 \r\n",
        "something after the version": b"POST /v1/chat/completions HTTP/1.1 x\r\n",
        "no version": b"POST /v1/chat/completions\r\n",
        "no target": b"POST HTTP/1.1\r\n",
        "an empty target": b"POST  HTTP/1.1\r\n",
        "http 0.9": b"GET /healthz\r\n",
        "http 2.0": b"POST /v1/chat/completions HTTP/2.0\r\n",
        "http 2": b"POST /v1/chat/completions HTTP/2\r\n",
        "http 1": b"POST /v1/chat/completions HTTP/1\r\n",
        "http 1.": b"POST /v1/chat/completions HTTP/1.\r\n",
        "http 1.2": b"POST /v1/chat/completions HTTP/1.2\r\n",
        "http 01.1": b"POST /v1/chat/completions HTTP/01.1\r\n",
        "http 1.01": b"POST /v1/chat/completions HTTP/1.01\r\n",
        "http 1 . 1": b"POST /v1/chat/completions HTTP/1 .1\r\n",
        "http 11": b"POST /v1/chat/completions HTTP/11\r\n",
        "http in lower case": b"POST /v1/chat/completions http/1.1\r\n",
        "https as the protocol": b"POST /v1/chat/completions HTTPS/1.1\r\n",
        "a method that is no token": b"PO(T /v1/chat/completions HTTP/1.1\r\n",
        "a method with a nul": b"PO\0ST /v1/chat/completions HTTP/1.1\r\n",
        "a method of a kilobyte": b"P" * 1024 + b" /v1/chat/completions HTTP/1.1\r\n",
        "an empty method": b" /v1/chat/completions HTTP/1.1\r\n",
        "a nul in the target": b"POST /v1/chat\0/completions HTTP/1.1\r\n",
        "a raw utf-8 target": "POST /v1/chat/compl\u00e9tions HTTP/1.1\r\n".encode(),
        "a space in the target": b"POST /v1/chat/comp letions HTTP/1.1\r\n",
        "a delete in the target": b"POST /v1/chat/completions\x7f HTTP/1.1\r\n",
        "a fragment": b"POST /v1/chat/completions#x HTTP/1.1\r\n",
        "a relative target": b"POST v1/chat/completions HTTP/1.1\r\n",
        "a backslash for a slash": b"POST \\v1\\chat\\completions HTTP/1.1\r\n",
        "the url of another host": b"POST http://b.example/v1/chat/completions HTTP/1.1\r\n",
        "a url with a user": b"POST http://u@127.0.0.1/v1/chat/completions HTTP/1.1\r\n",
        "a url without a host": b"POST http:///v1/chat/completions HTTP/1.1\r\n",
        "a url of another scheme": b"POST ftp://127.0.0.1/v1/chat/completions HTTP/1.1\r\n",
        "an authority": b"POST 127.0.0.1:80 HTTP/1.1\r\n",
        "connect to an authority": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n",
        "connect to a path": b"CONNECT /v1/chat/completions HTTP/1.1\r\n",
        "an asterisk with post": b"POST * HTTP/1.1\r\n",
        "an asterisk with get": b"GET * HTTP/1.1\r\n",
        "two empty lines first": b"\r\n\r\n" + CHAT,
        "a bare lf first": b"\n" + CHAT,
        "a line of white space first": b"  \r\n" + CHAT,
        "a field before the request line": b"X: y\r\n" + CHAT,
        "a byte order mark": b"\xef\xbb\xbf" + CHAT,
    }
    probes = [refused(f"request line: {name}", chat(line=line)) for name, line in lines.items()]
    probes += [
        refused("request line: the preface of http/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        refused(
            "request line: a tls hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n"
        ),
        refused("request line: garbage", bytes(range(256))),
        refused("request line: an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]
    return probes


def _hosts() -> list[Probe]:
    hosts = {
        "missing": b"",
        "empty": b"Host: \r\n",
        "twice": HOSTED + b"Host: other.example\r\n",
        "twice the same": HOSTED + HOSTED,
        "a list": b"Host: 127.0.0.1, other.example\r\n",
        "with a user": b"Host: user@127.0.0.1\r\n",
        "with a path": b"Host: 127.0.0.1/admin\r\n",
        "with a scheme": b"Host: http://127.0.0.1\r\n",
        "with an empty port": b"Host: 127.0.0.1:\r\n",
        "with a port of letters": b"Host: 127.0.0.1:http\r\n",
        "with a port beyond 65535": b"Host: 127.0.0.1:65536\r\n",
        "with a negative port": b"Host: 127.0.0.1:-1\r\n",
        "with a space": b"Host: 127.0.0.1 other\r\n",
        "with a tab": b"Host: 127.0.0.1\tother\r\n",
        "with a query": b"Host: 127.0.0.1?x\r\n",
        "with a fragment": b"Host: 127.0.0.1#x\r\n",
        "with a percent sign": b"Host: 127.0.0.1%0d%0a\r\n",
        "with a backslash": b"Host: 127.0.0.1\\other\r\n",
        "with a broken ipv6 address": b"Host: [::1\r\n",
        "with raw bytes": b"Host: \xff\xfe\r\n",
        "folded": b"Host:\r\n 127.0.0.1\r\n",
        "with a space before the colon": b"Host : 127.0.0.1\r\n",
    }
    return [refused(f"host: {name}", chat(host=host)) for name, host in hosts.items()] + [
        served("host: with a port", chat(host=b"Host: localhost:8080\r\n")),
        served("host: an ipv6 address", chat(host=b"Host: [::1]:8080\r\n")),
        served("host: in capitals, without a space", chat(host=b"HOST:127.0.0.1\r\n")),
    ]


def _fields() -> list[Probe]:
    lines = {
        "folded with a space": b"X-A: b\r\n c\r\n",
        "folded with a tab": b"X-A: b\r\n\tc\r\n",
        "folded framing": b"Transfer-Encoding:\r\n chunked\r\n",
        "a space before the colon": b"X-A : b\r\n",
        "a tab before the colon": b"X-A\t: b\r\n",
        "a space before the name": b" X-A: b\r\n",
        "no colon": b"X-A\r\n",
        "an empty name": b": b\r\n",
        "a space in the name": b"X A: b\r\n",
        "a nul in the name": b"X\0A: b\r\n",
        "a raw byte in the name": b"X-\xe9: b\r\n",
        "a parenthesis in the name": b"X(A): b\r\n",
        "a nul in the value": b"X-A: b\0c\r\n",
        "a bare cr in the value": b"X-A: b\rc\r\n",
        "a bare cr at the end": b"X-A: b\r\r\n",
        "a bare lf at the end": b"X-A: b\n",
        "a bare lf in the value": b"X-A: b\nTransfer-Encoding: chunked\r\n",
        "a bell in the value": b"X-A: b\x07\r\n",
        "a delete in the value": b"X-A: b\x7f\r\n",
        "an escape in the value": b"X-A: \x1b[31m\r\n",
        "a line of a space": b" \r\n",
    }
    return [refused(f"field: {name}", chat(line)) for name, line in lines.items()] + [
        served("field: an empty value", chat(b"X-A:\r\n")),
        served("field: a raw byte in the value", chat(b"X-A: \xe9\xff\r\n")),
        served("field: a tab in the value", chat(b"X-A: \t b\tc \t\r\n")),
        served("field: every byte of a token", chat(b"X!#$%&'*+-.^_`|~: y\r\n")),
        refused("field: an end of bare lfs", chat().replace(b"\r\n", b"\n")),
        refused("field: an end of bare crs", chat().replace(b"\r\n", b"\r") + b"\n\n"),
    ]


def _lengths() -> list[Probe]:
    size = len(BODY)
    values = {
        "negative": b"-1",
        "with a plus": b"+%d" % size,
        "minus zero": b"-0",
        "hexadecimal": b"0x%x" % size,
        "with letters": b"%da" % size,
        "with an underscore": b"%d_%d" % divmod(size, 10),
        "with a space inside": b"%d %d" % divmod(size, 10),
        "with a decimal point": b"%d.0" % size,
        "with an exponent": b"1e2",
        "empty": b"",
        "a list of the same": b"%d, %d" % (size, size),
        "a list of two": b"0, %d" % size,
        "a list with nothing in it": b",%d" % size,
        "in quotes": b'"%d"' % size,
        "beyond 64 bits": b"18446744073709551616",
        "that wraps to the size": b"%d" % (2**64 + size),
        "of a thousand digits": b"9" * 1000,
        "in arabic digits": "\u0661\u0662".encode(),
        "with a semicolon": b"%d;x" % size,
        "behind a vertical tab": b"\x0b%d" % size,
    }
    probes = [
        refused(f"length: {name}", chat(framing=b"Content-Length: %s\r\n" % value))
        for name, value in values.items()
    ]
    twice = {
        "twice, differing": b"Content-Length: 0\r\n" + LENGTH,
        "twice, the same": LENGTH + LENGTH,
        "twice, in other letters": LENGTH + b"content-length: 0\r\n",
        "with a space before the colon": b"Content-Length : %d\r\n" % size,
    }
    probes += [
        refused(f"length: {name}", chat(framing=framing)) for name, framing in twice.items()
    ]
    return [
        *probes,
        served(
            "length: with blanks around it", chat(framing=b"Content-Length: \t%d \t\r\n" % size)
        ),
        found(
            "length: none with post is an empty body",
            chat(framing=b"", body=b""),
            400,
            code="invalid_json",
        ),
        found("length: 0 with post", chat(body=b""), 400, code="invalid_json"),
        # An underscore is a name of its own, with no say over the framing.
        served("length: with an underscore is not one", chat(b"Content_Length: 3\r\n")),
        Probe(
            name="length: too small leaves the rest to be refused",
            wire=chat(framing=b"Content-Length: %d\r\n" % (size - 4)),
            answers=(400, 400),
        ),
    ]


def _codings() -> list[Probe]:
    both = {
        "with a length": CHUNKED + LENGTH,
        "with a length first": LENGTH + CHUNKED,
        "with a length of 0": CHUNKED + b"Content-Length: 0\r\n",
        "in other letters with a length": LENGTH + b"tRANSFER-eNCODING: chunked\r\n",
        "that is unknown, with a length": LENGTH + b"Transfer-Encoding: xchunked\r\n",
        "that is empty, with a length": LENGTH + b"Transfer-Encoding:\r\n",
    }
    values = {
        "xchunked": b"xchunked",
        "chunkedx": b"chunkedx",
        "chunked in quotes": b'"chunked"',
        "a list that ends in identity": b"chunked, identity",
        "a list that begins with identity": b"identity, chunked",
        "gzip first": b"gzip, chunked",
        "gzip last": b"chunked, gzip",
        "gzip": b"gzip",
        "identity": b"identity",
        "chunked twice in a list": b"chunked, chunked",
        "a comma first": b", chunked",
        "a comma last": b"chunked,",
        "a parameter": b"chunked;q=1",
        "a semicolon": b"chunked;",
        "a vertical tab first": b"\x0bchunked",
        "a vertical tab last": b"chunked\x0b",
        "a form feed": b"\x0cchunked",
        "a nul": b"chunked\0",
        "a byte of 0xff": b"chunked\xff",
        "a no-break space": b"\xa0chunked",
        "empty": b"",
        "two words": b"chunked chunked",
        "a hyphen": b"chunk-ed",
    }
    probes = [
        refused(f"coding: {name}", chat(framing=framing, body=CHUNKS))
        for name, framing in both.items()
    ]
    probes += [
        refused(
            f"coding: {name}", chat(framing=b"Transfer-Encoding: %s\r\n" % value, body=CHUNKS)
        )
        for name, value in values.items()
    ]
    spelt = {
        "twice": CHUNKED + CHUNKED,
        "twice, identity first": b"Transfer-Encoding: identity\r\n" + CHUNKED,
        "twice, identity last": CHUNKED + b"Transfer-Encoding: identity\r\n",
        "with a space before the colon": b"Transfer-Encoding : chunked\r\n",
        "with a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
        "behind a space": b" Transfer-Encoding: chunked\r\n",
        "behind a bare cr": b"X: y\rTransfer-Encoding: chunked\r\n",
        "with a nul in its name": b"Transfer-Encoding\0: chunked\r\n",
        "with a folded value": b"Transfer-Encoding: chunked\r\n , identity\r\n",
    }
    probes += [
        refused(f"coding: {name}", chat(framing=framing, body=CHUNKS))
        for name, framing in spelt.items()
    ]
    old = CHAT.replace(b"1.1", b"1.0")
    return [
        *probes,
        refused("coding: in http/1.0", chat(line=old, framing=CHUNKED, body=CHUNKS)),
        refused(
            "coding: in http/1.0 that keeps alive",
            chat(b"Connection: keep-alive\r\n", line=old, framing=CHUNKED, body=CHUNKS),
        ),
        served("coding: chunked", chat(framing=CHUNKED, body=CHUNKS)),
        served(
            "coding: in other letters",
            chat(framing=b"TRANSFER-ENCODING: Chunked \r\n", body=CHUNKS),
        ),
        served(
            "coding: named by connection all the same",
            chat(b"Connection: Transfer-Encoding\r\n", framing=CHUNKED, body=CHUNKS),
        ),
        # The same bytes as two requests would be, were the underscore read as a hyphen.
        served(
            "coding: with an underscore is not one", chat(b"Transfer_Encoding: chunked\r\n")
        ),
    ]


def _chunks() -> list[Probe]:
    size = b"%x" % len(BODY)
    data = BODY + b"\r\n"
    last = b"0\r\n\r\n"
    broken = {
        "a size with 0x": b"0x" + size + b"\r\n" + data + last,
        "a size with a plus": b"+" + size + b"\r\n" + data + last,
        "a negative size": b"-1\r\n" + data + last,
        "a size with an underscore": size[:1] + b"_" + size[1:] + b"\r\n" + data + last,
        "a space before a size": b" " + size + b"\r\n" + data + last,
        "a space after a size": size + b" \r\n" + data + last,
        "a tab after a size": size + b"\t\r\n" + data + last,
        "an empty size": b"\r\n" + data + last,
        "a size that is none": b"zz\r\n" + data + last,
        "a size of 17 digits": b"0" * 17 + size + b"\r\n" + data + last,
        "a size that overflows": b"fffffffffffffffff\r\n" + data + last,
        "a size line that ends in lf": size + b"\n" + data + last,
        "a size line that ends in cr": size + b"\r" + data + last,
        "a size line with a bare cr": size + b"\r\r\n" + data + last,
        "data that ends in lf": size + b"\r\n" + BODY + b"\n" + last,
        "data that ends in nothing": size + b"\r\n" + BODY + last,
        "data that is longer than its size": size + b"\r\n" + BODY + b"x\r\n" + last,
        "data that ends in two other bytes": size + b"\r\n" + BODY + b"XX" + last,
        "an extension with a lf": size + b";a\n" + data + last,
        "an extension with a cr": size + b";a\rb\r\n" + data + last,
        "an extension with a nul": size + b";a\0\r\n" + data + last,
        "an empty extension": size + b";\r\n" + data + last,
        "an extension without a name": size + b";=b\r\n" + data + last,
        "an extension of 64 kib": size + b";a=" + b"x" * 65536 + b"\r\n" + data + last,
        "an end with lf": size + b"\r\n" + data + b"0\n\n",
        "an end with lf behind crlf": size + b"\r\n" + data + b"0\r\n\n",
        "an end of several zeros that is too long": size + b"\r\n" + data + b"0" * 18 + b"\r\n",
        "a trailer without a colon": size + b"\r\n" + data + b"0\r\nX\r\n\r\n",
        "a trailer with a space before its colon": size
        + b"\r\n"
        + data
        + b"0\r\nX : y\r\n\r\n",
        "a folded trailer": size + b"\r\n" + data + b"0\r\nX: y\r\n z\r\n\r\n",
        "a trailer that ends in lf": size + b"\r\n" + data + b"0\r\nX: y\n\r\n",
        "a trailer with a nul": size + b"\r\n" + data + b"0\r\nX: \0\r\n\r\n",
        "a request line for a trailer": size + b"\r\n" + data + b"0\r\n",
    }
    probes = [
        refused(f"chunks: {name}", chat(framing=CHUNKED, body=body))
        for name, body in broken.items()
    ]
    whole = {
        "in capitals": size.upper() + b"\r\n" + data + last,
        "with leading zeros": b"000" + size + b"\r\n" + data + last,
        "with an extension": size + b";a=b;c\r\n" + data + last,
        "with a quoted extension": size + b';a="b;\\"c"\r\n' + data + last,
        "with several zeros at the end": size + b"\r\n" + data + b"000\r\n\r\n",
        "with a trailer": size + b"\r\n" + data + b"0\r\nX-Checksum: 1\r\n\r\n",
        "one byte each": b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + last,
    }
    probes += [
        served(f"chunks: {name}", chat(framing=CHUNKED, body=body))
        for name, body in whole.items()
    ]
    forbidden = {
        "a length": b"Content-Length: 5\r\n",
        "a coding": CHUNKED,
        "a host": b"Host: other.example\r\n",
        "a key": b"Authorization: Bearer x\r\n",
    }
    return probes + [
        served(
            f"chunks: with {name} as a trailer, which has no say",
            chat(framing=CHUNKED, body=size + b"\r\n" + data + b"0\r\n" + line + b"\r\n"),
        )
        for name, line in forbidden.items()
    ]


def _methods_and_paths() -> list[Probe]:
    allow_post = {"allow": "POST"}
    allow_get = {"allow": "GET, HEAD"}
    wrong = {
        "GET": b"GET",
        "PUT": b"PUT",
        "DELETE": b"DELETE",
        "PATCH": b"PATCH",
        "TRACE": b"TRACE",
        "OPTIONS": b"OPTIONS",
        "post": b"post",
        "Post": b"Post",
        "BREW": b"BREW",
    }
    probes = [
        found(
            f"method: {name} where post is meant",
            get(b"/v1/chat/completions", method=method),
            405,
            fields=allow_post,
            code="method_not_allowed",
        )
        for name, method in wrong.items()
    ]
    probes += [
        found(
            "method: HEAD where post is meant",
            get(b"/v1/chat/completions", method=b"HEAD"),
            405,
            method="HEAD",
            fields=allow_post,
        ),
        found(
            "method: POST where get is meant",
            chat(line=b"POST /v1/models HTTP/1.1\r\n"),
            405,
            fields=allow_get,
        ),
        found(
            "method: an asterisk with OPTIONS",
            get(b"*", method=b"OPTIONS"),
            405,
            fields={"allow": "GET, HEAD, POST"},
        ),
        found(
            "method: HEAD of the models", get(b"/v1/models", method=b"HEAD"), 200, method="HEAD"
        ),
        found(
            "method: HEAD of the probe", get(b"/healthz", method=b"HEAD"), 200, method="HEAD"
        ),
        found(
            "method: OPTIONS with a request for its body",
            chat(line=b"OPTIONS /v1/chat/completions HTTP/1.1\r\n", body=SMUGGLE),
            405,
        ),
        found(
            "method: HEAD with a request for its body",
            chat(line=b"HEAD /v1/models HTTP/1.1\r\n", body=SMUGGLE),
            200,
            method="HEAD",
        ),
        found(
            "method: GET with a request for its body",
            chat(line=b"GET /v1/models HTTP/1.1\r\n", body=SMUGGLE),
            200,
        ),
        found(
            "method: GET with a request for its chunks",
            chat(
                line=b"GET /v1/models HTTP/1.1\r\n",
                framing=CHUNKED,
                body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLE), SMUGGLE),
            ),
            200,
        ),
        Probe(
            name="method: GET of the probe with a request for its body",
            wire=chat(line=b"GET /healthz HTTP/1.1\r\n", body=SMUGGLE),
            answers=(200,),
        ),
        Probe(
            name="method: a chunked body where nothing is",
            wire=chat(line=b"POST /nowhere HTTP/1.1\r\n", framing=CHUNKED, body=CHUNKS)
            + SMUGGLE,
            answers=(404,),
        ),
    ]
    missing = [
        b"/",
        b"//",
        b"/v1",
        b"/v1/",
        b"//v1/models",
        b"/v1//models",
        b"/v1/models//",
        b"/V1/models",
        b"/v1/Models",
        b"/v1/../v1/models",
        b"/v1/./models",
        b"/v1/x/../models",
        b"/v1/%6dodels",
        b"/v1%2Fmodels",
        b"/v1/models%00",
        b"/v1/models%2f..%2f..",
        b"/v1/models;x=y",
        b"/v1/v1/v1/models",
        b"/anthropic/v1/models",
        b"/healthz/../v1/models",
        b"/..%2f..%2fetc/passwd",
        b"/metrics",
        b"/manage/v1/keys",
        b"/_ledger",
    ]
    probes += [found(f"path: {path.decode()}", get(path), 404) for path in missing]
    there = [
        b"/v1/models",
        b"/v1/models/",
        b"/v1/v1/models",
        b"/openai/v1/models",
        b"/openai/v1/v1/models/",
        b"/v1/models?",
        b"/v1/models?limit=1&x=%00",
        b"/v1/models?a=/../b?c",
        b"http://127.0.0.1/v1/models",
        b"HTTP://127.0.0.1/v1/models?x",
        b"/healthz",
        b"/healthz/?x",
    ]
    probes += [found(f"path: {path.decode()}", get(path), 200) for path in there]
    return [
        *probes,
        found("path: eight kibibytes of query", get(b"/v1/models?" + b"q" * 8192), 200),
        Probe(
            name="path: a hundred kibibytes", wire=get(b"/" + b"p" * 102_400), answers=(431,)
        ),
        served("path: chat with a slash", chat(line=CHAT.replace(b"ons ", b"ons/ "))),
        served("path: chat with v1 twice", chat(line=CHAT.replace(b"/v1", b"/v1/v1"))),
        served("path: chat below openai", chat(line=CHAT.replace(b"/v1", b"/openai/v1"))),
        served("path: chat with a query", chat(line=CHAT.replace(b"ons ", b"ons?a=b%20c "))),
        served(
            "path: chat as a url",
            chat(line=CHAT.replace(b" /", b" http://127.0.0.1/")),
        ),
        served("path: one empty line before the request", b"\r\n" + chat()),
    ]


def _connections() -> list[Probe]:
    old = CHAT.replace(b"1.1", b"1.0")
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    )
    websocket = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    return [
        served("connection: three at once", chat() * 3, calls=3),
        served(
            "connection: chunked ones at once", chat(framing=CHUNKED, body=CHUNKS) * 3, calls=3
        ),
        served("connection: h2c is not taken up", chat(upgrade)),
        found("connection: websocket is not taken up", get(b"/v1/models", websocket), 200),
        found(
            "connection: unknown options", get(b"/v1/models", b"Connection: x, , y\r\n"), 200
        ),
        Probe(
            name="connection: close is honoured",
            wire=chat(b"Connection: close\r\n") + SMUGGLE,
            answers=(200,),
            calls=1,
            fields={"connection": "close"},
        ),
        Probe(
            name="connection: close among others",
            wire=get(b"/v1/models", b"Connection: x, CLOSE\r\n") + SMUGGLE,
            answers=(200,),
            fields={"connection": "close"},
        ),
        Probe(
            name="connection: close in a second field",
            wire=get(b"/v1/models", b"Connection: keep-alive\r\nConnection: close\r\n")
            + SMUGGLE,
            answers=(200,),
            fields={"connection": "close"},
        ),
        Probe(
            name="connection: http/1.0 closes",
            wire=chat(line=old) + SMUGGLE,
            answers=(200,),
            calls=1,
            fields={"connection": "close"},
        ),
        Probe(
            name="connection: http/1.0 without a host",
            wire=chat(line=old, host=b""),
            answers=(200,),
            calls=1,
        ),
        Probe(
            name="connection: http/1.0 for a local answer closes",
            wire=get(b"/v1/models", version=b"HTTP/1.0") + SMUGGLE,
            answers=(200,),
        ),
        served(
            "connection: http/1.0 that keeps alive is told so",
            chat(b"Connection: keep-alive\r\n", line=old),
            fields={"connection": "keep-alive"},
        ),
        found(
            "connection: http/1.0 that keeps alive is told so by local answers",
            get(b"/v1/models", b"Connection: keep-alive\r\n", version=b"HTTP/1.0"),
            200,
            fields={"connection": "keep-alive"},
        ),
        found(
            "connection: http/1.0 that keeps alive is told so by refusals",
            get(b"/nowhere", b"Connection: keep-alive\r\n", version=b"HTTP/1.0"),
            404,
            fields={"connection": "keep-alive"},
        ),
        served("expect: something unknown is not waited for", chat(b"Expect: magic\r\n")),
        found(
            "expect: 100-continue without a body",
            get(b"/v1/models", b"Expect: 100-continue\r\n"),
            200,
        ),
        Probe(
            name="expect: 100-continue of http/1.0 is ignored",
            wire=chat(b"Expect: 100-continue\r\n", line=old),
            answers=(200,),
            calls=1,
        ),
        served(
            "expect: 100-continue with the body already there",
            chat(b"Expect: 100-continue\r\n"),
        ),
        refused(
            "expect: 100-continue with a broken coding",
            chat(b"Expect: 100-continue\r\n", framing=CHUNKED + LENGTH),
        ),
        Probe(
            name="body: without a key it is not read",
            wire=chat().replace(KEYED, b""),
            answers=(401,),
            kept=True,
            code="invalid_api_key",
        ),
        Probe(
            name="body: two keys",
            wire=chat(b"Authorization: Bearer mlx_sk_other\r\n"),
            answers=(401,),
            kept=True,
        ),
        Probe(
            name="body: encoded",
            wire=chat(b"Content-Encoding: gzip\r\n"),
            answers=(415,),
            kept=True,
        ),
        Probe(
            name="body: encoded, behind identity",
            wire=chat(b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"),
            answers=(415,),
            kept=True,
        ),
        Probe(
            name="body: a request that is broken json stays one request",
            wire=chat(body=SMUGGLE),
            answers=(400,),
            kept=True,
            code="invalid_json",
        ),
        Probe(
            name="body: fields that are many",
            wire=chat(*[b"X-%d: y\r\n" % number for number in range(101)]) + SMUGGLE,
            answers=(431,),
        ),
        Probe(
            name="body: a field that is long",
            wire=chat(b"X-Long: " + b"x" * 70_000 + b"\r\n") + SMUGGLE,
            answers=(431,),
        ),
        Probe(
            name="body: a name that is long",
            wire=chat(b"X" * 300 + b": y\r\n") + SMUGGLE,
            answers=(431,),
        ),
    ]


PROBES: Final = [
    *_start_lines(),
    *_hosts(),
    *_fields(),
    *_lengths(),
    *_codings(),
    *_chunks(),
    *_methods_and_paths(),
    *_connections(),
]
