"""Two hundred incidents at once: one notice, a short evaluation, a page and a status to be read."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.integration.notices.receivers import running_hook
from tests.integration.page.conftest import open_page

from nightshift.cli.services.migrate import as_admin
from nightshift.cli.services.status import print_incidents
from nightshift.incidents.context import EvaluationContext
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.facts import Fact, Rule
from nightshift.incidents.overview import read_overview
from nightshift.notices.delivery import deliver
from nightshift.notices.notice_settings import load_notice_settings
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.connection import connect

pytestmark = [pytest.mark.integration, pytest.mark.promise("R20")]

N_INCIDENTS, MAX_SECONDS, MAX_LINES = 200, 5.0, 60
ADDRESS = "NIGHTSHIFT_TEST_MANY_HOOK"
NOTICES = f"channels: {{webhook: {{pager: {{url: {{env: {ADDRESS}}}}}}}}}\notherwise: [pager]\n"


def broken(number: int) -> Fact:
    """Return a fact; every tenth one is critical."""
    return Fact(
        code="NS-SCORE-007" if number % 3 else "NS-WRITE-007",
        severity="warning" if number % 10 else "critical",
        health="degraded",
        subject_type="model",
        subject=f"m{number}",
        what=f"m{number} is broken.",
        consequence="Readers wait.",
        command=f"nightshift score m{number} 2013-03-05",
        models=(f"m{number}",),
    )


def test_people_can_read_what_200_incidents_at_once_say(
    settings, conn, tmp_path, monkeypatch, capsys, record_figure: Callable[[str, float], None]
) -> None:
    with connect(as_admin(settings), "test") as admin:
        apply_grants(admin)
    facts = [broken(number) for number in range(N_INCIDENTS)]
    rules = (Rule("many", "scores", lambda _: facts),)
    evaluation = evaluate(settings, rules=rules)
    assert len(evaluation.opened) == N_INCIDENTS
    assert evaluation.seconds < MAX_SECONDS
    # They last: seeing them again costs no more.
    assert evaluate(settings, rules=rules).seconds < MAX_SECONDS

    (tmp_path / "notices.yaml").write_text(NOTICES)
    own = settings.model_copy(update={"notices_file": tmp_path / "notices.yaml"})
    with running_hook() as hook:
        monkeypatch.setenv(ADDRESS, hook.url)
        started = time.monotonic()
        deliver(own, load_notice_settings(own))
        seconds = time.monotonic() - started
        deliver(own, load_notice_settings(own))
        (notice,) = hook.documents
    assert notice["event"] == "digest"
    assert len(notice["incidents"]) == N_INCIDENTS
    assert len(notice["text"].splitlines()) <= 20
    assert "critical" in notice["text"].splitlines()[2]

    print_incidents(read_overview(EvaluationContext(settings, conn, evaluation.at), None))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < MAX_LINES
    # The most severe ones come first, and the rest is counted by its cause.
    assert "critical" in lines[0]
    assert any("and 190 more: NS-SCORE-007" in line for line in lines)

    page = open_page(settings)
    document = page.get("/?format=json").json()
    assert document["n_incidents"] == N_INCIDENTS
    assert len(document["incidents"]) == 100
    assert page.get("/").status_code == 200
    for name, value in {
        "seconds of an evaluation that opens 200 incidents": evaluation.seconds,
        "seconds until 200 incidents are told": seconds,
        "notices of 200 incidents": 1,
    }.items():
        record_figure(name, value)
