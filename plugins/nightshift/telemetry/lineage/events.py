"""Run events of a night: START and COMPLETE, FAIL or ABORT of each load, gate and training.

A run is one load of the write path, whichever command or task began it. Names, counts and codes
only: no message of an error, no value of a row, nobody's name.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    OutputDataset,
    Run,
    RunEvent,
    RunState,
)
from openlineage.client.facet_v2 import RunFacet

from nightshift.contracts.datasets import read_contracts
from nightshift.contracts.model_spec import read_specs
from nightshift.telemetry.identifiers import (
    declared_name,
    deployment_of,
    error_name,
    lineage_run_id,
)
from nightshift.telemetry.lineage import datasets, run_facets
from nightshift.telemetry.lineage.gate_results import GateCheck, read_gate
from nightshift.telemetry.lineage.load_facts import (
    LoadSummary,
    ModelOwner,
    TrainingFact,
    read_columns,
    read_load,
    read_owners,
    read_table_comment,
    read_trainings,
)
from nightshift.telemetry.night_records import Load, NightRecords

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

PRODUCER = "urn:nightshift"
TRAINING = "Trains a challenger and registers it."
GATE = "Runs an expectation suite on staged rows before they are published."
_ENDS = {
    "published": RunState.COMPLETE,
    "duplicate": RunState.COMPLETE,
    "refused": RunState.FAIL,
}


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        error: Code of the error; empty without one.
    """

    state: RunState
    at: dt.datetime
    error: str = ""


@dataclass(frozen=True)
class _Sides:
    """What a run reads and writes."""

    inputs: list[InputDataset]
    outputs: list[OutputDataset]


class NightEvents:
    """The events of one partition."""

    def __init__(self, settings: Settings, conn: Connection, records: NightRecords) -> None:
        """Read who owns the models; the rest is read event by event."""
        self._settings = settings
        self._conn = conn
        self._records = records
        self._names = datasets.DatasetNames(settings)
        self._deployment = deployment_of(settings)
        self._owners: Mapping[str, ModelOwner] = read_owners(conn)
        # A wrong file costs its dataset the lineage of columns, and nothing else.
        self._contracts = read_contracts(settings.datasets_dir).documents
        self._specs = read_specs(settings.models_dir).documents

    def events(self) -> Iterator[RunEvent]:
        """Yield the events of all loads that begin with this partition, and of its trainings."""
        loads: dict[int, list[Load]] = defaultdict(list)
        for load in self._records.loads:
            # A range is one run: it is told with its first partition.
            if load.first_day == self._records.day:
                loads[load.load_id].append(load)
        for members in loads.values():
            yield from self._of_load(members)
        for training in read_trainings(self._conn, self._records.day):
            yield from self._of_training(training)

    def _of_load(self, members: list[Load]) -> Iterator[RunEvent]:
        first = members[0]
        job_name, description = self._job_of(first)
        owner = self._owners.get(first.name)
        job = run_facets.job_of(self._settings, job_name, description, owner)
        run_id = lineage_run_id(self._deployment, f"load {first.load_id}")
        facets = run_facets.facets_of(self._settings, first.run_id, first.first_day, first.last_day)
        # What a person's command wrote has no run of a DAG around it.
        if first.identity is None:
            facets.pop("parent", None)

        sides = self._sides(first.load_id, owner)
        begin = _Sides(sides.inputs, _without_facets(sides.outputs))
        yield self._event(
            RunState.START,
            first.started_at,
            run_id,
            facets,
            job,
            begin,
        )
        ending = self._ending_of(members)
        if ending is None:
            return
        # Rows that nobody can read are no output.
        end = sides if ending.state is RunState.COMPLETE else begin
        end_facets = run_facets.with_error(facets, ending.error)
        yield self._event(
            ending.state,
            ending.at,
            run_id,
            end_facets,
            job,
            end,
        )
        for load in members:
            checks = read_gate(self._settings, load)
            if checks:
                yield from self._of_gate(load, checks, ending, facets)

    def _of_gate(
        self,
        load: Load,
        checks: list[GateCheck],
        ending: Ending,
        facets: Mapping[str, RunFacet],
    ) -> Iterator[RunEvent]:
        """Yield the run of a gate, whose input has the result of each expectation."""
        key = f"gate {load.dataset} {load.load_id}"
        run_id = lineage_run_id(self._deployment, key)
        job = run_facets.job_of(self._settings, f"gate.{load.layer}.{load.name}", GATE, None)
        checked = datasets.input_table(self._names, load.dataset, checks)
        sides = _Sides(inputs=[checked], outputs=[])
        yield self._event(
            RunState.START,
            load.started_at,
            run_id,
            facets,
            job,
            sides,
        )
        # The gate itself ran to its end, also when it refused.
        yield self._event(
            RunState.COMPLETE,
            ending.at,
            run_id,
            facets,
            job,
            sides,
        )

    def _of_training(self, training: TrainingFact) -> Iterator[RunEvent]:
        owner = self._owners.get(training.model)
        job = run_facets.job_of(self._settings, f"train.{training.model}", TRAINING, owner)
        key = f"version {training.model} {training.version}"
        run_id = lineage_run_id(self._deployment, key)
        day = self._records.day
        facets = run_facets.facets_of(self._settings, training.run_id, day, day)
        if not training.actor:
            facets.pop("parent", None)
        inputs = []
        if training.feature_view:
            view = f"features/{training.feature_view}"
            inputs.append(datasets.input_table(self._names, view))
        prefix = self._names.of_prefix(f"models/{training.model}")
        output = datasets.output_prefix(
            prefix,
            str(training.version),
            training.n_rows,
            training.n_bytes,
        )
        sides = _Sides(inputs, [output])
        begin = _Sides(inputs, _without_facets([output]))
        yield self._event(
            RunState.START,
            training.began_at,
            run_id,
            facets,
            job,
            begin,
        )
        yield self._event(
            RunState.COMPLETE,
            training.ended_at,
            run_id,
            facets,
            job,
            sides,
        )

    def _sides(self, load_id: int, owner: ModelOwner | None) -> _Sides:
        inputs: list[InputDataset] = []
        outputs: list[OutputDataset] = []
        for summary in read_load(self._conn, load_id):
            layer, _, name = summary.dataset.partition("/")
            inputs += [InputDataset(*self._names.of_uri(uri)) for uri in summary.sources]
            for dataset in summary.read_datasets:
                inputs.append(datasets.input_table(self._names, dataset))
            # Which version scored stands in the rows; the model as such closes the chain.
            if layer in {"predictions", "shadow"}:
                inputs.append(InputDataset(*self._names.of_prefix(f"models/{name}")))
            facts = datasets.OutputFacts(
                load=summary,
                columns=read_columns(self._conn, summary.dataset, load_id),
                comment=read_table_comment(self._conn, summary.dataset),
                owner=owner,
                origins=self._origins_of(summary),
            )
            outputs.append(datasets.output_table(self._names, facts))
        return _Sides(_without_repeated(inputs), outputs)

    def _origins_of(self, summary: LoadSummary) -> datasets.ColumnOrigins:
        """Return what columns come from; how dbt computes a feature is in no catalog."""
        layer, _, name = summary.dataset.partition("/")
        if layer == "raw" and name in self._contracts:
            return datasets.raw_origins(self._names, summary, self._contracts[name])
        if layer in {"predictions", "shadow"} and name in self._specs:
            return datasets.score_origins(self._names, self._specs[name])
        return {}

    def _job_of(self, load: Load) -> tuple[str, str]:
        """Return name and description of the job that writes such a load."""
        word, description = run_facets.JOBS.get(load.layer, (load.layer, ""))
        # dbt builds all views of a partition together.
        name = word if load.layer == "features" else f"{word}.{load.name}"
        return declared_name(name), description

    def _ending_of(self, members: list[Load]) -> Ending | None:
        """Return how a load ended; None while it may still go on."""
        first = members[0]
        if first.settled_at and first.verdict:
            error = ""
            if first.verdict == "refused":
                error = first.refused_by or "refused"
            return Ending(_ENDS[first.verdict], first.settled_at, error)
        # A try that failed before its load was settled ends that load too.
        for each in self._records.tries:
            is_its_try = each.identity == first.identity and each.attempt == first.attempt
            if is_its_try and each.error and each.ended_at:
                return Ending(RunState.FAIL, each.ended_at, error_name(each.error))
        # A newer load took the partition over: this one can publish nothing any more.
        if first.next_begun_at:
            return Ending(RunState.ABORT, first.next_begun_at)
        return None

    def _event(
        self,
        state: RunState,
        at: dt.datetime,
        run_id: str,
        facets: Mapping[str, RunFacet],
        job: Job,
        sides: _Sides,
    ) -> RunEvent:
        return RunEvent(
            eventTime=at.isoformat(),
            producer=PRODUCER,
            run=Run(run_id, dict(facets)),
            job=job,
            eventType=state,
            inputs=sides.inputs,
            outputs=sides.outputs,
        )


def _without_repeated(inputs: list[InputDataset]) -> list[InputDataset]:
    """Return each dataset once: those of a load are often made from the same ones."""
    by_name = {(each.namespace, each.name): each for each in inputs}
    return list(by_name.values())


def _without_facets(outputs: list[OutputDataset]) -> list[OutputDataset]:
    """Return the datasets by name alone: what is in them is not known at the start."""
    return [OutputDataset(output.namespace, output.name) for output in outputs]
