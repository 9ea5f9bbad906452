"""Make plans: what a rerun, a backfill, a redo or a rollback would do; nothing else is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nightshift.contracts.model_spec import ModelSpec, load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import NightshiftError
from nightshift.plans.cost import predict
from nightshift.plans.facts import read_facts
from nightshift.plans.plan import ONLY_RECORD, Plan, Step, new_token
from nightshift.plans.stage_steps import (
    FEATURES,
    LANDED,
    StageSteps,
    stale_steps,
    steps_of,
)
from nightshift.reprocess.plan import make_plan as make_redo_plan
from nightshift.reprocess.scope import Scope
from nightshift.scoring.republish import plan_rollback

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

STAGES = ("ingest", "transform", "score", "monitor")


class NothingToPlanError(NightshiftError):
    """The plan would do nothing."""

    code = "NS-PLAN-005"


@dataclass
class Planner:
    """Makes the plans of one warehouse.

    Attributes:
        settings: Warehouse, lake and project.
        conn: Any connection; nothing is written.
    """

    settings: Settings
    conn: Connection

    @cached_property
    def specs(self) -> dict[str, ModelSpec]:
        """Return the models by name."""
        return load_specs(self.settings.models_dir)

    @cached_property
    def stages(self) -> StageSteps:
        """Return what finds the steps of each stage."""
        return StageSteps(self.settings, self.conn, self.specs)

    def rerun(
        self,
        days: PartitionRange,
        stage: str = "transform",
        model: str = "",
        *,
        everything: bool = False,
    ) -> Plan:
        """Plan to run days again from a stage on; what would come out equal is reused.

        Args:
            days: The partitions.
            stage: The first stage: one of ``STAGES``.
            model: Only this model's scores and verdicts; all by default.
            everything: Run also what would come out equal, to prove that it does.
        """
        stages = STAGES[STAGES.index(stage) :]
        steps: list[Step] = []
        if "ingest" in stages:
            steps += self.stages.ingest(days)
        if "transform" in stages:
            steps += self.stages.transform(days, steps)
        # A model alone is scored again: its features are shared with other models.
        for name, spec in self.specs.items():
            if model in ("", name):
                steps += self.stages.of_model(spec, days, stages, steps)
        if everything:
            steps = [replace(step, is_reused=False) for step in steps]
        arguments = {
            "first": str(days.first),
            "last": str(days.last),
            "stage": stage,
            "model": model,
        }
        return self._finish("rerun", arguments, steps)

    def backfill(self, days: PartitionRange) -> Plan:
        """Plan to load and build a range of the past."""
        steps = self.stages.ingest(days)
        steps += self.stages.transform(days, steps)
        arguments = {
            "first": str(days.first),
            "last": str(days.last),
        }
        return self._finish("backfill", arguments, steps)

    def redo(self, scope: Scope) -> Plan:
        """Plan to reprocess what late and corrected data touches."""
        stale = make_redo_plan(self.settings, self.conn, scope)
        notes = []
        late: dict[str, dict[Any, str]] = {}
        for drop in stale.late:
            days = late.setdefault(f"raw/{drop.dataset}", {})
            days[drop.partition] = LANDED
            known_at = f"{drop.delivered_at:%Y-%m-%d %H:%M} UTC"
            notes.append(f"late: {drop.data_key}, known at {known_at}")
        steps: list[Step] = []
        for dataset in sorted(late):
            steps += steps_of("ingest", dataset, late[dataset])
        reasons = {part.day: part.reason for part in stale.features}
        steps += steps_of("transform", FEATURES, reasons)
        steps += stale_steps("score", stale.predictions)
        steps += stale_steps("monitor", stale.verdicts)

        # What upstream still owes is no step, but a person should know.
        for hole in stale.missing_drops:
            waiting = f"{hole.n_waiting} night(s) wait for it"
            notes.append(f"{hole.dataset} of {hole.day}: {hole.status}; {waiting}")
        notes += stale.notes
        arguments = {
            "dataset": scope.dataset,
            "first": str(scope.first or ""),
            "last": str(scope.last or ""),
            "reread": scope.reread,
        }
        return self._finish("redo", arguments, steps, notes)

    def rollback(
        self,
        model: str,
        version: int,
        since: Partition | None,
        actor: str,
    ) -> Plan:
        """Plan to let an earlier champion serve again; the version is tried now.

        Raises:
            RollbackRefusedError: The version cannot serve.
        """
        spec = self.specs[model]
        run = RunContext(f"plan/rollback/{model}/v{version}", actor=actor)
        repair = plan_rollback(self.settings, spec, version, since, run)
        dataset = spec.predictions_dataset
        steps = []
        for part in repair.partition_runs:
            first, last = part.partitions.first.day, part.partitions.last.day
            reason = f"version {version} scores again"
            if part.reusable_loads:
                reason = f"version {version}, from stored loads"
            steps.append(Step("rollback", dataset, first, last, reason))
        # Nothing was scored since: the record alone makes the version champion.
        if not steps:
            first = repair.since.day
            steps.append(Step("rollback", dataset, first, first, ONLY_RECORD))
        arguments = {
            "model": model,
            "version": version,
            "since": str(repair.since),
        }
        tried = f"version {version} loads, passes its checks and scores"
        return self._finish("rollback", arguments, steps, [tried])

    def _finish(
        self,
        name: str,
        arguments: Mapping[str, Any],
        steps: list[Step],
        notes: Iterable[str] = (),
    ) -> Plan:
        """Add what the plan rests on, what it costs and what readers notice.

        Raises:
            NothingToPlanError: No step runs.
        """
        work = [step for step in steps if not step.is_reused]
        if not work:
            raise NothingToPlanError(
                f"There is nothing to {name}.",
                got="; ".join(notes) or "every partition has the same inputs and the same code",
                todo="Nothing. `nightshift plan rerun … --everything` runs it all the same.",
            )
        noticed = notice(self.conn, work)
        return Plan(
            new_token(),
            name,
            arguments,
            tuple(steps),
            read_facts(self.settings, self.conn, work),
            predict(self.conn, work),
            (*noticed, *notes),
            code_version(),
        )


def notice(conn: Connection, work: Iterable[Step]) -> list[str]:
    """Return what readers may notice: partitions that are replaced, and those that are new."""
    counts: Counter[tuple[str, str]] = Counter()
    for step in work:
        # Readers never see raw rows.
        if step.stage == "ingest":
            continue
        pattern = step.dataset.replace("*", "%")
        rows = conn.execute(_PUBLISHED_DAYS, [pattern, step.first, step.last])
        there = {day for (day,) in rows}
        for day in step.partitions.days:
            effect = "replaced if they differ" if day in there else "new"
            counts[step.dataset, effect] += 1
    lines = []
    for (dataset, effect), n in counts.items():
        lines.append(f"{dataset}: {n} partition(s) {effect}")
    return lines


_PUBLISHED_DAYS = """
select partition_date from ops.published
where dataset like %s and partition_date between %s and %s
"""
