"""The closed list of what a caller can be refused with, and the one exception that carries it.

`interface.md`-style table: one row a cause. `proxy/reply.py` turns a row into an HTTP answer in
the caller's protocol; the reference page is made from this list and a test compares the two.
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


@unique
class Cause(Enum):
    """Why a request got no answer from a provider. The name in lower case is `error.code`."""

    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    MISSING_FIELD = "missing_field"
    MODEL_NOT_FOUND = "model_not_found"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    TAG_REQUIRED = "tag_required"
    INVALID_TAG = "invalid_tag"
    INVALID_API_KEY = "invalid_api_key"
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
    ALL_ATTEMPTS_FAILED = "all_attempts_failed"
    PROVIDER_CREDENTIAL_REJECTED = "provider_credential_rejected"
    UPSTREAM_MALFORMED = "upstream_malformed"
    OVERLOADED = "overloaded"
    CRASH_LOOP = "crash_loop"
    NO_HEALTHY_TARGET = "no_healthy_target"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    CLIENT_CLOSED = "client_closed"
    INTERNAL_ERROR = "internal_error"


_REQUEST: Final = "invalid_request_error"
_PERMISSION: Final = "permission_error"
_UPSTREAM: Final = "upstream_error"
_OVERLOADED: Final = "overloaded_error"

ROWS: Final[dict[Cause, Row]] = {
    Cause.INVALID_REQUEST: Row(400, _REQUEST, None),
    Cause.INVALID_JSON: Row(400, _REQUEST, None),
    Cause.DUPLICATE_KEY: Row(400, _REQUEST, None),
    Cause.MISSING_FIELD: Row(400, _REQUEST, None),
    Cause.MODEL_NOT_FOUND: Row(400, _REQUEST, None),
    Cause.UNSUPPORTED_PARAMETER: Row(400, _REQUEST, None),
    Cause.TAG_REQUIRED: Row(400, _REQUEST, None),
    Cause.INVALID_TAG: Row(400, _REQUEST, None),
    Cause.INVALID_API_KEY: Row(401, "authentication_error", None),
    Cause.MODEL_NOT_ALLOWED: Row(403, _PERMISSION, None),
    Cause.ROUTE_NOT_ALLOWED: Row(403, _PERMISSION, None),
    Cause.VERSION_NOT_ALLOWED: Row(403, _PERMISSION, None),
    Cause.ROUTING_CONFIG_NOT_FOUND: Row(404, "not_found_error", None),
    Cause.NOT_FOUND: Row(404, "not_found_error", None),
    Cause.METHOD_NOT_ALLOWED: Row(405, _REQUEST, None),
    Cause.CLIENT_TIMEOUT: Row(408, "timeout_error", None),
    Cause.BODY_TOO_LARGE: Row(413, _REQUEST, None),
    Cause.UNSUPPORTED_ENCODING: Row(415, _REQUEST, None),
    Cause.HEADERS_TOO_LARGE: Row(431, _REQUEST, None),
    Cause.RATE_LIMITED: Row(429, "rate_limit_error", None),
    Cause.ALL_ATTEMPTS_FAILED: Row(502, _UPSTREAM, False),
    Cause.PROVIDER_CREDENTIAL_REJECTED: Row(502, _UPSTREAM, False),
    Cause.UPSTREAM_MALFORMED: Row(502, _UPSTREAM, False),
    Cause.OVERLOADED: Row(503, _OVERLOADED, True),
    Cause.CRASH_LOOP: Row(503, _OVERLOADED, True),
    Cause.NO_HEALTHY_TARGET: Row(503, _OVERLOADED, True),
    Cause.UPSTREAM_TIMEOUT: Row(504, _UPSTREAM, False),
    # Nobody is left to read it: the status stands in the trace only, as nginx writes it.
    Cause.CLIENT_CLOSED: Row(499, _REQUEST, None),
    Cause.INTERNAL_ERROR: Row(500, "internal_error", None),
}


class ConfigError(Exception):
    """A configuration that cannot be used: all of its faults at once, one line each.

    Each line is `PLACE: KEY PATH: what is wrong and the fix`; nothing has been changed.
    """

    def __init__(self, faults: list[str]) -> None:
        assert faults, "a ConfigError names at least one fault"
        super().__init__("\n".join(faults))
        self.faults = faults


class StoreError(Exception):
    """A file or shared memory of ours cannot be used; the message says which and why."""
