"""Every option is declared once, with what a reference page needs."""

from typing import Final

import pytest

from modelux.config.model import (
    LATER,
    KeyPolicy,
    Kind,
    Provider,
    ReferenceRow,
    Server,
    options,
    reference,
)

# The interface's own list of `[server]`.
INTERFACE_SERVER: Final = """
    listen control_listen workers data_dir state_dir state_map_bytes ring_bytes spill_max_bytes
    trace_max_bytes store_bodies body_retention_h record_retention_days rollup_retention_days
    ledger_retention_days redact hash_end_users store_client_ip drain_delay_s drain_s
    heartbeat_timeout_s max_in_flight header_bytes_max body_bytes_max client_header_timeout_s
    client_body_timeout_s client_keepalive_s upstream_keepalive_s default_output_tokens
    min_output_tokens provision private_targets cors_origins master_key tls otlp_endpoint
    log_level log_format access_log
"""
INTERFACE_PROVIDER: Final = """
    vendor api_key base_url models api_version project region headers on_cancel drain_max_ms
    stream_usage ca_file proxy connect_ip_family max_connections
"""
INTERFACE_KEY: Final = """
    name rpm expires_at allowed_routes allowed_models tags end_user require allow_versions
"""

ROWS = [row for section in reference() for row in section.rows]


@pytest.mark.parametrize(
    ("noun", "table", "names"),
    [
        (Server, "server", INTERFACE_SERVER),
        (Provider, "providers", INTERFACE_PROVIDER),
        (KeyPolicy, "keys", INTERFACE_KEY),
    ],
)
def test_every_option_of_the_interface_is_there_or_refused_by_name(
    noun: type, table: str, names: str
) -> None:
    built, later = set(options(noun)), set(LATER.get(table, ()))

    assert built | later == set(names.split())
    assert not built & later


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_option_says_what_it_is(row: ReferenceRow) -> None:
    assert row.prose
    assert row.default
    assert row.kind


@pytest.mark.parametrize("noun", [Server, Provider, KeyPolicy])
def test_every_default_lies_in_its_own_range(noun: type) -> None:
    for name, (option, default) in options(noun).items():
        if option.choices and default:
            assert default in option.choices, name
        if option.kind is Kind.INT and isinstance(default, int):
            assert option.least is not None, name
            assert option.most is not None, name
            assert option.least <= default <= option.most, name


def test_the_reference_has_a_table_for_each_table_of_the_file() -> None:
    assert [section.title for section in reference()] == [
        "[server]",
        "[providers.NAME]",
        "[[providers.NAME.credentials]]",
        "[projects.NAME]",
        "a key",
        "[routes.SLUG]",
        "single",
        "fallback",
        "cost_optimized",
        "latency_optimized",
        "ensemble",
        "ab_test",
        "a variant",
        "cascade",
        "a judge",
        "custom_rules",
        "a shadow",
        "a target",
        "[[budgets]]",
        '[prices."PROVIDER/MODEL"]',
        '[models."PROVIDER/MODEL"]',
    ]
    row = next(row for row in ROWS if row.name == "drain_s")
    assert (row.default, row.unit, row.range) == ("60", "s", "0 to 86,400")
