"""Train the model of every day once, in parallel processes; policies share the models by files.

The model of a day is a function of its rows and its spec, so it does not matter which policy needs
it, or whether a killed run trained it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.backtest.worker_processes import worker_processes
from nightshift.contracts.metrics import Task
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition
from nightshift.errors import SpecError
from nightshift.models.linear_member import LinearMember
from nightshift.models.signature import Signature
from nightshift.models.trained_model import TrainedModel
from nightshift.registry.model_versions import ModelVersion
from nightshift.scoring.level.replayed_levels import ReplayedLevels
from nightshift.training.holdout import fit_and_evaluate
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.predictions import Predictions
    from nightshift.training.holdout import TrainingResult
    from nightshift.training.splits import Split

_PLAIN_FIELDS = ("text", "model", "calibration", "threshold", "metrics", "training")
_PARTS = ("served", "evaluated")
_LOADED_MODELS = 8


@dataclass(frozen=True)
class NightlyModel:
    """The model of one day.

    Attributes:
        model: The model that serves, without a reference profile.
        evaluated: The model that the gate judges; without a refit the same.
        processor_seconds: Of its training.
    """

    model: TrainedModel
    evaluated: TrainedModel
    processor_seconds: float


@dataclass
class NightlyModels:
    """The models of one spec, each named by the day whose run trained it.

    Attributes:
        spec: The model.
        rows: Labelled rows, ordered by ``partition_date`` and key, that reach back over the first
            window.
        folder: Of the model files; its name identifies rows, spec and code.
    """

    spec: ModelSpec
    rows: pa.Table
    folder: Path
    _predictions: dict[tuple[dt.date, dt.date, bool], Predictions] = field(default_factory=dict)
    _levels: dict[dt.date, ReplayedLevels] = field(default_factory=dict)

    def missing(self, days: Sequence[dt.date]) -> list[dt.date]:
        """Return the days whose model is not trained yet."""
        return [day for day in days if not _file(self.folder, day).is_file()]

    def train(self, days: Sequence[dt.date], n_processes: int) -> Iterator[dt.date]:
        """Train the missing models and yield each day when done; a kill loses none of these."""
        missing = self.missing(days)
        if not missing:
            return
        with self.shared() as shared, worker_processes(n_processes) as pool:
            jobs = [pool.submit(_train_into_file, shared, day) for day in missing]
            for job in as_completed(jobs):
                yield job.result()

    @contextmanager
    def shared(self) -> Iterator[SharedModels]:
        """Give what another process needs to open these models, as long as the block lasts."""
        rows = _write_rows(self.rows, self.folder)
        yield SharedModels(self.spec.model_dump_json(), rows, self.folder)
        rows.unlink()

    def of(self, day: dt.date) -> NightlyModel:
        """Return the model of a day."""
        return _load(_file(self.folder, day))

    def version_of(self, day: dt.date) -> ModelVersion:
        """Return the model of a day as the registry would describe it, without its files.

        The day that trained it is its name here; as a number it stands for the version.
        """
        split = self.split(day)
        is_refit = self.spec.training.recipe.refit
        return ModelVersion(
            model=self.spec.name,
            version=day.toordinal(),
            digest=str(day),
            model_key="",
            model_sha256="",
            model_bytes=None,
            metadata_key="",
            metadata_sha256="",
            metadata_bytes=None,
            training_set=str(day),
            partition_date=day,
            fit_end=split.holdout.last.day if is_refit else split.validation.last.day,
            metrics=self.of(day).model.metrics,
            figures={},
            evaluated={"fit_end": split.validation.last.key} if is_refit else None,
        )

    def split(self, day: dt.date) -> Split:
        """Return how the training window of a day is split."""
        return split_window(mature_window(self.spec, Partition(day)), self.spec.training)

    def window(self, day: dt.date) -> pa.Table:
        """Return the rows of a day's training set."""
        return rows_of(self.rows, mature_window(self.spec, Partition(day)))

    def rows_on(self, day: dt.date) -> pa.Table:
        """Return the labelled rows of a day."""
        return rows_between(self.rows, day, day)

    def predictions(
        self, trained_on: dt.date, day: dt.date, *, is_evaluated: bool = False
    ) -> Predictions:
        """Return the predictions of one day's model for the labelled rows of another day.

        The model that serves moves its level each night; the evaluated one never scores a night.
        """
        # Policies share models and days: each pair is scored once.
        key = (trained_on, day, is_evaluated)
        if key not in self._predictions:
            rows = self.rows_on(day)
            if is_evaluated:
                self._predictions[key] = self.of(trained_on).evaluated.predictions(rows)
            else:
                self._predictions[key] = self.levels(trained_on).predictions(rows)
        return self._predictions[key]

    def levels(self, trained_on: dt.date) -> ReplayedLevels:
        """Return the levels of the nights that the model of a day scores."""
        # A policy changes its model rarely, so the nights that one has scored are asked for again.
        if trained_on not in self._levels:
            while len(self._levels) >= _LOADED_MODELS:
                del self._levels[next(iter(self._levels))]
            split = self.split(trained_on)
            is_refit = self.spec.training.recipe.refit
            fit_end = split.holdout.last if is_refit else split.validation.last
            model = self.of(trained_on).model
            self._levels[trained_on] = ReplayedLevels(self.spec, self.rows, model, fit_end.day)
        return self._levels[trained_on]


@dataclass(frozen=True)
class SharedModels:
    """Nightly models as another process receives them.

    Attributes:
        spec: The spec as JSON.
        rows: File of the labelled rows; all processes map it.
        folder: Of the model files.
    """

    spec: str
    rows: Path
    folder: Path

    def open(self) -> NightlyModels:
        """Return the models."""
        spec = ModelSpec.model_validate_json(self.spec)
        return NightlyModels(spec, _mapped(self.rows), self.folder)


def train_as_of(spec: ModelSpec, rows: pa.Table, day: dt.date) -> TrainingResult:
    """Train as the run of that day would: its window, its split, its hold-out metrics.

    Slices, folds and the monitor's profile are left out.
    """
    window = mature_window(spec, Partition(day))
    split = split_window(window, spec.training)
    training_rows = rows_of(rows, window)
    return fit_and_evaluate(without_slices(spec), training_rows, split, str(day))


def without_slices(spec: ModelSpec) -> ModelSpec:
    """Return the spec without slices of promotion, which cost time and decide nothing here."""
    promotion = spec.promotion.model_copy(update={"slices": ()})
    return spec.model_copy(update={"promotion": promotion})


def refuse_other_tasks(spec: ModelSpec) -> None:
    """Refuse a model of classes, or a ranking: its nights cannot be replayed.

    Raises:
        SpecError: It is one.
    """
    if spec.task not in (Task.BINARY, Task.REGRESSION):
        raise SpecError(
            f"The policy backtest cannot replay {spec.name}: its task is {spec.task}.",
            expected="task binary or regression",
            todo="Measure it month by month with the walk-forward backtest instead.",
        )


def _train_into_file(shared: SharedModels, day: dt.date) -> dt.date:
    models = shared.open()
    started = time.process_time()
    training = train_as_of(models.spec, models.rows, day)
    document: dict[str, Any] = {"processor_seconds": time.process_time() - started}
    evaluated = training.evaluated or training.served
    for part, model in zip(_PARTS, (training.served, evaluated), strict=True):
        document[part] = _as_json(model)
    path = _file(models.folder, day)
    # Renamed when complete: a kill leaves no half of a model.
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(path)
    return day


def _as_json(model: TrainedModel) -> dict[str, Any]:
    document = {name: getattr(model, name) for name in _PLAIN_FIELDS}
    return document | {
        "task": model.task.value,
        "signature": model.signature.as_json(),
        "decile_edges": list(model.decile_edges),
        "linear": None if model.linear is None else model.linear.model_dump(),
    }


def _from_json(document: dict[str, Any]) -> TrainedModel:
    linear = document["linear"]
    return TrainedModel(
        **{name: document[name] for name in _PLAIN_FIELDS},
        reference={},
        task=Task(document["task"]),
        signature=Signature.from_json(document["signature"]),
        decile_edges=tuple(document["decile_edges"]),
        linear=None if linear is None else LinearMember.model_validate(linear),
    )


def _file(folder: Path, day: dt.date) -> Path:
    return folder / f"{day}.json"


@lru_cache(_LOADED_MODELS)
def _load(path: Path) -> NightlyModel:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    served, evaluated = (_from_json(document[part]) for part in _PARTS)
    return NightlyModel(served, evaluated, document["processor_seconds"])


def _write_rows(rows: pa.Table, folder: Path) -> Path:
    """Write the rows once for all processes, which map the file and so share its memory."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return path


@cache
def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
