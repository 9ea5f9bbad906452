"""A refused row from quarantine to readers.

Corrected by a person, replayed as a delivery of its own.
"""

import datetime as dt

import pytest
from tests.conftest import write_suite
from typer.testing import CliRunner

from nightshift.contracts.partitions import PartitionRange
from nightshift.ingestion.corrected_drop import CorrectionRefusedError
from nightshift.ingestion.correction_replay import replay_corrections
from nightshift.ingestion.load import ingest
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.correction import (
    QuarantineAccessError,
    correct_row,
    require_quarantine_access,
)
from nightshift.quality.quarantine import (
    QuarantineError,
    QuarantineState,
    find_row,
    list_rows,
    settle_rows,
)
from nightshift.warehouse.analysts.grants import ANALYST, apply_grants
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R5"),
    pytest.mark.usefixtures("quick_gate"),
]

DAY = dt.date(2013, 3, 10)
DAYS = PartitionRange.of("2013-03-10")
DELIVERED = dt.datetime(2013, 3, 11, 5, tzinfo=dt.UTC)
CORRECTED = DELIVERED + dt.timedelta(hours=9)
CONTRACT = """{name: things, description: d, schema_version: 1, delivery: on_change,
 history_start: 2013-01-01, grain: g, key: [id], maximum_refused_ratio: 0.5,
 columns: [{name: id, type: text}, {name: size, source: how_big, type: integer, maximum: 100}]}"""
FILE = b"id,how_big,extra\na,1,x\nb,wrong,y\nc,7,z\nb,wrong,y\n"


@pytest.fixture
def things(settings, conn, tmp_path, run):
    """Return settings of a small dataset and a refused row of its only file."""
    from nightshift.contracts.datasets import load_contracts

    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "things.yaml").write_text(CONTRACT)
    suites = write_suite(tmp_path / "expectations", "raw/things")
    moved = settings.model_copy(update={"dags_dir": tmp_path, "expectations_dir": suites})
    migrate(conn, load_contracts(moved.datasets_dir))
    ObjectStore.open(moved).ensure_bucket()
    deliver(moved, FILE, 4, DELIVERED, "first")
    ingest(moved, "things", DAYS, run)
    return moved, list_rows(conn, "raw/things", DAYS)[0].row_id


def deliver(settings, data, n_rows, at, name):
    write_drop(ObjectStore.open(settings), NewDrop("things", DAY, at, data, n_rows, name))


def visible(conn):
    return conn.execute(
        "select t.id, t.size, t.known_at from raw.things t join ops.published p using "
        "(partition_date, load_id)"
        " where p.dataset = 'raw/things' order by 1"
    ).fetchall()


def test_a_corrected_row_becomes_a_version_of_its_own_time_when_replayed(things, conn, run):
    settings, row_id = things
    assert visible(conn) == [("a", 1, DELIVERED), ("c", 7, DELIVERED)]
    correct_row(conn, row_id, {"size": "5"}, CORRECTED, "cli:ann", "upstream says 5")

    result = replay_corrections(settings, "things", DAY, run)

    assert (result.replayed, result.superseded) == ((row_id,), ())
    assert visible(conn) == [("a", 1, CORRECTED), ("b", 5, CORRECTED), ("c", 7, CORRECTED)]
    versions = conn.execute(
        "select known_at, superseded_at, n_rows from ops.raw_versions order by 1"
    ).fetchall()
    assert versions == [(DELIVERED, CORRECTED, 2), (CORRECTED, None, 3)]
    assert find_row(conn, row_id).state == "replayed"
    assert conn.execute("select actor, note, corrected from quarantine.corrections").fetchall() == [
        ("cli:ann", "upstream says 5", {"id": "b", "size": "5"})
    ]
    stored = ObjectStore.open(settings).get(result.data_key)
    assert stored == b"id,how_big,extra\na,1,x\nb,5,y\nc,7,z\nb,5,y\n"
    assert replay_corrections(settings, "things", DAY, run).data_key is None


@pytest.mark.parametrize(
    ("values", "at", "says"),
    [
        ({"size": "101"}, CORRECTED, r"row \d+ \(position 2\): out_of_range in size"),
        ({"size": "5", "id": "c"}, CORRECTED, "conflicting_key"),
        ({"size": "5"}, DELIVERED, "known after"),
    ],
)
def test_nothing_is_delivered_when_a_corrected_row_breaks_the_contract_too(
    things, conn, run, values, at, says
):
    settings, row_id = things
    before = visible(conn)
    correct_row(conn, row_id, values, at, "cli:ann", "a guess")

    with pytest.raises(CorrectionRefusedError, match=says):
        replay_corrections(settings, "things", DAY, run)

    assert visible(conn) == before
    assert find_row(conn, row_id).state == "corrected"
    correct_row(conn, row_id, {"id": "b", "size": "6"}, CORRECTED, "cli:ann", "asked")
    assert replay_corrections(settings, "things", DAY, run).replayed == (row_id,)
    assert visible(conn)[1][:2] == ("b", 6)


def test_a_correction_is_superseded_and_said_so_when_upstream_repaired_the_row(things, conn, run):
    settings, row_id = things
    correct_row(conn, row_id, {"size": "5"}, CORRECTED, "cli:ann", "upstream says 5")
    deliver(settings, b"id,how_big\na,1\nb,4\n", 2, DELIVERED + dt.timedelta(hours=1), "second")
    ingest(settings, "things", DAYS, run)

    result = replay_corrections(settings, "things", DAY, run)

    assert (result.replayed, result.superseded, result.data_key) == ((), (row_id,), None)
    assert [row[:2] for row in visible(conn)] == [("a", 1), ("b", 4)]
    assert find_row(conn, row_id).state == "superseded"


def test_a_replay_ends_the_same_when_it_was_killed_before_it_was_recorded(
    things, conn, run, monkeypatch
):
    from nightshift.ingestion import correction_replay

    settings, row_id = things
    correct_row(conn, row_id, {"size": "5"}, CORRECTED, "cli:ann", "upstream says 5")
    real = correction_replay.ingest

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(correction_replay, "ingest", killed)
    with pytest.raises(KeyboardInterrupt):
        replay_corrections(settings, "things", DAY, run)
    monkeypatch.setattr(correction_replay, "ingest", real)

    replay_corrections(settings, "things", DAY, run)

    assert find_row(conn, row_id).state == "replayed"
    assert conn.execute("select count(*) from ops.raw_versions").fetchone() == (2,)


def test_a_row_is_not_corrected_when_it_is_settled_or_nothing_says_why(things, conn):
    _, row_id = things
    for values, note in (({"colour": "red"}, "why"), ({}, "why"), ({"size": "5"}, " ")):
        with pytest.raises(QuarantineError, match="cannot be used"):
            correct_row(conn, row_id, values, CORRECTED, "cli:ann", note)
    settle_rows(conn, [row_id], QuarantineState.DISMISSED, "cli:ann", "nobody needs it")
    with pytest.raises(QuarantineError, match="is settled"):
        correct_row(conn, row_id, {"size": "5"}, CORRECTED, "cli:ann", "late")


def test_refused_rows_are_not_shown_when_the_role_may_not_see_them(settings, conn):
    require_quarantine_access(conn)
    changed = {
        "warehouse_user": settings.warehouse_admin_user,
        "warehouse_password": settings.warehouse_admin_password,
    }
    with connect(settings.model_copy(update=changed), "test admin") as admin:
        apply_grants(admin)
    changed = {"warehouse_user": ANALYST, "warehouse_password": settings.analyst_password}
    with (
        connect(settings.model_copy(update=changed), "test analyst") as analyst,
        pytest.raises(QuarantineAccessError, match="role analyst"),
    ):
        require_quarantine_access(analyst)


def test_a_person_lists_shows_corrects_and_replays_a_row_by_command(things, conn, monkeypatch):
    from nightshift.cli.data import quarantine

    settings, row_id = things
    monkeypatch.setattr(quarantine, "load_settings", lambda: settings)

    def type_in(*words):
        done = CliRunner().invoke(quarantine.app, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "wrong" not in type_in("list", "things").replace("wrong_type", "")
    assert "'wrong'" in type_in("show", row_id)
    type_in(
        "correct",
        row_id,
        "--set",
        "size=5",
        "--note",
        "upstream says 5",
        "--at",
        CORRECTED.isoformat(),
    )
    assert f"1 row(s) replayed by landing/things/dt={DAY}/corrected-" in type_in(
        "replay", "things", DAY, "--reason", "corrected"
    )
    assert type_in("replay", "things", DAY, "--reason", "again") == "nothing to replay\n"
    assert [row[:2] for row in visible(conn)] == [("a", 1), ("b", 5), ("c", 7)]


def test_the_difference_and_what_adopts_it_are_printed_by_command(things, monkeypatch):
    from nightshift.cli.data import contract

    settings, _ = things
    monkeypatch.setattr(contract, "load_settings", lambda: settings)

    done = CliRunner().invoke(contract.app, ["diff", "things", str(DAY)])

    assert done.exit_code == 1
    for line in (
        "+ extra  (unknown, text; ignored until adopted)",
        "    added: [extra]",
        "Then: nightshift migrate",
    ):
        assert line in done.output


def test_the_plan_of_a_redo_is_printed_by_command(things, monkeypatch):
    from nightshift.cli.app import app
    from nightshift.cli.operations import plan

    settings, _ = things
    monkeypatch.setattr(plan, "load_settings", lambda: settings)
    deliver(settings, b"id,how_big\na,2\n", 1, CORRECTED, "second")

    done = CliRunner().invoke(app, ["plan", "redo", "--dataset", "things"], catch_exceptions=False)

    assert done.exit_code == 0
    assert "landed, not loaded" in done.output
    assert "landing/things/dt=2013-03-10/second.csv" in done.output
    assert "added column ignored: extra" in done.output


def correct_by_cli(settings, monkeypatch, row_id, *values):
    from nightshift.cli.app import app
    from nightshift.cli.data import quarantine

    monkeypatch.setattr(quarantine, "load_settings", lambda: settings)
    given = [part for value in values for part in ("--set", value)]
    return CliRunner().invoke(
        app, ["quarantine", "correct", str(row_id), *given, "--note", "asked"]
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("size=5,00", "size: wrong_type (accepted: whole numbers"),
        ("size=101", "size: out_of_range"),
        ("size=", "size: missing_value"),
        ("extra=5", "extra: no such column"),
    ],
)
def test_a_value_that_the_contract_cannot_read_is_no_correction(
    things, conn, monkeypatch, value, says
):
    settings, row_id = things

    result = correct_by_cli(settings, monkeypatch, row_id, value)

    assert result.exit_code != 0
    assert isinstance(result.exception, QuarantineError)
    assert says in str(result.exception)
    assert find_row(conn, row_id).state == "open"
    assert correct_by_cli(settings, monkeypatch, row_id, "size=5").exit_code == 0
    assert find_row(conn, row_id).state == "corrected"


def test_malformed_lines_stay_as_they_are_when_another_row_is_replayed(
    settings, conn, run, tmp_path, monkeypatch
):
    from nightshift.contracts.datasets import load_contracts

    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "things.yaml").write_text(CONTRACT.replace("ratio: 0.5", "ratio: 0.9"))
    suites = write_suite(tmp_path / "expectations", "raw/things")
    moved = settings.model_copy(update={"dags_dir": tmp_path, "expectations_dir": suites})
    migrate(conn, load_contracts(moved.datasets_dir))
    ObjectStore.open(moved).ensure_bucket()
    lines = b'a,1\n\nb,"x"y\nc,"open\nd,wrong\ne,7,8\n'
    deliver(moved, b"id,how_big\n" + lines, 5, DELIVERED, "first")
    ingest(moved, "things", DAYS, run)
    malformed, wrong = (
        [row for row in list_rows(conn, "raw/things", DAYS) if row.reason == reason]
        for reason in ("malformed_row", "wrong_type")
    )
    assert [row.delivered["line"] for row in malformed] == ['b,"x"y', 'c,"open', "e,7,8"]
    assert correct_by_cli(moved, monkeypatch, malformed[0].row_id, "size=6").exit_code != 0
    assert correct_by_cli(moved, monkeypatch, malformed[0].row_id, "id=b", "size=6").exit_code == 0
    assert correct_by_cli(moved, monkeypatch, wrong[0].row_id, "size=5").exit_code == 0

    result = replay_corrections(moved, "things", DAY, run)

    assert (
        ObjectStore.open(moved).get(result.data_key)
        == b'id,how_big\na,1\nb,6\nc,"open\nd,5\ne,7,8\n'
    )
    assert [row[:2] for row in visible(conn)] == [("a", 1), ("b", 6), ("d", 5)]
