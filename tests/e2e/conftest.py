"""What the end-to-end tests share: one stand-in provider for all of them."""

from collections.abc import Iterator

import pytest

from tests.e2e import budgets
from tests.e2e.harness import Simulator, simulate

PRICES = ("--price", "gpt-4o-mini=0.15:0.60", "--price", "gpt-4o=2.50:10", *budgets.PRICES)


@pytest.fixture(scope="session")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    folder = tmp_path_factory.mktemp("simulate")
    with simulate(folder, *PRICES, "--keep-bodies") as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """The stand-in provider with an empty ledger."""
    shared_simulator.reset()
    return shared_simulator
