"""`modelux providers --reset-bound`: which model is meant, and what is kept of the wish."""

import pytest

from tests.unit.cli.conftest import Operator


def test_a_reset_is_kept_for_the_next_start_and_audited(operator: Operator) -> None:
    done = operator.run("providers", "--reset-bound", "sim/large")
    assert (done.code, done.out) == (
        0, "no server is running; the next start sets it back\n",
    )  # fmt: skip
    assert "sim/large" in operator.run("audit").out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--reset-bound", "large"), 1, '"large" is not PROVIDER/MODEL'),
        (("--reset-bound", "sim/"), 1, "is not PROVIDER/MODEL"),
        (("--reset-bound", "sims/large"), 1, 'nearest "sim"'),
        ((), 2, "--reset-bound"),
    ],
)
def test_what_cannot_be_set_back_is_refused(
    operator: Operator, words: tuple[str, ...], code: int, said: str
) -> None:
    done = operator.run("providers", *words)
    assert (done.code, said in done.err) == (code, True), done.err
