"""The closed list of what a caller can be refused with, and the one exception that carries it.

One row a cause. `proxy/reply.py` turns a row into an HTTP answer in the caller's protocol;
`docs/reference/errors.md` is made from this list and a test compares the two.
"""

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """What a cause looks like from outside: permanent, because callers branch on it."""

    status: int
    type: str
    should_retry: bool | None
    """The value of `x-should-retry`; None sends none, so the SDK's own rule holds."""

    when: str
    """When a caller meets it and what to do, for the reference page; not part of an answer."""

    number: int | None = None
    """Stands in `error.code` in the place of the word, where callers expect a number."""


@unique
class Cause(Enum):
    """Why a request got no answer from a provider. The name in lower case is `error.code`."""

    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    MISSING_FIELD = "missing_field"
    MODEL_NOT_FOUND = "model_not_found"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MODEL_NOT_PRICED = "model_not_priced"
    COST_UNBOUNDED = "cost_unbounded"
    TAG_REQUIRED = "tag_required"
    INVALID_TAG = "invalid_tag"
    INVALID_API_KEY = "invalid_api_key"
    BUDGET_EXCEEDED = "budget_exceeded"
    REQUEST_EXCEEDS_BUDGET = "request_exceeds_budget"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    ROUTE_NOT_ALLOWED = "route_not_allowed"
    VERSION_NOT_ALLOWED = "version_not_allowed"
    ROUTING_CONFIG_NOT_FOUND = "routing_config_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CLIENT_TIMEOUT = "client_timeout"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    HEADERS_TOO_LARGE = "headers_too_large"
    RATE_LIMITED = "rate_limited"
    BUDGET_HELD = "budget_held"
    ALL_ATTEMPTS_FAILED = "all_attempts_failed"
    PROVIDER_CREDENTIAL_REJECTED = "provider_credential_rejected"
    UPSTREAM_MALFORMED = "upstream_malformed"
    OVERLOADED = "overloaded"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    CRASH_LOOP = "crash_loop"
    NO_HEALTHY_TARGET = "no_healthy_target"
    NO_RULE_MATCHED = "no_rule_matched"
    BLOCKED_BY_RULE = "blocked_by_rule"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    CLIENT_CLOSED = "client_closed"
    INTERNAL_ERROR = "internal_error"


_REQUEST: Final = "invalid_request_error"
_PERMISSION: Final = "permission_error"
_UPSTREAM: Final = "upstream_error"
_OVERLOADED: Final = "overloaded_error"

ROWS: Final[dict[Cause, Row]] = {
    Cause.INVALID_REQUEST: Row(
        400,
        _REQUEST,
        None,
        "A field has a value that cannot be used, or the head is not valid HTTP; "
        "`param` or the message says which.",
    ),
    Cause.INVALID_JSON: Row(
        400,
        _REQUEST,
        None,
        "The body is no JSON object: broken syntax, invalid UTF-8, `NaN`, or nested "
        "over 128 deep.",
    ),
    Cause.DUPLICATE_KEY: Row(
        400,
        _REQUEST,
        None,
        "A key that decides where the request goes or what it costs stands twice in the body.",
    ),
    Cause.MISSING_FIELD: Row(
        400,
        _REQUEST,
        None,
        "A field without which nothing can be routed is absent; `param` names it.",
    ),
    Cause.MODEL_NOT_FOUND: Row(
        400,
        _REQUEST,
        None,
        "No provider has a model of that name; the message names the nearest known ones.",
    ),
    Cause.NO_RULE_MATCHED: Row(
        400,
        _REQUEST,
        None,
        "The routing config is a list of rules, none of them matched, and it has no `else`.",
    ),
    Cause.BLOCKED_BY_RULE: Row(
        403,
        _PERMISSION,
        None,
        "A rule of the routing config says that nobody serves this request; the message is "
        "the rule's reason.",
    ),
    Cause.UNSUPPORTED_PARAMETER: Row(
        400,
        _REQUEST,
        None,
        "The field is one that no target of the route can honour; `param` names it.",
    ),
    Cause.MODEL_NOT_PRICED: Row(
        400,
        _REQUEST,
        False,
        "A budget covers the request and the model has no price, so its cost cannot be held; "
        "a missing price never means free.",
    ),
    Cause.COST_UNBOUNDED: Row(
        400,
        _REQUEST,
        False,
        "A budget covers the request and nothing bounds what it may cost; the message says "
        "what to leave out, or to set.",
    ),
    Cause.TAG_REQUIRED: Row(
        400,
        _REQUEST,
        None,
        "The key requires a tag or an end user that the request does not carry.",
    ),
    Cause.INVALID_TAG: Row(
        400,
        _REQUEST,
        None,
        "A tag is empty, repeated, too long or not a string.",
    ),
    Cause.INVALID_API_KEY: Row(
        401,
        "authentication_error",
        None,
        "The key is absent, unknown, revoked or expired: one message for all of them.",
    ),
    Cause.BUDGET_EXCEEDED: Row(
        402,
        "budget_exceeded",
        None,
        "The cap of a budget is spent; `Retry-After` lasts until its window ends, and "
        "`error.budget` has the figures.",
        number=402,
    ),
    Cause.REQUEST_EXCEEDS_BUDGET: Row(
        402,
        "request_exceeds_budget",
        None,
        "The request could never fit the cap of a budget; `max_affordable_output_tokens` is "
        "the output limit that would.",
        number=402,
    ),
    Cause.MODEL_NOT_ALLOWED: Row(
        403,
        _PERMISSION,
        None,
        "The key may not use a model that the route leads to.",
    ),
    Cause.ROUTE_NOT_ALLOWED: Row(
        403,
        _PERMISSION,
        None,
        "The key may not use this routing config.",
    ),
    Cause.VERSION_NOT_ALLOWED: Row(
        403,
        _PERMISSION,
        None,
        "`@slug@N` needs a key with `allow_versions`.",
    ),
    Cause.ROUTING_CONFIG_NOT_FOUND: Row(
        404,
        "not_found_error",
        None,
        "The project has no routing config of that name, or no such version of it.",
    ),
    Cause.NOT_FOUND: Row(
        404,
        "not_found_error",
        None,
        "The path, or what it names, does not exist.",
    ),
    Cause.METHOD_NOT_ALLOWED: Row(
        405,
        _REQUEST,
        None,
        "The path exists, but not for this method; `Allow` names those that it takes.",
    ),
    Cause.CLIENT_TIMEOUT: Row(
        408,
        "timeout_error",
        None,
        "The caller was too slow to send its head or its body.",
    ),
    Cause.BODY_TOO_LARGE: Row(
        413,
        _REQUEST,
        None,
        "The body is longer than `body_bytes_max`.",
    ),
    Cause.UNSUPPORTED_ENCODING: Row(
        415,
        _REQUEST,
        None,
        "The body is compressed: send it without `Content-Encoding`.",
    ),
    Cause.HEADERS_TOO_LARGE: Row(
        431,
        _REQUEST,
        None,
        "The head is longer than `header_bytes_max`, or has more than 100 fields.",
    ),
    Cause.RATE_LIMITED: Row(
        429,
        "rate_limit_error",
        None,
        "The key's own `rpm` is used up; `Retry-After` says for how long.",
    ),
    Cause.BUDGET_HELD: Row(
        429,
        "budget_held",
        True,
        "The budget has money, but requests in flight hold it; most of it comes back "
        "within seconds.",
    ),
    Cause.ALL_ATTEMPTS_FAILED: Row(
        502,
        _UPSTREAM,
        False,
        "No target answered; the message lists each attempt's outcome, "
        "`error.upstream_status` holds the last status.",
    ),
    Cause.PROVIDER_CREDENTIAL_REJECTED: Row(
        502,
        _UPSTREAM,
        False,
        "A provider refused the key that modelux holds for it (its 401, 402 or 403): "
        "the operator's to mend.",
    ),
    Cause.UPSTREAM_MALFORMED: Row(
        502,
        _UPSTREAM,
        False,
        "A provider's answer cannot be read as HTTP, or contradicts itself.",
    ),
    Cause.OVERLOADED: Row(
        503,
        _OVERLOADED,
        True,
        "This worker, or the last provider, has no room for more; `Retry-After` says "
        "when to come back.",
    ),
    Cause.LEDGER_UNAVAILABLE: Row(
        503,
        _OVERLOADED,
        True,
        "A budget covers the request and its cost cannot be held: the ledger is full or "
        "cannot be written. Requests that no budget covers go on.",
    ),
    Cause.CRASH_LOOP: Row(
        503,
        _OVERLOADED,
        True,
        "Workers die as fast as they start; the operator's log says why.",
    ),
    Cause.NO_HEALTHY_TARGET: Row(
        503,
        _OVERLOADED,
        True,
        "No target of the route may serve this request.",
    ),
    Cause.UPSTREAM_TIMEOUT: Row(
        504,
        _UPSTREAM,
        False,
        "The last target did not begin its answer in time.",
    ),
    # Nobody is left to read it: the status stands in the trace only, as nginx writes it.
    Cause.CLIENT_CLOSED: Row(
        499,
        _REQUEST,
        None,
        "The caller hung up before the answer began. Seen in traces only.",
    ),
    Cause.INTERNAL_ERROR: Row(
        500,
        "internal_error",
        None,
        "A fault of modelux itself: counted, logged, and worth a report with the request id.",
    ),
}


class ConfigError(Exception):
    """A configuration that cannot be used: all of its faults at once, one line each.

    Each line is `PLACE: KEY PATH: what is wrong and the fix`; nothing has been changed.
    """

    def __init__(self, faults: list[str]) -> None:
        assert faults, "a ConfigError names at least one fault"
        super().__init__("\n".join(faults))
        self.faults = faults


class RefusedError(Exception):
    """An operator asked for what cannot be done; nothing has changed, the message says why."""


class StoreError(Exception):
    """A file or shared memory of ours cannot be used; the message says which and why."""
