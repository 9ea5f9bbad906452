"""Run one step of a plan by the stage's own function, the same that a night calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.monitoring.monitor import monitor
from nightshift.scoring.pipeline import score
from nightshift.scoring.republish import plan_rollback, roll_back
from nightshift.transformation.build import build

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.plans.plan import Plan, Step
    from nightshift.settings import Settings

Report = Callable[[str], None]
"""Takes one line of progress."""


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
        load_late_drops(
            self.settings,
            step.name,
            days,
            self.run,
            reread=bool(self.plan.arguments["reread"]),
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
        roll_back(
            self.settings,
            spec,
            repair,
            self.reason,
            self.run,
            report,
        )
