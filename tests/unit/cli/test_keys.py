"""`modelux keys`: shown once, listed without the key, revoked."""

import pytest

from modelux.config.keys import has_checksum
from tests.unit.cli.conftest import FILE, Operator


def test_a_made_key_stands_alone_on_stdout(operator: Operator) -> None:
    done = operator.run("keys", "create", "--name", "ci")

    assert has_checksum(done.out.removesuffix("\n"))
    assert "shown only this once" in done.err
    assert done.out.strip() not in operator.run("keys", "ls").out
    assert done.out.strip() not in operator.run("audit", "--json").out


def test_a_made_key_has_the_limit_of_made_keys_unless_told(operator: Operator) -> None:
    operator.run("keys", "create")
    operator.run("keys", "create", "--rpm", "7")
    operator.run("keys", "create", "--rpm", "none")

    keys = operator.run("keys", "ls", "--json").json

    assert isinstance(keys, list)
    assert {key["rpm"] for key in keys} == {600, 7, None}


def test_every_option_of_a_key_can_be_said(operator: Operator) -> None:
    done = operator.run(
        *("keys", "create", "--json", "--name", "n", "--expires", "2099-01-31"),
        *("--allow-route", "@production", "--allow-model", "small", "--tag", "team=ml"),
        *("--tag", "env=prod=eu", "--end-user", "u", "--require", "end_user"),
        *("--require", "tag:team", "--allow-versions"),
    )

    assert isinstance(done.json, dict)
    [key] = operator.run("keys", "ls", "--json").json
    assert key["id"] == done.json["id"]
    assert key["allowed_routes"] == ["production"]
    assert key["allowed_models"] == ["small"]
    assert key["tags"] == {"env": "prod=eu", "team": "ml"}
    assert key["require"] == ["end_user", "tag:team"]
    assert key["expires_at"] == "2099-01-31T00:00:00Z"
    assert key["allow_versions"] is True
    assert key["status"] == "active"


def test_a_revoked_key_stays_in_the_list_as_revoked(operator: Operator) -> None:
    operator.run("keys", "create")
    [key] = operator.run("keys", "ls", "--json").json

    assert operator.run("keys", "revoke", key["id"]).out == f"{key['id']} is revoked\n"
    assert operator.run("keys", "revoke", key["id"]).out == f"{key['id']} is revoked already\n"
    [after] = operator.run("keys", "ls", "--json").json
    assert after["status"] == "revoked"
    assert after["revoked_at"]


def test_keys_of_the_file_are_listed_and_revoked_there(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_KEY", "mlx_sk_" + "c" * 24)
    operator.write(
        "modelux.toml",
        f'{FILE}\n[projects.default]\nkeys = [{{ id = "ci", key = "env:CI_KEY" }}]\n',
    )
    assert operator.run("check", "--apply").code == 0

    done = operator.run("keys", "revoke", "ci")

    assert done.code == 1
    assert "is declared in the configuration file" in done.err
    assert operator.run("keys", "ls").out.splitlines()[1].split()[:2] == ["ci", "default"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create", "--management"), 2, "management keys are not in this release"),
        (("create", "--role", "owner"), 2, "management keys are not in this release"),
        (("create", "--rpm", "0"), 2, "is not 1 to 100000000, or none"),
        (("create", "--expires", "yesterday"), 2, "is neither a time from now"),
        (("create", "--expires", "2001-01-01"), 2, "is over already"),
        (("create", "--tag", "x"), 78, '--tag: "x" is not K=V'),
        (("create", "--tag", "x=1", "--tag", "x=2"), 78, "each K once"),
        (("create", "--require", "team"), 78, 'is neither "end_user" nor "tag:KEY"'),
        (("create", "--project", "p"), 1, 'unknown project "p", known: default'),
        (("revoke", "key_nobody"), 1, 'unknown key "key_nobody"'),
    ],
)
def test_what_cannot_be_done_says_why(
    operator: Operator, words: tuple[str, ...], code: int, message: str
) -> None:
    done = operator.run("keys", *words)

    assert done.code == code
    assert message in done.err
    assert operator.run("keys", "ls", "--json").json == []
