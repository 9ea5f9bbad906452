"""A second scheduler beside the first, and one of them killed in between: nothing takes effect
twice."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.chaos.scheduler.disturbance import contents, end_of, start, wait_until_quiet
from tests.ends_with_us import ENDS_WITH_US
from tests.whole_night import NIGHT, Whole

from nightshift.warehouse.connection import connect
from nightshift_local.servers.airflow_parts import AirflowPart

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.long,
]

N_STARTED, KILLED_AFTER = 20, 12
ENOUGH_RUNS = 50
"""What is started wakes more: predictions, verdicts, trainings."""


@contextmanager
def second_scheduler(whole: Whole) -> Iterator[subprocess.Popen[bytes]]:
    """Run another scheduler on the same metadata."""
    launch = AirflowPart(whole.settings.home, "airflow-scheduler").launch()
    process = subprocess.Popen(
        [*ENDS_WITH_US, *launch.argv],
        env={**os.environ, **launch.env},
        cwd=launch.cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def repeated_effects(whole: Whole) -> list[tuple[str, int, int]]:
    """Return loads of the night that took effect more than once: dataset, load, entries in the
    ledger."""
    query = """
        select dataset, load_id, count(*) from ops.ledger
        where partition_date = %s and event in ('published', 'duplicate') group by 1,
            2 having count(*) > 1
    """
    with connect(whole.settings, "test") as conn:
        return conn.execute(query, [NIGHT]).fetchall()


@pytest.mark.promise("R15")
def test_runs_take_effect_once_when_two_schedulers_share_them_and_one_is_killed(
    whole: Whole, record_figure: Callable[[str, float], None]
) -> None:
    wait_until_quiet(whole)
    before, n_before = contents(whole), len(whole.api.runs(NIGHT))
    with second_scheduler(whole) as other:
        for number in range(N_STARTED):
            run = start(whole, "score__flight_delayed" if number % 2 else "transform")
            if number == KILLED_AFTER:
                other.kill()
            assert end_of(whole, run, seconds=400).state == "success"
        wait_until_quiet(whole)
    n_runs = len(whole.api.runs(NIGHT)) - n_before
    record_figure("runs under two schedulers", n_runs)
    assert n_runs >= ENOUGH_RUNS
    assert repeated_effects(whole) == []
    after = contents(whole)
    assert {name: after[name] for name in after if not name.startswith("monitoring")} == {
        name: before[name] for name in before if not name.startswith("monitoring")
    }
