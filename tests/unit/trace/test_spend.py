"""The sum of a window: the same as adding up the records that match one by one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelux.config.model import Scope
from modelux.errors import StoreError
from modelux.trace.files import US_A_DAY, US_A_MINUTE, TraceFiles, day_of, trace_files
from modelux.trace.record import Trace
from modelux.trace.spend import Subject, spent_in_window
from modelux.trace.store import TraceStore
from modelux.units import usd_text
from tests import traces
from tests.traces import NOON

ORGANIZATION = Scope(type="organization")
EACH_TEAM = Scope(type="tag", key="team", value="*")
EACH_USER = Scope(type="end_user", value="*")
START, END = NOON - US_A_DAY, NOON + US_A_DAY


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    return trace_files(tmp_path)


def put(files: TraceFiles, *batch: Trace) -> TraceStore:
    store = TraceStore(files, redact=bytes)
    store.insert(batch, NOON)
    return store


def costing(number: int, nusd: int | None, **fields: object) -> Trace:
    cost = None if nusd is None else {"total_usd": usd_text(nusd)}
    return traces.trace(number, **{"cost": cost, "tags": {}, "end_user": None, **fields})


def spent(files: TraceFiles, *scopes: Scope, unset: str = "count") -> dict[Subject, int]:
    return dict(spent_in_window(files, scopes, None, START, END, unset=unset))


def test_no_store_has_spent_nothing(files: TraceFiles) -> None:
    assert spent(files, ORGANIZATION) == {(): 0}
    assert spent(files, EACH_USER) == {}


@pytest.mark.parametrize(
    ("scopes", "matching"),
    [
        ([Scope(type="project", value="p")], {"project": "p"}),
        ([Scope(type="end_user", value="u")], {"end_user": "u"}),
        ([Scope(type="tag", key="team", value="ml")], {"tags": {"team": "ml", "x": "y"}}),
        ([Scope(type="key", value="ci")], {"key_id": "ci"}),
        ([Scope(type="route", value="outer")], {"route": "@outer"}),
        (
            [Scope(type="route", value="inner")],
            {"decision": {"path": ["@production (v4)", "@inner (v1)"]}},
        ),
        (
            [Scope(type="tag", key="team", value="ml"), Scope(type="key", value="ci")],
            {"tags": {"team": "ml"}, "key_id": "ci"},
        ),
        (
            [
                Scope(type="tag", key="a", value="1"),
                Scope(type="tag", key="b", value="2"),
                Scope(type="end_user", value="u"),
            ],
            {"tags": {"a": "1", "b": "2"}, "end_user": "u"},
        ),
    ],
)
def test_only_what_matches_every_scope_counts(
    files: TraceFiles, scopes: Sequence[Scope], matching: dict[str, object]
) -> None:
    parts = [{name: value} for name, value in matching.items()] if len(matching) > 1 else []
    put(
        files,
        costing(0, 1),
        costing(1, 20, **matching),
        costing(2, 300, **matching),
        costing(3, None, **matching),
        *(costing(10 + n, 4_000, **part) for n, part in enumerate(parts)),
    )

    assert spent(files, *scopes) == {(): 320}
    assert spent(files, ORGANIZATION) == {(): 321 + 4_000 * len(parts)}


def test_a_window_begins_with_its_first_instant_and_ends_before_its_last(
    files: TraceFiles,
) -> None:
    user = Scope(type="end_user", value="u")
    put(
        files,
        *(
            costing(n, 10**n, ts=ts, end_user="u")
            for n, ts in enumerate((START - 1, START, NOON, END - 1, END))
        ),
    )

    assert spent(files, user) == {(): 1_110}
    assert spent_in_window(files, (user,), None, START + 1, END + 1) == {(): 11_100}


def test_another_project_is_left_out(files: TraceFiles) -> None:
    put(files, costing(0, 1), costing(1, 2, project="p"))
    wanted = Scope(type="project", value="p")

    assert spent_in_window(files, (ORGANIZATION,), "p", START, END) == {(): 2}
    assert spent_in_window(files, (wanted,), "default", START, END) == {(): 0}


@pytest.mark.parametrize(("unset", "without"), [("count", {("",): 4}), ("skip", {})])
def test_each_value_has_a_sum_of_its_own(
    files: TraceFiles, unset: str, without: dict[Subject, int]
) -> None:
    put(
        files,
        costing(0, 1, tags={"team": "ml", "x": "y"}),
        costing(1, 2, tags={"team": "web"}),
        costing(2, 4, tags={"x": "y"}),
        costing(3, 8, tags={"team": "ml"}, ts=NOON - US_A_DAY // 2 - 1),
        costing(4, 0, tags={"team": "free"}),
    )

    assert spent(files, EACH_TEAM, unset=unset) == {("ml",): 9, ("web",): 2, **without}


def test_several_values_make_one_subject(files: TraceFiles) -> None:
    put(
        files,
        costing(0, 1, tags={"team": "ml"}, end_user="u"),
        costing(1, 2, tags={"team": "ml"}, end_user="v"),
        costing(2, 4, tags={"team": "ml"}),
        costing(3, 8, tags={"team": "ml"}, end_user="u", key_id="ci"),
    )
    key = Scope(type="key", value="ci")

    assert spent(files, EACH_TEAM, EACH_USER) == {("ml", "u"): 9, ("ml", "v"): 2, ("ml", ""): 4}
    assert spent(files, EACH_USER, key, EACH_TEAM) == {("u", "ml"): 8}


def test_hashed_end_users_are_found_by_their_hash(files: TraceFiles) -> None:
    put(files, costing(0, 1, end_user="eu_7"))
    scopes = (Scope(type="end_user", value="u"),)

    found = spent_in_window(
        files, scopes, None, START, END, stored_end_user=lambda user: f"eu_7{user[1:]}"
    )

    assert found == {(): 1}


def test_sums_outlive_the_records(files: TraceFiles) -> None:
    store = put(files, costing(0, 7), costing(1, 1, ts=END), costing(2, 1, ts=START - 1))
    store.drop_records(day_of(NOON))

    assert spent(files, ORGANIZATION) == {(): 7}
    assert spent(files, Scope(type="key", value="key_0123abcd")) == {(): 0}


def test_a_day_that_cannot_be_read_is_an_error(files: TraceFiles) -> None:
    files.root.mkdir()
    files.day_path(day_of(NOON)).write_bytes(b"nonsense" * 1_000)

    with pytest.raises(StoreError):
        spent(files, EACH_USER)


records = st.lists(
    st.tuples(
        st.integers(0, 2**50),
        st.sampled_from((START - US_A_MINUTE, START, NOON, END - 1, END)),
        st.sampled_from(("default", "p")),
        st.sampled_from((None, "u", "v")),
        st.dictionaries(
            st.sampled_from(("team", "x")), st.sampled_from(("a", "b")), max_size=2
        ),
        st.sampled_from(("ci", "other")),
    ),
    max_size=8,
)
scopes_of = st.lists(
    st.sampled_from(
        (
            ORGANIZATION,
            Scope(type="project", value="p"),
            EACH_USER,
            EACH_TEAM,
            Scope(type="end_user", value="u"),
            Scope(type="tag", key="x", value="a"),
            Scope(type="key", value="ci"),
        )
    ),
    min_size=1,
    max_size=3,
    unique=True,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(batch=records, scopes=scopes_of, unset=st.sampled_from(("count", "skip")))
def test_the_sum_is_that_of_the_records_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    batch: list[tuple[int, int, str, str | None, dict[str, str], str]],
    scopes: list[Scope],
    unset: str,
) -> None:
    files = trace_files(tmp_path_factory.mktemp("traces"))
    expected: dict[Subject, int] = {}
    for nusd, ts, project, user, tags, key in batch:
        has = {"project": project, "end_user": user, "key": key, "organization": ""}
        values = [tags.get(s.key) if s.type == "tag" else has[s.type] for s in scopes]
        subject = [value for s, value in zip(scopes, values, strict=True) if s.is_each]
        fits = all(s.is_each or s.value == v for s, v in zip(scopes, values, strict=True))
        if fits and START <= ts < END and (unset == "count" or None not in subject):
            name = tuple(value or "" for value in subject)
            expected[name] = expected.get(name, 0) + nusd
    put(
        files,
        *(
            costing(n, nusd, ts=ts, project=project, end_user=user, tags=tags, key_id=key)
            for n, (nusd, ts, project, user, tags, key) in enumerate(batch)
        ),
    )

    found = spent(files, *scopes, unset=unset)

    assert {name: nusd for name, nusd in found.items() if nusd} == {
        name: nusd for name, nusd in expected.items() if nusd
    }
