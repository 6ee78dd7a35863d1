"""Every bound of every queue, buffer, pool, loop and retry, each with its reason.

What an operator may set stands in `config/model.py` with its default; what stands here holds
whatever the configuration says. Something unbounded is a bug even when it works.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- HTTP from callers ---------------------------------------------------------------------

HEAD_BYTES_CAP: Final = 64 * KIB
"""The most that `header_bytes_max` may be: fields of a head are kept as 16-bit offsets."""

HEADERS_COUNT_MAX: Final = 100
"""Fields in one head. SDKs send about 25; nginx and Apache stop at 100 too."""

CHUNK_LINE_BYTES_MAX: Final = 256
"""A chunk-size line with its extensions: nobody sends extensions, attackers send long ones."""

TRAILER_BYTES_MAX: Final = 8 * KIB
"""Trailer fields are read and dropped; this bounds how much is read."""

PIPELINE_BYTES_MAX: Final = 64 * KIB
"""What a caller may send ahead while its request is in flight; then reading pauses."""

LINGER_BYTES_MAX: Final = 64 * MIB
LINGER_US: Final = 2_000_000
"""After an early error the rest of the upload is read and dropped (RFC 9112 section 9.6), so
that the answer is not lost to a reset; a caller that goes on longer is cut. Many SDKs read
nothing before they have written all: twice the largest body that is accepted by default."""

LEAVING_BYTES_MIN: Final = 4 * KIB
"""What a caller has to read in `LINGER_US` of an answer that ends its connection."""

CLIENT_WRITE_BUFFER_BYTES_MAX: Final = 64 * KIB
"""Bytes waiting for a slow caller before its own upstream is paused."""

# --- HTTP from providers -------------------------------------------------------------------

UPSTREAM_HEAD_BYTES_MAX: Final = 64 * KIB
"""A provider's head. Cloudflare in front of providers sends about 2 KiB."""

UNARY_HOLD_BYTES_MAX: Final = 1 * MIB
"""An answer that is not a stream is held whole up to this size, so a cut one can fail over."""

STREAM_HOLD_BYTES_MAX: Final = 64 * KIB
"""What a stream may send before its first content byte; beyond it counts as content."""

SSE_EVENT_BYTES_MAX: Final = 1 * MIB
"""An event beyond this is relayed but no longer inspected."""

USAGE_HOLD_BYTES_MAX: Final = 64 * KIB
"""Held of an event that may still be the usage event we asked for; a larger one is relayed.
Usage events have under 1 KiB."""

ERROR_EVENT_BYTES_MAX: Final = 64 * KIB
"""Kept of an error that comes inside a stream; its message is for people to read."""

INTERIM_ANSWERS_MAX: Final = 16
"""1xx answers skipped before one final answer; more is a provider that never answers."""

# --- the body scan -------------------------------------------------------------------------

JSON_DEPTH_MAX: Final = 128
TAGS_COUNT_MAX: Final = 32
TAG_KEY_BYTES_MAX: Final = 64
TAG_VALUE_BYTES_MAX: Final = 256
IDENTIFIER_BYTES_MAX: Final = 512
"""End user, trace id, conversation id: longer ones are nobody's identifier."""

COUNTED_AT_ONCE_BYTES_MAX: Final = 8 * KIB
"""Text whose tokens are counted on the event loop: 0.2 ms. More goes to a thread."""

COUNT_THREADS: Final = 1
"""Counting takes a core: one thread, so that hostile prompts queue and requests do not."""

# --- routing -------------------------------------------------------------------------------

ROUTE_DEPTH_MAX: Final = 4
ROUTE_TARGETS_MAX: Final = 64
"""Leaves of one routing config once its nested configs are opened."""

ROUTE_NODES_MAX: Final = 1024
"""Everything in one routing config once it is opened: configs, targets, judges and shadows."""

ROUTE_CHEAPEST_MAX: Final = 32
"""Models that a choice by price has where the config names none: the cheapest ones."""

NULL_RUN_MAX: Final = 1000
"""So often in a row a rule may come to null before people are told."""

VARIANT_NAME_BYTES_MAX: Final = 64
BLOCK_REASON_BYTES_MAX: Final = 512
PARAMS_BYTES_MAX: Final = 16 * KIB
PARAMS_DEPTH_MAX: Final = 16

# --- answers that are judged ---------------------------------------------------------------

ANSWER_TEXT_BYTES_MAX: Final = 4 * MIB
"""What is read of one answer's text: as much as a trace keeps of a body."""

ANSWER_VALUES_MAX: Final = 128 * KIB
"""JSON values in a text that is compared or checked against a schema."""

SCHEMA_BYTES_MAX: Final = 256 * KIB
"""The schema of a request's `response_format`; a larger one admits nothing."""

SCHEMA_STEPS_MAX: Final = 256 * KIB
"""What checking one answer may take, some ten milliseconds: a caller chooses the schema, and
forty references that each ask their next one twice would take hours."""

JUDGE_REQUEST_BYTES_MAX: Final = 64 * KIB
"""A judge's request; conversation and answers are cut to fit, with a mark that says so."""

RETRY_PAUSE_MS_MAX: Final = 5_000
"""The longest pause before the same target is tried again. The SDKs' own end at 8 s."""

# --- budgets -------------------------------------------------------------------------------

BUDGETS_COUNT_MAX: Final = 10_000
BUDGET_NAME_BYTES_MAX: Final = 128
"""A budget's name stands in a header and in the labels of a metric."""

BUDGET_SCOPES_MAX: Final = 8
"""Conditions of one budget: as many as there are types, and a few tags more."""

BUDGET_SUBJECTS_MAX: Final = 1_000_000
"""Rows of one `*` budget in one window: a row takes about 200 bytes of shared memory."""

CREDIT_REASON_BYTES_MAX: Final = 1_000

# --- traces --------------------------------------------------------------------------------

TRACE_INLINE_BODY_BYTES_MAX: Final = 32 * KIB
"""Larger bodies lie in the spill file, by reference."""

TRACE_BODY_BYTES_MAX: Final = 4 * MIB
"""Kept of one body; what is longer is cut and marked so."""

# --- logs ----------------------------------------------------------------------------------

LOG_VALUE_CHARS_MAX: Final = 2_000
"""Of one field of a log line: enough for any message, too little for a prompt."""

MIRRORED_COUNT_MAX: Final = 256
"""Calls beside requests at once in a worker (mirrored traffic, members of ensembles); beyond it
nothing is mirrored."""
