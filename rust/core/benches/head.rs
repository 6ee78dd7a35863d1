//! What it costs to parse a typical head, whole and in the worst order of arrival.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use modelux_core::head::{parse_request, parse_response};

const HEAD_BYTES_MAX: usize = 32 * 1024;

/// As a Python SDK sends it: twelve fields, then a body that must not matter.
const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\
Host: 127.0.0.1:8080\r\n\
Accept-Encoding: gzip, deflate\r\n\
Connection: keep-alive\r\n\
Accept: application/json\r\n\
Content-Type: application/json\r\n\
User-Agent: OpenAI/Python 1.99.1\r\n\
X-Stainless-Lang: python\r\n\
X-Stainless-Package-Version: 1.99.1\r\n\
X-Stainless-OS: Linux\r\n\
X-Stainless-Retry-Count: 0\r\n\
Authorization: Bearer mlx_sk_0123456789abcdef0123456789abcdef\r\n\
Content-Length: 85\r\n\
\r\n\
{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"Say hello in French.\"}]}";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Thu, 09 Apr 2026 00:57:32 GMT\r\n\
Content-Type: application/json\r\n\
Transfer-Encoding: chunked\r\n\
Connection: keep-alive\r\n\
access-control-expose-headers: X-Request-ID\r\n\
openai-organization: example\r\n\
openai-processing-ms: 512\r\n\
openai-version: 2020-10-01\r\n\
x-ratelimit-limit-requests: 10000\r\n\
x-ratelimit-limit-tokens: 200000\r\n\
x-ratelimit-remaining-requests: 9999\r\n\
x-ratelimit-remaining-tokens: 199900\r\n\
x-ratelimit-reset-requests: 8.64s\r\n\
x-request-id: req_0123456789abcdef0123456789abcdef\r\n\
Server: cloudflare\r\n\
CF-RAY: 0123456789abcdef-FRA\r\n\
\r\n";

fn heads(criterion: &mut Criterion) {
    criterion.bench_function("httparse alone, 12 fields", |bencher| {
        bencher.iter(|| {
            let mut space = [httparse::EMPTY_HEADER; 100];
            let mut parsed = httparse::Request::new(&mut space);
            black_box(parsed.parse(black_box(REQUEST)).is_ok())
        });
    });
    criterion.bench_function("parse_request, 12 fields", |bencher| {
        bencher.iter(|| black_box(parse_request(black_box(REQUEST), HEAD_BYTES_MAX)));
    });
    criterion.bench_function("parse_request and six look-ups", |bencher| {
        bencher.iter(|| {
            let parsed = parse_request(black_box(REQUEST), HEAD_BYTES_MAX);
            if let modelux_core::head::Parse::Done(head) = &parsed {
                for name in [
                    "authorization",
                    "content-encoding",
                    "x-api-key",
                    "x-modelux-tags",
                    "user-agent",
                    "content-type",
                ] {
                    black_box(head.header(name));
                }
            }
            black_box(parsed)
        });
    });
    criterion.bench_function("parse_request, one byte missing", |bencher| {
        let end = REQUEST.len() - 90;
        bencher.iter(|| black_box(parse_request(black_box(&REQUEST[..end]), HEAD_BYTES_MAX)));
    });
    criterion.bench_function("parse_response, 16 fields", |bencher| {
        bencher.iter(|| black_box(parse_response(black_box(RESPONSE), HEAD_BYTES_MAX, false)));
    });
}

criterion_group!(benches, heads);
criterion_main!(benches);
