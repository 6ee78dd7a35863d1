"""What an operator corrects in the ledger: credits, and bounds that are to be learnt anew.

Rows are only ever appended, each with its audit row in the same transaction. The supervisor
brings the ledger to what stands here: to the *sum* of a row's credits, however often it looks,
and to each reset by its number, once.
"""

from dataclasses import dataclass
from typing import Final, final

from modelux import clock
from modelux.config.database import Database, Who
from modelux.config.rows import resource, whole
from modelux.errors import RefusedError
from modelux.limits import BUDGET_NAME_BYTES_MAX, CREDIT_REASON_BYTES_MAX
from modelux.units import MONEY_NUSD_MAX, UnixUs, usd_text

KEY_BYTES: Final = 40
_ID_BYTES: Final = 16
_COLUMNS: Final = (
    "row_key, budget, subject, window_start_s, window_end_s, usd, reason, request_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Money given back to one row of the ledger."""

    key: bytes
    """The row's, in the ledger: it tells even subjects apart whose texts are alike."""
    budget: str
    """Its name, for people."""
    subject: str
    """As the row has it; empty for a budget without `*`."""
    window_start_s: int
    window_end_s: int | None
    usd: int
    """Nano-USD; above 0."""
    reason: str
    request_id: str | None = None

    @property
    def budget_id(self) -> str:
        """The budget's id, as in the snapshot."""
        return self.key[:_ID_BYTES].hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRow:
    """A credit as it is kept."""

    id: int
    credit: Credit
    actor: str
    created_at: UnixUs


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSum:
    """What all credits of one row come to."""

    key: bytes
    budget: str
    subject: str
    window_start_s: int
    window_end_s: int | None
    usd: int
    """Nano-USD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReset:
    """A wish that the bound of a model is what its price says again."""

    id: int
    """Grows from one to the next."""
    model: str
    """`PROVIDER/MODEL`."""
    actor: str
    created_at: UnixUs


@final
class Credits:
    """The credits and resets of one `control.db`."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, credit: Credit, who: Who) -> int:
        """Keep a credit; return what the row's come to, in nano-USD.

        Raises:
            RefusedError: Nothing is credited, no reason is given, or it all comes to too much.
        """
        assert len(credit.key) == KEY_BYTES, credit.key
        assert len(credit.budget.encode()) <= BUDGET_NAME_BYTES_MAX, credit.budget
        if credit.usd <= 0:
            raise RefusedError(
                f"a credit of {usd_text(credit.usd)} USD: give an amount above 0"
            )
        if not credit.reason.strip() or len(credit.reason.encode()) > CREDIT_REASON_BYTES_MAX:
            raise RefusedError(
                f"a credit needs a reason of 1 to {CREDIT_REASON_BYTES_MAX} bytes: it is all "
                "that later tells why"
            )
        with self._database.transaction():
            total = self.total(credit.key) + credit.usd
            if total > MONEY_NUSD_MAX:
                raise RefusedError(
                    f"the credits would come to {usd_text(total)} USD; at most "
                    f"{usd_text(MONEY_NUSD_MAX)}"
                )
            self._database.run(
                f"INSERT INTO credits ({_COLUMNS}, actor, created_at_us) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                credit.key,
                credit.budget,
                credit.subject,
                credit.window_start_s,
                credit.window_end_s,
                credit.usd,
                credit.reason,
                credit.request_id,
                who.actor,
                clock.unix_us(),
            )
            self._database.note(
                who,
                "budget.credited",
                resource("budget", credit.budget),
                {
                    "id": credit.budget_id,
                    "subject": credit.subject,
                    "window_start_s": credit.window_start_s,
                    "amount_usd": usd_text(credit.usd),
                    "total_usd": usd_text(total),
                    "reason": credit.reason,
                    "request_id": credit.request_id,
                },
            )
        return total

    def total(self, key: bytes) -> int:
        """Return what the credits of one row come to, in nano-USD."""
        found = self._database.rows(
            "SELECT coalesce(sum(usd), 0) FROM credits WHERE row_key = ?", key
        )
        return whole(found[0][0])

    def sums(self, ending_after_s: int | None = None) -> list[CreditSum]:
        """Return the sum of each row that was ever credited.

        Args:
            ending_after_s: Leave out windows that have ended by this second.
        """
        found = self._database.rows(
            "SELECT row_key, max(budget), max(subject), max(window_start_s), "
            "max(window_end_s), sum(usd) FROM credits "
            "WHERE ?1 IS NULL OR window_end_s IS NULL OR window_end_s > ?1 "
            "GROUP BY row_key ORDER BY min(id)",
            ending_after_s,
        )
        return [
            CreditSum(
                key=_blob(key),
                budget=str(budget),
                subject=str(subject),
                window_start_s=whole(start),
                window_end_s=None if end is None else whole(end),
                usd=whole(usd),
            )
            for key, budget, subject, start, end, usd in found
        ]

    def since(self, after_id: int = 0) -> list[CreditRow]:
        """Return the credits behind a number, oldest first."""
        found = self._database.rows(
            f"SELECT {_COLUMNS}, id, actor, created_at_us FROM credits "  # noqa: S608
            "WHERE id > ? ORDER BY id",
            after_id,
        )
        return [_credit_row(row) for row in found]

    def add_reset(self, model: str, who: Who) -> int:
        """Keep the wish that a model's bound is learnt anew; return its number."""
        with self._database.transaction():
            self._database.run(
                "INSERT INTO bound_resets (model, actor, created_at_us) VALUES (?, ?, ?)",
                model,
                who.actor,
                clock.unix_us(),
            )
            found = self._database.rows("SELECT max(id) FROM bound_resets")
            number = whole(found[0][0])
            self._database.note(
                who, "model.bound_reset", resource("model", model), {"number": number}
            )
        return number

    def resets(self, after_id: int = 0) -> list[BoundReset]:
        """Return the resets behind a number, oldest first."""
        found = self._database.rows(
            "SELECT id, model, actor, created_at_us FROM bound_resets WHERE id > ? ORDER BY id",
            after_id,
        )
        return [
            BoundReset(
                id=whole(number),
                model=str(model),
                actor=str(actor),
                created_at=UnixUs(whole(created_at)),
            )
            for number, model, actor, created_at in found
        ]


def _credit_row(row: tuple[object, ...]) -> CreditRow:
    key, budget, subject, start, end, usd, reason, request_id, number, actor, created_at = row
    return CreditRow(
        id=whole(number),
        credit=Credit(
            key=_blob(key),
            budget=str(budget),
            subject=str(subject),
            window_start_s=whole(start),
            window_end_s=None if end is None else whole(end),
            usd=whole(usd),
            reason=str(reason),
            request_id=None if request_id is None else str(request_id),
        ),
        actor=str(actor),
        created_at=UnixUs(whole(created_at)),
    )


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes), value
    return value
