"""Run one step of a plan by the stage's own function, the same that a night calls."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.monitoring.monitor import monitor
from nightshift.plans.plan import ONLY_RECORD, PlanBusyError, StalePlanError
from nightshift.scoring.pipeline import score
from nightshift.scoring.republish import plan_rollback, roll_back
from nightshift.transformation.build import build

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.plans.plan import Plan, Step
    from nightshift.scoring.republish import RollbackPlan
    from nightshift.settings import Settings

Report = Callable[[str], None]
"""Takes one line of progress."""
_MAX_SHOWN = 5


class DropsLeftError(NightshiftError):
    """Drops that a plan loads were refused."""

    code = "NS-PLAN-006"


@dataclass(frozen=True)
class StageRunner:
    """Runs the steps of one plan.

    Attributes:
        settings: Warehouse, lake and project.
        plan: The plan.
        reason: Why; a rollback keeps it in its record.
        run: The run of all steps, the same after a kill.
    """

    settings: Settings
    plan: Plan
    reason: str
    run: RunContext

    def run_step(self, step: Step, report: Report) -> None:
        """Run one step.

        Raises:
            NightshiftError: The stage failed; what it published before stands.
        """
        days = step.partitions
        if step.stage == "ingest":
            self._ingest(step)
            return
        if step.stage == "transform":
            build(self.settings, days, self.run).require_all()
            return
        if step.stage == "rollback":
            self._roll_back(report)
            return
        # What is left belongs to one model.
        spec = load_spec(self.settings.models_dir, step.name)
        if step.stage == "score":
            score(self.settings, spec, days, self.run)
        else:
            monitor(self.settings, spec, days, self.run)

    def _ingest(self, step: Step) -> None:
        """Load the drops of a step; those that are loaded already stay as they are."""
        days = step.partitions
        if self.plan.name != "redo":
            ingest(self.settings, step.name, days, self.run)
            return
        # Late drops are loaded one by one: a bad one does not stop the rest.
        swept = load_late_drops(
            self.settings,
            step.name,
            days,
            self.run,
            reread=bool(self.plan.arguments["reread"]),
        )
        if swept.is_busy:
            raise PlanBusyError(
                f"Another process is loading {step.name}: nothing of this step was done.",
                todo=f'Apply it again: nightshift apply {self.plan.token} --reason "…"',
            )
        # The later steps would build without these drops, which is not what was shown.
        if swept.left:
            raise DropsLeftError(
                f"{len(swept.left)} drop(s) of {step.name} were refused.",
                expected="every drop of the step is loaded",
                got="; ".join(f"{drop.data_key}: {code}" for drop, code in swept.left),
                todo="Read docs/runbooks/<code>.md; withdraw what stays wrong. Then plan again.",
            )

    def _roll_back(self, report: Report) -> None:
        """Let the earlier champion serve again.

        Every range of the plan flips here, each in one transaction. A second call finds the
        record of the first by the run, and goes on with it.
        """
        arguments = self.plan.arguments
        spec = load_spec(self.settings.models_dir, arguments["model"])
        since = Partition.parse(arguments["since"])
        version = int(arguments["version"])
        # Tried once more: the version must still load and score.
        repair = plan_rollback(self.settings, spec, version, since, self.run)
        self._refuse_other_days(repair)
        roll_back(
            self.settings,
            spec,
            repair,
            self.reason,
            self.run,
            report,
        )

    def _refuse_other_days(self, repair: RollbackPlan) -> None:
        """Refuse a rollback of other days than the plan shows: a night came or went meanwhile.

        Raises:
            StalePlanError: The days differ.
        """
        shown: set[dt.date] = set()
        for step in self.plan.work:
            # This step republishes no day.
            if step.reason != ONLY_RECORD:
                shown.update(step.partitions.days)
        affected: set[dt.date] = set()
        for part in repair.partition_runs:
            affected.update(part.partitions.days)
        if affected == shown:
            return
        differing = ", ".join(str(day) for day in sorted(affected ^ shown)[:_MAX_SHOWN])
        raise StalePlanError(
            f"Plan {self.plan.token} is stale: the rollback republishes other days than it shows.",
            expected=f"{len(shown)} day(s)",
            got=f"{len(affected)} day(s); only in one of both: {differing}",
            todo="Nothing was changed. Plan the rollback again and apply the new token.",
        )
