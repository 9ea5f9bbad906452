"""One model of every night: trained once in as many processes as there are processors, kept in files, shared by all policies.

A night's model is a function of its rows and its spec, so it does not matter who asks for it, or
whether a killed run made it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition
from nightshift.models.signature import Signature
from nightshift.models.trained_model import TrainedModel
from nightshift.training.holdout import fit_and_evaluate, with_reference
from nightshift.training.splits import rows_between, split_window
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.predictions import Predictions

_KEPT = ("text", "model", "calibration", "threshold", "metrics", "training")
_LOADED_MODELS = 8


@dataclass(frozen=True)
class Trained:
    """The model of one night.

    Attributes:
        model: It.
        processor_seconds: What training it took.
    """

    model: TrainedModel
    processor_seconds: float


@dataclass
class Fleet:
    """The models of one spec.

    Attributes:
        spec: The model.
        rows: Labelled rows, ordered by ``partition_date`` and key, that reach back over the first
            window.
        folder: Where they are kept; what identifies rows, spec and code is part of its name.
    """

    spec: ModelSpec
    rows: pa.Table
    folder: Path
    _predicted: dict[tuple[dt.date, dt.date], Predictions] = field(default_factory=dict)

    def missing(self, nights: Sequence[dt.date]) -> list[dt.date]:
        """Return the nights whose model is not there yet."""
        return [night for night in nights if not _file(self.folder, night).is_file()]

    def train(self, nights: Sequence[dt.date], n_processes: int) -> Iterator[tuple[dt.date, float]]:
        """Train what is missing; yield each night as it is done, with its seconds. A finished night survives a kill."""
        missing = self.missing(nights)
        if not missing:
            return
        with self.shared() as shared, worker_processes(n_processes) as pool:
            jobs = [pool.submit(_train_into, shared, night) for night in missing]
            for job in as_completed(jobs):
                yield job.result()

    @contextmanager
    def shared(self) -> Iterator[SharedFleet]:
        """Give what another process needs to work with the fleet, as long as the block lasts."""
        rows = _share(self.rows, self.folder)
        yield SharedFleet(self.spec.model_dump_json(), rows, self.folder)
        rows.unlink()

    def of(self, night: dt.date) -> Trained:
        """Return the model that a night trained."""
        return _load(_file(self.folder, night))

    def described(self, night: dt.date) -> TrainedModel:
        """Return the model with the profile of its rows, which few of the models ever need."""
        rows = self.window(night)
        return with_reference(
            self.of(night).model,
            rows,
            split_window(mature_window(self.spec, Partition(night)), self.spec.training),
        )

    def window(self, night: dt.date) -> pa.Table:
        """Return the rows of a night's training set."""
        window = mature_window(self.spec, Partition(night))
        return rows_between(self.rows, window.first.day, window.last.day)

    def rows_on(self, night: dt.date) -> pa.Table:
        """Return the labelled rows of a night."""
        return rows_between(self.rows, night, night)

    def predictions(self, trained: dt.date, night: dt.date) -> Predictions:
        """Return what the model of one night says about the labelled rows of another."""
        if (trained, night) not in self._predicted:
            self._predicted[trained, night] = self.of(trained).model.predictions(
                self.rows_on(night)
            )
        return self._predicted[trained, night]


@dataclass(frozen=True)
class SharedFleet:
    """A fleet on its way to another process.

    Attributes:
        spec: The spec as JSON.
        rows: File of the labelled rows; all processes map it.
        folder: The fleet's folder.
    """

    spec: str
    rows: Path
    folder: Path

    def open(self) -> Fleet:
        """Return the fleet."""
        return Fleet(ModelSpec.model_validate_json(self.spec), _mapped(self.rows), self.folder)


@contextmanager
def worker_processes(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes of one thread each; they end with this one, however it ends, and drop what has not begun when the block fails."""
    import multiprocessing

    with ProcessPoolExecutor(
        n_processes, multiprocessing.get_context("spawn"), _begin_worker
    ) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def train_as_of(spec: ModelSpec, rows: pa.Table, night: dt.date) -> TrainedModel:
    """Train as that night would: its window, its split, its hold-out metrics; folds, slices and the monitor's profile are left out."""
    bare = spec.model_copy(update={"promotion": spec.promotion.model_copy(update={"slices": ()})})
    window = mature_window(spec, Partition(night))
    split = split_window(window, spec.training)
    return fit_and_evaluate(
        bare, rows_between(rows, window.first.day, window.last.day), split, str(night)
    )[0]


def _train_into(shared: SharedFleet, night: dt.date) -> tuple[dt.date, float]:
    fleet = shared.open()
    folder = fleet.folder
    started = time.monotonic()
    began = time.process_time()
    model = train_as_of(fleet.spec, fleet.rows, night)
    document = {name: getattr(model, name) for name in _KEPT} | {
        "task": model.task.value,
        "signature": model.signature.as_json(),
        "decile_edges": list(model.decile_edges),
        "processor_seconds": time.process_time() - began,
    }
    draft = _file(folder, night).with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(_file(folder, night))
    return night, time.monotonic() - started


def _file(folder: Path, night: dt.date) -> Path:
    return folder / f"{night}.json"


@lru_cache(_LOADED_MODELS)
def _load(path: Path) -> Trained:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    model = TrainedModel(
        **{name: document[name] for name in _KEPT},
        reference={},
        task=Task(document["task"]),
        signature=Signature.from_json(document["signature"]),
        decile_edges=tuple(document["decile_edges"]),
    )
    return Trained(model, document["processor_seconds"])


def _share(rows: pa.Table, folder: Path) -> Path:
    """Write the rows once for all processes, which map the file: the pages are shared."""
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


def _begin_worker() -> None:
    """Use one thread, since there are as many processes as processors, and end with the parent, however that ends."""
    import threading
    from multiprocessing import connection, parent_process

    os.environ["OMP_NUM_THREADS"] = "1"
    parent = parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
