import pytest

from modelux.trace.retention import RetentionOptions
from modelux.writer.options import WriterOptions, parse_options


def test_nothing_said_means_the_defaults() -> None:
    assert parse_options("{}") == WriterOptions()


def test_options_are_taken_by_their_names_and_those_of_others_are_left() -> None:
    options = parse_options(
        '{"redact": ["EMP-[0-9]+"], "trace_max_bytes": 1000, "body_retention_h": 2,'
        ' "drain_s": 1.5, "boot_id": "b", "log_level": "debug", "ring_bytes": 1}'
    )
    assert options.redact == ("EMP-[0-9]+",)
    assert options.retention == RetentionOptions(trace_max_bytes=1000, body_retention_h=2)
    assert (options.drain_s, options.boot_id, options.log_level) == (1.5, "b", "debug")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"redact": "x"}',
        '{"redact": [1]}',
        '{"trace_max_bytes": 0}',
        '{"trace_max_bytes": true}',
        '{"trace_max_bytes": "1"}',
        '{"drain_s": -1}',
        '{"drain_s": true}',
        '{"boot_id": 1}',
        '{"log_level": []}',
    ],
)
def test_an_option_of_another_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says it in its own words.
        parse_options(text)
