"""Credits and resets: appended, audited, summed by row, and never taken back."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from modelux.config.credits import KEY_BYTES, Credit
from modelux.config.database import FILE_NAME
from modelux.config.versions import ControlDb
from modelux.errors import RefusedError
from modelux.units import MONEY_NUSD_MAX
from tests.unit.config.worlds import WHO

KEY = bytes(range(KEY_BYTES))
OTHER = bytes(KEY_BYTES)
FIVE = Credit(
    key=KEY,
    budget="team",
    subject="ml",
    window_start_s=1_000,
    window_end_s=2_000,
    usd=5_000_000_000,
    reason="billed twice",
    request_id="0190",
)


def test_a_rows_credits_add_up_and_anothers_do_not(db: ControlDb) -> None:
    assert db.add_credit(FIVE, WHO) == 5_000_000_000
    assert db.add_credit(replace(FIVE, usd=1), WHO) == 5_000_000_001
    assert db.add_credit(replace(FIVE, key=OTHER, window_end_s=None), WHO) == 5_000_000_000

    assert db.credits_total(KEY) == 5_000_000_001
    assert db.credits_total(b"x" * KEY_BYTES) == 0
    assert [(one.key, one.subject, one.usd) for one in db.credit_sums()] == [
        (KEY, "ml", 5_000_000_001),
        (OTHER, "ml", 5_000_000_000),
    ]


def test_sums_of_windows_that_have_ended_can_be_left_out(db: ControlDb) -> None:
    db.add_credit(FIVE, WHO)
    db.add_credit(replace(FIVE, key=OTHER, window_end_s=None), WHO)

    assert [one.key for one in db.credit_sums(1_999)] == [KEY, OTHER]
    assert [one.key for one in db.credit_sums(2_000)] == [OTHER]


def test_a_credit_is_kept_as_it_was_given(db: ControlDb) -> None:
    db.add_credit(FIVE, WHO)
    db.add_credit(replace(FIVE, request_id=None), WHO)

    first, second = db.credits_since()
    assert (first.credit, first.actor) == (FIVE, "cli:somebody")
    assert second.credit.request_id is None
    assert db.credits_since(first.id) == [second]
    assert FIVE.budget_id == KEY[:16].hex()


def test_each_credit_is_one_audit_row_that_says_why(db: ControlDb) -> None:
    db.add_credit(FIVE, WHO)

    [row] = db.audit()
    assert (row.action, row.resource, row.actor) == (
        "budget.credited",
        "budget team",
        "cli:somebody",
    )
    assert json.loads(row.detail) == {
        "id": KEY[:16].hex(),
        "subject": "ml",
        "window_start_s": 1_000,
        "amount_usd": "5.000000000",
        "total_usd": "5.000000000",
        "reason": "billed twice",
        "request_id": "0190",
    }
    assert db.verify() is None


@pytest.mark.parametrize(
    ("credit", "why"),
    [
        (replace(FIVE, usd=0), "above 0"),
        (replace(FIVE, usd=-1), "above 0"),
        (replace(FIVE, reason=" "), "needs a reason"),
        (replace(FIVE, reason="x" * 1_001), "needs a reason of 1 to 1000 bytes"),
        (replace(FIVE, usd=MONEY_NUSD_MAX), "at most 9007199.254740992"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    db: ControlDb, credit: Credit, why: str
) -> None:
    db.add_credit(FIVE, WHO)

    with pytest.raises(RefusedError, match=why):
        db.add_credit(credit, WHO)

    assert len(db.credits_since()) == len(list(db.audit())) == 1


def test_resets_have_numbers_that_grow(db: ControlDb) -> None:
    first = db.add_bound_reset("openai/gpt-4o", WHO)
    second = db.add_bound_reset("openai/gpt-4o", WHO)

    assert [(one.id, one.model) for one in db.bound_resets()] == [
        (first, "openai/gpt-4o"),
        (second, "openai/gpt-4o"),
    ]
    assert [one.id for one in db.bound_resets(first)] == [second]
    assert [row.action for row in db.audit()] == ["model.bound_reset"] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credits SET usd = 1",
        "DELETE FROM credits",
        "UPDATE bound_resets SET model = 'x'",
        "DELETE FROM bound_resets",
    ],
)
def test_nothing_of_it_can_be_changed(tmp_path: Path, db: ControlDb, statement: str) -> None:
    db.add_credit(FIVE, WHO)
    db.add_bound_reset("openai/gpt-4o", WHO)
    connection = sqlite3.connect(tmp_path / "data" / FILE_NAME)

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)

    connection.close()
