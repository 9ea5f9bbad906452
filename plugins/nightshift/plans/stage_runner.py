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

    def run_step(self, step: Step, report: Report) -> int:
        """Run one step; return the rows that readers see of it.

        Raises:
            NightshiftError: The stage failed; what it published before stands.
        """
        days = step.partitions
        if step.stage == "ingest":
            return self._ingest(step)
        if step.stage == "transform":
            result = build(self.settings, days, self.run)
            return result.require_all().n_rows
        if step.stage == "rollback":
            return self._roll_back(report)
        spec = load_spec(self.settings.models_dir, step.name)
        if step.stage == "score":
            published = score(self.settings, spec, days, self.run)
            return sum(load.n_rows for load in published)
        monitor(self.settings, spec, days, self.run)
        # A verdict is one row a day, of tables that readers of predictions never see.
        return len(days)

    def _ingest(self, step: Step) -> int:
        """Load the drops of a step; those that are loaded already stay as they are."""
        if self.plan.kind != "redo":
            loaded = ingest(
                self.settings,
                step.name,
                step.partitions,
                self.run,
            )
            return loaded.n_rows
        is_reread = bool(self.plan.arguments["reread"])
        # Late drops are loaded one by one: a bad one does not stop the rest.
        late = load_late_drops(
            self.settings,
            step.name,
            step.partitions,
            self.run,
            reread=is_reread,
        )
        return sum(drop.n_rows for drop in late.loaded)

    def _roll_back(self, report: Report) -> int:
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
        done = roll_back(
            self.settings,
            spec,
            repair,
            self.reason,
            self.run,
            report,
        )
        return sum(load.n_rows for load in done.published)
