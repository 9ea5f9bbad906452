"""One round: evaluate what is broken, then tell whoever was not told; safe at any time."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.errors import WarehouseError, cause_of
from nightshift.notices.delivery import ChannelResult, deliver
from nightshift.notices.heartbeat import send_heartbeat
from nightshift.notices.last_good_settings import usable_settings
from nightshift.notices.outage import NOTICE_SETTINGS, tell_end_of_outage, tell_outage
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.incidents.context import AirflowState
    from nightshift.incidents.evaluation import Evaluation
    from nightshift.notices.notice_settings import NoticeSettings, NoticeSettingsError
    from nightshift.settings import Settings

WAREHOUSE, EVALUATION, FRESHNESS_CHECK = "warehouse", "evaluation", "freshness check"
"""What can keep us from seeing what is broken."""
# One round that fails, for a lock or a timeout, is repeated a minute later before anybody is woken.
EVALUATION_PATIENCE = dt.timedelta(seconds=90)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        results: What became of each channel.
        problem: Why what is broken is not known; empty if it was evaluated.
        evaluation: What the evaluation changed; None without one.
    """

    results: list[ChannelResult] = field(default_factory=list)
    problem: str = ""
    evaluation: Evaluation | None = None

    @property
    def failures(self) -> list[str]:
        """Return one line for each channel that did not take its message."""
        failed = [result for result in self.results if result.problem]
        return [f"{result.channel}: {result.problem}" for result in failed]


def tell(
    settings: Settings,
    *,
    at: dt.datetime | None = None,
    airflow: AirflowState | None = None,
) -> Round:
    """Evaluate the incidents, then tell all channels; a warehouse that is away is told too.

    Args:
        settings: Warehouse, home, and where the settings of notices are.
        at: The instant that deadlines are compared with; None is the present.
        airflow: Airflow's API, where it can be reached.

    Raises:
        NoticeSettingsError: The settings of notices are wrong, and none has worked here before.
    """
    from nightshift.incidents.evaluation import evaluate

    notices, wrong = usable_settings(settings)
    results = _tell_of_settings(settings, notices, wrong)
    try:
        with connect(settings, "nightshift notices") as conn:
            conn.execute("select 1")
    except WarehouseError as error:
        results += tell_outage(settings, notices, WAREHOUSE, error)
        return Round(results, cause_of(error))

    problem, evaluation = "", None
    results += tell_end_of_outage(settings, notices, WAREHOUSE)
    try:
        evaluation = evaluate(settings, at=at, airflow=airflow)
        results += tell_end_of_outage(settings, notices, EVALUATION)
    except Exception as error:  # noqa: BLE001 - whatever it is, people are told what is known
        # A warehouse that answers and takes no row, for example: nobody sees what is broken.
        problem = cause_of(error)
        results += tell_outage(settings, notices, EVALUATION, error, EVALUATION_PATIENCE)
    # What was found before, here or elsewhere, is told all the same.
    results += deliver(settings, notices)
    results += send_heartbeat(settings, notices)
    return Round(results, problem, evaluation)


def _tell_of_settings(
    settings: Settings, notices: NoticeSettings, wrong: NoticeSettingsError | None
) -> list[ChannelResult]:
    """Tell the beginning or the end of settings that are wrong, by those that worked last."""
    if wrong is None:
        return tell_end_of_outage(settings, notices, NOTICE_SETTINGS)
    logger.warning("The settings of notices are wrong: %s", wrong)
    return tell_outage(settings, notices, NOTICE_SETTINGS, wrong, EVALUATION_PATIENCE)


def tell_blindness(settings: Settings, name: str, error: Exception) -> list[ChannelResult]:
    """Tell people once that somebody could not look.

    Raises:
        NoticeSettingsError: The settings of notices are wrong.
    """
    notices, _ = usable_settings(settings)
    return tell_outage(settings, notices, name, error)


def end_blindness(settings: Settings, name: str) -> list[ChannelResult]:
    """Tell those who were told of it that it is over.

    Raises:
        NoticeSettingsError: The settings of notices are wrong.
    """
    notices, _ = usable_settings(settings)
    return tell_end_of_outage(settings, notices, name)


def tell_quietly(settings: Settings) -> None:
    """Do a round where nothing may fail because of it: whatever goes wrong is logged."""
    try:
        done = tell(settings)
    except Exception as error:  # noqa: BLE001 - a notice never fails a night
        logger.warning("No notice could be sent: %s", cause_of(error))
        return
    for failure in done.failures:
        logger.warning("A notice was not taken by %s", failure)
