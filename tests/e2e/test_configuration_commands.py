"""Commands on configuration against a running server: each takes effect without a restart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.harness import (
    KEY,
    PROJECT,
    Gateway,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
    until,
)

pytestmark = pytest.mark.slow

ROUTE: Final = '[routes.production]\nstrategy = "single"\nmodel = "sim/gpt-4o-mini"\n'


@pytest.fixture
def gateway(tmp_path: Path, simulator: Simulator) -> Iterator[Gateway]:
    config = f"{provider_table('sim', simulator.base_url())}{PROJECT}{ROUTE}"
    with serve(tmp_path, config) as gateway:
        yield gateway
