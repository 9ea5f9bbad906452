"""Make plans: what a rerun, a backfill, a redo or a rollback would do; nothing else is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nightshift.contracts.model_spec import ModelSpec, load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import NightshiftError
from nightshift.plans.cost import predict
from nightshift.plans.facts import read_facts
from nightshift.plans.plan import ONLY_RECORD, Plan, PlanBusyError, Step, new_token
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
MAXIMUM_DRAFTS = 5
"""How often a plan is drafted again because its inputs changed meanwhile."""


class NothingToPlanError(NightshiftError):
    """The plan would do nothing."""

    code = "NS-PLAN-005"


@dataclass(frozen=True)
class Draft:
    """What a plan shows, before what it rests on is added.

    Attributes:
        arguments: What was asked for.
        steps: In the order of the work.
        notes: What a person should know.
    """

    arguments: Mapping[str, Any]
    steps: list[Step]
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> list[Step]:
        """Return the steps that run."""
        return [step for step in self.steps if not step.is_reused]


@dataclass
class Planner:
    """Makes the plans of one warehouse.

    Attributes:
        settings: Warehouse, lake and project.
        conn: Any connection; nothing is written.
    """

    settings: Settings
    conn: Connection

    # Read anew for each draft: a person may be editing them.
    @property
    def specs(self) -> dict[str, ModelSpec]:
        """Return the models by name."""
        return load_specs(self.settings.models_dir)

    @property
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
        arguments = {
            "first": str(days.first),
            "last": str(days.last),
            "stage": stage,
            "model": model,
        }

        def draft() -> Draft:
            steps = self._rerun_steps(days, stage, model)
            if everything:
                steps = [replace(step, is_reused=False) for step in steps]
            return Draft(arguments, steps)

        return self.finish("rerun", draft)

    def _rerun_steps(
        self,
        days: PartitionRange,
        stage: str,
        model: str,
    ) -> list[Step]:
        stages = STAGES[STAGES.index(stage) :]
        finder = self.stages
        steps: list[Step] = []
        if "ingest" in stages:
            steps += finder.ingest(days)
        if "transform" in stages:
            steps += finder.transform(days, steps)
        # A model alone is scored again: its features are shared with other models.
        for name, spec in finder.specs.items():
            if model in ("", name):
                steps += finder.of_model(spec, days, stages, steps)
        return steps

    def backfill(self, days: PartitionRange) -> Plan:
        """Plan to load and build a range of the past."""
        arguments = {
            "first": str(days.first),
            "last": str(days.last),
        }

        def draft() -> Draft:
            finder = self.stages
            steps = finder.ingest(days)
            steps += finder.transform(days, steps)
            return Draft(arguments, steps)

        return self.finish("backfill", draft)

    def redo(self, scope: Scope) -> Plan:
        """Plan to reprocess what late and corrected data touches."""
        return self.finish("redo", lambda: self._draft_redo(scope))

    def _draft_redo(self, scope: Scope) -> Draft:
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
        return Draft(arguments, steps, tuple(notes))

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
        run = RunContext(f"plan/rollback/{model}/v{version}", actor=actor)
        return self.finish("rollback", lambda: self._draft_rollback(model, version, since, run))

    def _draft_rollback(
        self,
        model: str,
        version: int,
        since: Partition | None,
        run: RunContext,
    ) -> Draft:
        spec = self.specs[model]
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
        return Draft(arguments, steps, (tried,))

    def finish(self, name: str, draft: Callable[[], Draft]) -> Plan:
        """Add what the plan rests on, what it costs and what readers notice.

        The facts say what to read only once there are steps, so something may change in between.
        The draft is made again after the facts were read, until it comes out as before.

        Raises:
            NothingToPlanError: No step runs.
            PlanBusyError: The steps came out otherwise each time.
        """
        shown = _with_work(name, draft())
        for _ in range(MAXIMUM_DRAFTS):
            facts = read_facts(self.settings, self.conn, shown.work)
            again = _with_work(name, draft())
            if again == shown:
                break
            shown = again
        else:
            raise PlanBusyError(
                f"What a {name} would do changes while it is planned.",
                todo="Wait until the night's tasks have ended, and plan again.",
            )
        noticed = notice(self.conn, shown.work)
        return Plan(
            new_token(),
            name,
            shown.arguments,
            tuple(shown.steps),
            facts,
            predict(self.conn, shown.work),
            (*noticed, *shown.notes),
            code_version(),
        )


def _with_work(name: str, draft: Draft) -> Draft:
    """Return a draft as it is, or refuse one without a step that runs."""
    if not draft.work:
        raise NothingToPlanError(
            f"There is nothing to {name}.",
            got="; ".join(draft.notes) or "every partition has the same inputs and the same code",
            todo="Nothing. `nightshift plan rerun … --everything` runs it all the same.",
        )
    return draft


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
