"""From a file, or none, to a configuration: what is accepted, and the text of every refusal."""

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelux.config.file import (
    built_in,
    config_from_declaration,
    data_dir_of,
    find_config,
    load_config,
)
from modelux.config.model import LATER, SecretRef
from modelux.config.routing import encode
from modelux.errors import ConfigError
from tests.unit.config.worlds import (
    ENV,
    KEY_A,
    PROVIDERS,
    WHOLE,
    known,
    loaded,
    routed,
    without_file,
)


def faults_of(folder: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        loaded(folder, text, env=ENV if env is None else env)
    return [fault.removeprefix(f"{folder}/") for fault in failure.value.faults]


def test_the_interfaces_own_example_loads(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE)

    assert [provider.name for provider in config.providers] == [
        "openai",
        "anthropic",
        "google",
        "vllm",
    ]
    assert str(config.server.listen) == "127.0.0.1:8080"
    assert config.server.data_dir == tmp_path / "modelux-data"
    assert [route.slug for route in config.routes] == ["production", "cheap"]
    assert config.prices[0].input_usd_per_mtok == 100_000_000
    assert config.projects[0].keys[1].policy.require == ("tag:team",)
    assert not config.makes_default_key


def test_a_declaration_reads_as_the_file_did_but_for_its_secrets(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE)

    again = config_from_declaration(config.declaration, {}, catalogue=known)

    assert again.providers == config.providers
    assert again.server == config.server
    assert again.routes == config.routes
    assert again.prices == config.prices
    assert [key.secret for key in again.projects[0].keys] == [None, None]
    assert KEY_A not in config.declaration


def test_every_fault_is_told_at_once_with_its_place_and_the_fix(tmp_path: Path) -> None:
    """Goal: the whole text, as an operator sees it. A change here is a change of interface."""
    text = """\
[server]
workrs = 3
ring_bytes = "8 MiB"
drain_s = -1
log_level = "inf"
access_log = "yes"
listen = "8080"
cors_origins = ["*"]

[providers.openai]
api_key = "sk-proj-averylongsecretthatnobodyshouldsee"
[providers.anthropic]
api_key = "env:NOBODY_SET_THIS"
[providers.vlm]
base_url = "http://127.0.0.1:8000/v1"
[providers.local]
vendor = "openai_compatible"
[providers.meta]
vendor = "openai_compatible"
base_url = "http://169.254.169.254/v1"
[providers.azure]
vendor = "azure_openai"

[projects.default]
keys = [{ key = "env:CI_KEY", rpm = 0, allow_version = true }]

[routes.production]
project = "defualt"
strategy = "fallback"
attempts = [{ mdel = "x" }]
retry_on = ["5xy", "399"]

[routes.fancy]
strategy = "ensembel"

[[budgets]]
name = "x"

[prices."llama"]
input_usd_per_mtok = -1
"""
    assert faults_of(tmp_path, text) == [
        'modelux.toml:2: server.workrs: unknown key, nearest "workers"',
        "modelux.toml:3: server.ring_bytes: must be a whole number of bytes: write 8388608",
        "modelux.toml:4: server.drain_s: -1 is out of range: from 0 to 86400 s",
        'modelux.toml:5: server.log_level: "inf" is none of "debug", "info", "warning", '
        '"error", nearest "info"',
        'modelux.toml:6: server.access_log: must be true or false, not "yes"',
        'modelux.toml:7: server.listen: "8080" is not HOST:PORT, as "127.0.0.1:8080"',
        "modelux.toml:8: server.cors_origins: not in this release; take it out",
        "modelux.toml:11: providers.openai.api_key: must not hold a secret itself (the value "
        'is not shown); write where it is: "env:NAME" or "file:PATH"',
        "modelux.toml:13: providers.anthropic.api_key: the environment variable "
        "`NOBODY_SET_THIS` is not set",
        'modelux.toml:14: providers.vlm: unknown vendor "vlm", nearest "vllm"; name it with '
        "`vendor`",
        'modelux.toml:16: providers.local: vendor "openai_compatible" needs a base_url, as '
        "http://127.0.0.1:8000/v1",
        "modelux.toml:20: providers.meta.base_url: must not be a link-local address: metadata "
        "services are there",
        'modelux.toml:22: providers.azure.vendor: vendor "azure_openai" is not in this release',
        "modelux.toml:25: projects.default.keys[0].rpm: 0 is out of range: from 1 to 100000000 "
        "requests a minute",
        "modelux.toml:25: projects.default.keys[0].allow_version: unknown key, nearest "
        '"allow_versions"',
        'modelux.toml:28: routes.production.project: unknown project "defualt", nearest '
        '"default"',
        'modelux.toml:30: routes.production.attempts[0].mdel: unknown key, nearest "model"',
        "modelux.toml:30: routes.production.attempts[0].model: is missing",
        'modelux.toml:31: routes.production.retry_on[0]: "5xy" is none of "429", "5xx", '
        '"timeout", "connect", "reset", "auth", nor a status from 400 to 599, nearest "5xx"',
        'modelux.toml:31: routes.production.retry_on[1]: "399" is none of "429", "5xx", '
        '"timeout", "connect", "reset", "auth", nor a status from 400 to 599',
        'modelux.toml:34: routes.fancy.strategy: unknown strategy "ensembel", nearest '
        '"ensemble"',
        "modelux.toml:36: budgets[0].scope: is missing",
        "modelux.toml:36: budgets[0].cap_usd: is missing",
        "modelux.toml:39: prices.llama.output_usd_per_mtok: is missing",
        'modelux.toml:39: prices.llama: must be "PROVIDER/MODEL", in quotes',
        "modelux.toml:40: prices.llama.input_usd_per_mtok: -1 is below 0",
    ]


def test_an_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    text = routed(
        'production: strategy = "fallback"\n'
        'attempts = [{ model = "claude-haiku-4-5" },\n{ model = "gpt-4o-mni" }]'
    )

    [fault] = faults_of(tmp_path, text)

    assert fault.endswith(
        'routes.production.attempts[1].model: unknown model "gpt-4o-mni", nearest "gpt-4o-mini"'
    )
    assert fault.startswith("modelux.toml:")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = ", "modelux.toml:1:5: not TOML: something is missing here"),
        ("[a]\nb = 1\n[a]\n", "modelux.toml:3:1: not TOML: "),
        ("", "modelux.toml: providers: needs at least one provider, as [providers.openai]"),
        ("[providers]\n", "modelux.toml:1: providers: needs at least one provider"),
        ("server = 3\n[providers.ollama]\n", "modelux.toml:1: server: must be a table, not 3"),
        (f"{PROVIDERS}\n[server]\nport = 1", "server.port: unknown key"),
        (f"[sever]\n{PROVIDERS}", 'modelux.toml:1: sever: unknown key, nearest "server"'),
        ('[providers."a/b"]\n', 'providers."a/b": is not a name: 1 to 64 letters'),
        ('[providers.openai]\nbase_url = "https://u:hunter2@h/v1"', "must not hold a user"),
        ("[providers.openai]\nregion = 1", "region: not in this release; take it out"),
        ('[providers.openai]\nheaders = { Authorization = "x" }', "name it with `api_key`"),
        ('[providers.openai]\nheaders = { Host = "x" }', "is written by modelux itself"),
        ('[providers.openai]\nheaders = { "a b" = "x" }', "is not the name of a header field"),
        ('[providers.openai]\nheaders = { a = "x\\ny" }', "holds a character that no header"),
        ('[providers.openai]\nheaders = { A = "x", a = "y" }', "stands here twice"),
        ('[providers.openai]\non_cancel = "drian"', 'on_cancel: "drian" is none of '),
        ("[providers.openai]\ndrain_max_ms = 0", "drain_max_ms: 0 is out of range"),
        ("[providers.openai]\nmax_connections = true", "must be a whole number, not true"),
        ('[providers.openai]\nmodels = "gpt-4o"', 'must be a list of strings, not "gpt-4o"'),
        ('[providers.openai]\nmodels = ["a", "a"]', 'models[1]: "a" stands here twice'),
        (
            '[providers.openai]\napi_key = "env:OPENAI_API_KEY"\ncredentials = []',
            "stands beside `api_key`; keep one",
        ),
        (
            '[providers.openai]\ncredentials = [{ id = "a", api_key = "env:OPENAI_API_KEY" }, '
            '{ id = "a", api_key = "env:CI_KEY" }]',
            'credentials[1].id: "a" stands here twice',
        ),
        (
            '[providers.openai]\ncredentials = [{ id = "a" }]',
            "credentials[0].api_key: is missing",
        ),
        (
            '[providers.ollama]\n[projects.p]\nkeys = ["env:OPENAI_API_KEY"]',
            "what `env:OPENAI_API_KEY` holds is not a key: `mlx_sk_` and at least 20",
        ),
        (
            '[providers.ollama]\n[projects.p]\nkeys = ["env:CI_KEY", "env:CI_KEY"]',
            "projects.p.keys[1]: is the same key as the one at projects.p.keys[0]",
        ),
        (
            '[providers.ollama]\n[projects.p]\nkeys = [{ id = "a", key = "env:CI_KEY" }]\n'
            '[projects.q]\nkeys = [{ id = "a", key = "env:MODELUX_KEY" }]',
            'projects.q.keys[0]: id "a" stands at projects.p.keys[0] too',
        ),
        (
            "[providers.ollama]\n[projects.p]\n"
            'keys = [{ key = "env:CI_KEY", expires_at = 2027-01-01T00:00:00 }]',
            "must be a date and time with its offset, as 2027-01-31T12:00:00Z",
        ),
        (
            "[providers.ollama]\n[projects.p]\n"
            'keys = [{ key = "env:CI_KEY", require = ["team"] }]',
            'require[0]: "team" is neither "end_user" nor "tag:KEY"',
        ),
        (
            "[providers.ollama]\n[projects.p]\n"
            f'keys = [{{ key = "env:CI_KEY", tags = {{ k = "{"v" * 257}" }} }}]',
            "tags.k: is longer than 256 bytes",
        ),
        (
            "[providers.ollama]\n[projects.p]\nrecord_retention_days = 3",
            "record_retention_days: not in this release",
        ),
        (
            '[server]\ncontrol_listen = "0.0.0.0:8080"\n[providers.ollama]',
            "server.control_listen: must not have the port of `listen` (127.0.0.1:8080)",
        ),
        (
            '[server]\nredact = ["ok", "(a"]\n[providers.ollama]',
            "server.redact[1]: is not a usable pattern: unclosed group",
        ),
        (
            '[server]\nredact = ["(?=x)"]\n[providers.ollama]',
            "server.redact[0]: is not a usable pattern: look-around",
        ),
        (
            '[providers.ollama]\n[prices."olama/x"]\ninput_usd_per_mtok = 0\n'
            "output_usd_per_mtok = 0",
            'prices."olama/x": unknown provider "olama", nearest "ollama"',
        ),
        (
            '[providers.ollama]\n[prices."ollama/x"]\ninput_usd_per_mtok = 0.0000000001\n'
            "output_usd_per_mtok = nan",
            "more than nine decimals",
        ),
        (
            '[providers.ollama]\n[models."ollama/x"]\ntier = "economical"',
            'models."ollama/x".tier: "economical" is none of ',
        ),
        ('[providers.ollama]\n[routes."a b"]\nstrategy = "single"', "is not a name"),
        ('[providers.ollama]\n[routes.a]\nmodel = "x"', "routes.a.strategy: is missing"),
        (
            '[providers.ollama]\n[routes.a]\nstrategy = "sngle"',
            'unknown strategy "sngle", nearest "single"',
        ),
        (
            '[providers.ollama]\n[routes.a]\nstrategy = "single"\nmodel = "ollama/x"\n'
            "cache = { }",
            "routes.a.cache: not in this release",
        ),
        (
            '[providers.ollama]\n[routes.a]\nstrategy = "fallback"\nattempts = []',
            "routes.a.attempts: needs at least one target",
        ),
        (
            '[providers.ollama]\n[routes.a]\npolicy = "single"\nmodel = "x"\nconfig = 3',
            "routes.a.config: must be a table, not 3",
        ),
        (
            '[providers.ollama]\n[routes.a]\nstrategy = "single"\nmodel = "@b@0"',
            'routes.a.model: "@b@0" is not @SLUG or @SLUG@VERSION',
        ),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, fault: str) -> None:
    faults = faults_of(tmp_path, text)

    assert any(fault in one for one in faults), faults
    assert not any("hunter2" in one for one in faults)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "modelux.toml"
    path.write_bytes(b"# fine\nx = '\xff'\n")

    with pytest.raises(ConfigError, match="modelux.toml:2: is not UTF-8"):
        load_config(path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: cannot be read: No such file"):
        load_config(tmp_path / "no.toml", {})


def test_secrets_are_not_looked_for_where_none_is_needed(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE, env={}, with_secrets=False)

    assert config.projects[0].keys[0].secret is None
    assert config.projects[0].keys[0].reference == SecretRef(scheme="env", name="MODELUX_KEY")


def test_no_secret_stands_in_what_a_configuration_prints(tmp_path: Path) -> None:
    assert KEY_A not in repr(loaded(tmp_path, WHOLE))


@pytest.mark.parametrize(("table", "names"), LATER.items())
def test_what_is_not_in_this_release_is_refused_by_name(
    tmp_path: Path, table: str, names: tuple[str, ...]
) -> None:
    places = {
        "": "{name} = 1\n[providers.ollama]",
        "server": "[providers.ollama]\n[server]\n{name} = 1",
        "providers": "[providers.ollama]\n{name} = 1",
        "projects": "[providers.ollama]\n[projects.p]\n{name} = 1",
        "routes": "[providers.ollama]\n[routes.r]\nstrategy = 'single'\nmodel = 'ollama/m'\n"
        "{name} = 1",
        "targets": "[providers.ollama]\n[routes.r]\nstrategy = 'single'\n"
        "model = {{ model = 'ollama/m', {name} = 1 }}",
        "models": "[providers.ollama]\n[models.'ollama/m']\n{name} = 1",
    }
    for name in names:
        [fault] = faults_of(tmp_path, places[table].format(name=name))
        assert fault.endswith(f"{name}: not in this release; take it out")


# --- without a file ------------------------------------------------------------------------


def test_each_key_variable_makes_a_provider_and_a_step_of_the_fallback() -> None:
    config = without_file(ENV)

    assert [provider.name for provider in config.providers] == ["openai", "anthropic", "google"]
    assert [route.slug for route in config.routes] == ["production", "default"]
    assert encode(config.routes[0].config) == {
        "strategy": "fallback",
        "attempts": [
            "openai/gpt-4o-mini",
            "anthropic/claude-haiku-4-5",
            "google/gemini-2.5-flash",
        ],
    }
    assert config.makes_default_key


def test_an_ollama_that_answers_is_a_provider_too() -> None:
    config = without_file({}, probe=lambda: ["llama3.2", "qwen3"])

    assert [provider.name for provider in config.providers] == ["ollama"]
    assert config.providers[0].models == ("llama3.2", "qwen3")
    assert config.providers[0].is_free
    assert encode(config.routes[0].config)["attempts"] == ["ollama/llama3.2"]


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEY": ""}])
def test_without_any_provider_the_message_says_where_it_looked(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as failure:
        without_file(env, probe=lambda: None)

    assert failure.value.faults == [
        "no provider: none of OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY is set, no "
        "Ollama with a model answers at 127.0.0.1:11434, and there is no modelux.toml; set one "
        "of the variables, or write the file with `modelux init`"
    ]


def test_an_ollama_without_models_is_no_provider() -> None:
    with pytest.raises(ConfigError, match="no provider"):
        built_in({}, list)


# --- which file ----------------------------------------------------------------------------


def test_the_flag_wins_over_the_variable_and_that_over_the_usual_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"MODELUX_CONFIG": "named.toml"}

    assert find_config(None, {}) is None
    assert find_config(None, {"MODELUX_CONFIG": ""}) is None
    (tmp_path / "modelux.toml").touch()
    assert find_config(None, {}) == Path("modelux.toml")
    assert find_config(None, named) == Path("named.toml")
    assert find_config(Path("flag.toml"), named) == Path("flag.toml")


def test_the_data_directory_of_a_faulty_file_is_found_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "modelux.toml"
    path.write_text('[server]\ndata_dir = "elsewhere"\nwrong = 1\n')

    assert data_dir_of(path) == tmp_path / "elsewhere"
    path.write_text("not toml at all")
    assert data_dir_of(path) == tmp_path / "modelux-data"


def test_a_file_that_is_named_and_missing_has_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        data_dir_of(tmp_path / "no.toml")


def test_paths_in_the_file_start_at_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "key").write_text("sk-file")
    (tmp_path / "key").chmod(stat.S_IRUSR)

    config = loaded(
        tmp_path, '[providers.openai]\napi_key = "file:key"\nca_file = "ca.pem"\n', env={}
    )

    assert config.server.data_dir == tmp_path / "modelux-data"
    assert config.providers[0].ca_file == tmp_path / "ca.pem"
    assert str(config.providers[0].credentials[0].reference) == f"file:{tmp_path}/key"


# --- any file ------------------------------------------------------------------------------

LINES = [
    "[server]",
    "[providers.openai]",
    "[providers.a]",
    "[routes.a]",
    "[routes.b]",
    "[projects.p]",
    '[prices."a/b"]',
    'vendor = "ollama"',
    'strategy = "fallback"',
    'attempts = ["a/b", "@a", "@b@2", {model = "x"}, 3]',
    'model = {strategy = "single", model = "@b"}',
    'policy = "single"',
    "config = {}",
    "keys = [3, {}]",
    "workers = 2",
    "data_dir = 4",
    "retry_on = [429]",
    "timeout_ms = 1e3",
    "expires_at = 2027-01-01",
    'listen = "[::1]:1"',
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.sampled_from(LINES), max_size=12))
def test_any_file_is_a_configuration_or_refused_with_reasons(
    tmp_path: Path, lines: list[str]
) -> None:
    try:
        found = [provider.name for provider in loaded(tmp_path, "\n".join(lines)).providers]
    except ConfigError as failure:
        found = [fault.partition(":")[0] for fault in failure.faults]

    assert set(found) <= {"openai", "a"} or set(found) == {str(tmp_path / "modelux.toml")}


# --- the catalogue that ships --------------------------------------------------------------


def test_the_catalogue_that_ships_knows_what_built_in_routes_call() -> None:
    config = load_config(None, ENV)

    assert [route.slug for route in config.routes] == ["production", "default"]


def test_the_catalogue_that_ships_finds_a_mistyped_model(tmp_path: Path) -> None:
    path = tmp_path / "modelux.toml"
    path.write_text(WHOLE.replace("gpt-4o-mini", "gpt-4o-mni"))

    with pytest.raises(ConfigError, match='unknown model "gpt-4o-mni", nearest "gpt-4o-mini"'):
        load_config(path, ENV)
