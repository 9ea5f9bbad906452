"""What a look for incidents takes while nothing is broken."""

from __future__ import annotations

import re
from contextlib import contextmanager

from nightshift.incidents import evaluation
from nightshift.incidents.rules.declared import RULES
from nightshift.lake.object_store import ObjectStore

# BEGIN, COMMIT and two queries; only what a rule has found is written, and what all answered is
# one statement. On a busy machine each of them waits for its turn.
STATEMENTS_OF_A_RULE = 4
# A frontend's message of libpq's trace; a statement may have several lines.
ENVELOPE = re.compile(r"\tF\t\d+\t(?:Query|Execute)\t")


def test_a_look_at_what_is_fine_takes_few_statements(settings, conn, tmp_path, monkeypatch):
    ObjectStore.open(settings).ensure_bucket()
    traced = tmp_path / "trace"
    real_connect = evaluation.connect

    @contextmanager
    def traced_connect(*arguments):
        with real_connect(*arguments) as own, traced.open("wb") as file:
            own.pgconn.trace(file.fileno())
            yield own
            own.pgconn.untrace()

    monkeypatch.setattr(evaluation, "connect", traced_connect)
    done = evaluation.evaluate(settings)
    assert (done.opened, done.failed_rules) == ((), ())
    statements = ENVELOPE.findall(traced.read_text())
    asked = conn.execute("select kind from ops.incident_rules").fetchall()
    assert len(asked) == sum(not rule.needs_airflow for rule in RULES)
    assert len(asked) < len(statements) <= STATEMENTS_OF_A_RULE * len(asked)


def test_subjects_are_written_when_a_spec_changes_and_not_at_each_look(settings, conn):
    ObjectStore.open(settings).ensure_bucket()
    evaluation.evaluate(settings)
    query = "select subject, owner, xmin::text from ops.health_subjects order by 1"
    before = conn.execute(query).fetchall()
    assert before
    evaluation.evaluate(settings)
    assert conn.execute(query).fetchall() == before

    conn.execute("update ops.health_subjects set owner = 'nobody' where subject like 'pred%'")
    conn.execute(
        "insert into ops.health_subjects (subject_type, subject, owner) values ('model', 'x', '')"
    )
    evaluation.evaluate(settings)
    after = conn.execute(query).fetchall()
    assert [row[:2] for row in after] == [row[:2] for row in before]
