"""What is told of a configuration is plain data, and says nothing of where it was read."""

import json
from pathlib import Path

from modelux.config.rows import plain, resource, route_name
from tests.unit.config.worlds import WHOLE, loaded


def test_every_noun_becomes_plain_data(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE)

    for noun in (config.server, *config.providers, *config.routes, *config.prices):
        assert json.loads(json.dumps(plain(noun))) == plain(noun)


def test_a_reference_stays_a_reference(tmp_path: Path) -> None:
    found = plain(loaded(tmp_path, WHOLE).providers[0])

    assert isinstance(found, dict)
    assert found["api_key"] == "env:OPENAI_API_KEY"
    assert found["origin"] == "https://api.openai.com/v1"


def test_where_something_was_read_is_not_told(tmp_path: Path) -> None:
    assert "place" not in json.dumps(plain(loaded(tmp_path, WHOLE).routes[0]))


def test_a_thing_is_called_by_kind_and_name() -> None:
    assert resource("provider", "openai") == "provider openai"
    assert resource("server", "server") == "server"
    assert route_name("default", "a") == "@a"
    assert route_name("web", "a") == "web/@a"
