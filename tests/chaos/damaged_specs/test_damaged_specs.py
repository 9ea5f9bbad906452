"""One of five specs is damaged in one of many ways: every model is published all the same."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tests.chaos.on_call.airflow_tasks import DagRun, Step, open_run
from tests.chaos.on_call.history import with_settings
from tests.dags.conftest import read_dags
from tests.integration.cli.test_check_freshness import look
from tests.integration.scoring.conftest import Registry, make_spec, publish_features
from tests.unit.contracts.test_document_folder import BOMB

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.orchestration import rescue_tasks
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.promise("R20"),
    pytest.mark.timeout(3600, func_only=True),
]

MODELS = tuple(f"parcel_late_{letter}" for letter in "abcde")
FIRST_NIGHT = Partition.parse("2013-07-01")
STAGES = ("score", "rescue", "monitor", "train")
WRONG_FILE = 3
"""Exit code of check-freshness. Source: docs/freshness.md."""
LEAST_PUBLISHED_RATIO = 49 / 50


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """Return a damage: a line of the file begins in another way."""

    def damage(path: Path) -> None:
        text = path.read_text()
        assert f"\n{old}" in text
        path.write_text(text.replace(f"\n{old}", f"\n{new}", 1))

    return damage


def copied_beside(path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.stem} (copy).yaml"))


def copied_under_no_name(path: Path) -> None:
    shutil.copy(path, path.with_name(os.fsdecode(f"{path.stem}-".encode() + b"\xff.yaml")))


def made_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "it is empty": lambda path: path.write_text(""),
    "it has an unknown key": replaced("owner:", "unheard_of: 1\nowner:"),
    "it is no YAML": replaced("owner:", "owner: [post\nowners:"),
    "a value has another type": replaced("deadline:", "deadline: [4]\n#"),
    "it is UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "a copy of it stands in the folder": copied_beside,
    "an anchor is missing": replaced("event_timestamp:", "event_timestamp: *gone\n#"),
    "it is a folder": made_a_folder,
    "it cannot be opened": linked_to_itself,
    "it is written by half": lambda path: path.write_text(path.read_text()[:400]),
    "it is a pipe": made_a_pipe,
    "aliases of aliases stand for a billion": lambda path: path.write_bytes(
        path.read_bytes() + b"\n" + BOMB
    ),
    "a key is there twice": replaced("owner:", "owner: a\nowner:"),
    "it is fifty megabytes": lambda path: path.write_bytes(
        path.read_bytes() + b"# x\n" * 13_000_000
    ),
    "a value has a NUL": replaced("owner:", "owner: a\0"),
    "a copy of it has half a character in its name": copied_under_no_name,
    "a folder has its name with another ending": lambda path: path.with_suffix(".yml").mkdir(),
}
"""The file of one model, and what happens to it. Each damage is undone before the next night."""
HARMLESS = {
    "a copy of it stands in the folder",
    "a copy of it has half a character in its name",
    "a folder has its name with another ending",
}
"""The file itself stays as it was: its model is scored as usual."""


@dataclass
class Nights:
    """Five models with a champion each, and what each night has published of them.

    Attributes:
        settings: Servers, and the DAG folder with the five specs.
        folder: For the homes of Airflow.
        problems: What was not as it must be, by damage.
        n_published: Model-nights that readers have.
    """

    settings: Settings
    folder: Path
    problems: list[str] = field(default_factory=list)
    n_published: int = 0

    def expect(self, damage: str, what: str, *, holds: bool) -> None:
        if not holds:
            self.problems.append(f"{damage}: {what}")

    def parse(self, damage: str, damaged: str) -> None:
        """Let Airflow read the folder: only the file is named, and all others have their DAGs."""
        number = len(list(self.folder.glob("airflow-*")))
        found = read_dags(self.settings.dags_dir, self.folder / f"airflow-{number}")
        others = {f"{stage}__{model}" for model in MODELS if model != damaged for stage in STAGES}
        missing = sorted((others | {f"rescue__{damaged}"}) - set(found["dags"]))
        self.expect(damage, f"Airflow has not read {missing}", holds=not missing)
        errors = {Path(file).name: text for file, text in found["errors"].items()}
        said = errors.get("wrong_files.py", "")
        names_it = list(errors) == ["wrong_files.py"] and "[NS-SPEC-001]" in said
        self.expect(damage, f"the import errors are {errors}", holds=names_it and damaged in said)

    def score(self, damage: str, model: str, night: Partition) -> None:
        run = open_run(self.settings, f"score__{model}", night.key)
        run.run(self.settings)
        self.expect(damage, f"{model} was not scored: {run.log}", holds=run.is_success)

    def rescue(self, damage: str, model: str, night: Partition) -> None:
        """Run the rescue of a model whose file is wrong, shortly before the deadline."""
        step = Step("rescue", lambda *_: rescue_tasks.rescue_by_last_good_spec.function(model))
        run = DagRun(f"rescue__{model}", night.key, [step])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rescue_tasks, "load_settings", lambda: self.settings)
            patch.setattr(rescue_tasks, "dt", _clock(specs()[model].deadline_of(night)))
            run.run(self.settings)
        outcome = run.results.get("rescue", {}).get("outcome")
        said = f"the rescue of {model}: {run.states}, {outcome}\n{run.log}"
        self.expect(damage, said, holds=outcome == "scored")

    def count(self, damage: str, night: Partition) -> None:
        """Count the models whose night readers have, complete and by the champion."""
        with connect(self.settings, "test") as conn:
            for model in MODELS:
                query = (
                    "select count(*) filter (where score_source = 'champion')"
                    f" from analytics.{model}_current where partition_date = %s"
                )
                ((n_rows,),) = conn.execute(query.encode(), [night.day]).fetchall()
                self.n_published += n_rows == 50
                self.expect(damage, f"{model} has {n_rows} rows", holds=n_rows == 50)

    def check_freshness(self, damage: str, damaged: str, night: Partition) -> None:
        at = (specs()[damaged].deadline_of(night) + dt.timedelta(minutes=30)).isoformat()
        done = look(self.settings, "--at", at, NIGHTSHIFT_DAGS_DIR=str(self.settings.dags_dir))
        said = f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        is_usual = done.returncode == WRONG_FILE and done.stdout.count("50 champion") == len(MODELS)
        names_it = "[NS-SPEC-003]" in done.stderr and damaged in done.stderr
        self.expect(damage, f"check-freshness, {said}", holds=is_usual and names_it)


def specs() -> dict[str, ModelSpec]:
    return {model: make_spec(name=model) for model in MODELS}


def _clock(deadline: dt.datetime) -> Any:
    """Return a module ``datetime`` for which it is twenty minutes before a deadline."""

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return (deadline - dt.timedelta(minutes=20)).astimezone(tz)

    return SimpleNamespace(datetime=Clock, timedelta=dt.timedelta, UTC=dt.UTC)


@pytest.fixture
def nights(settings, conn, tmp_path) -> Nights:
    """Return five models that have scored one night with good specs."""
    folder, suites = tmp_path / "dags", tmp_path / "expectations" / "predictions"
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "models").glob("*.yaml"):
        path.unlink()
    suites.mkdir(parents=True)
    expectation = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
    mine = with_settings(
        settings,
        dags_dir=folder,
        expectations_dir=suites.parent,
        home=tmp_path / "home",
        mlflow_tracking_uri="",
    )
    conn.execute(
        "create table features.feat_parcel (partition_date date not null, load_id bigint not null,"
        " parcel_id text not null, event_timestamp timestamptz not null,"
        " as_of timestamptz not null, weight_kg double precision, late_rate_7d double precision,"
        " depot text)"
    )
    conn.execute(
        "create table marts.fct_parcel_labels (parcel_id text, partition_date date,"
        " event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,"
        " is_late integer)"
    )
    for seed, (model, spec) in enumerate(specs().items(), start=1):
        text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
        (folder / "models" / f"{model}.yaml").write_text(f"# {spec.description}\n{text}")
        suite = {"name": f"predictions/{model}", "expectations": [expectation]}
        (suites / f"{model}.json").write_text(json.dumps(suite))
        ensure_prediction_relations(conn, spec)
        Registry(mine, conn, spec).promote(FIRST_NIGHT.key, seed=seed)
    opened = Nights(mine, tmp_path)
    publish_features(conn, PartitionRange.single(FIRST_NIGHT))
    for model in MODELS:
        opened.score("no damage", model, FIRST_NIGHT)
    opened.count("no damage", FIRST_NIGHT)
    assert (opened.problems, opened.n_published) == ([], len(MODELS))
    return Nights(mine, tmp_path)


def test_every_model_night_is_published_when_one_of_five_specs_is_damaged(
    nights: Nights, conn, record_figure: Callable[[str, float], None]
) -> None:
    models_dir = nights.settings.dags_dir / "models"
    for number, (damage, harm) in enumerate(DAMAGES.items()):
        night, damaged = FIRST_NIGHT.shift(number + 1), MODELS[number % len(MODELS)]
        good = (models_dir / f"{damaged}.yaml").read_text()
        publish_features(conn, PartitionRange.single(night))
        harm(models_dir / f"{damaged}.yaml")
        # A task is a process of its own, which reads the file that is there.
        load_spec.cache_clear()

        nights.parse(damage, damaged)
        for model in MODELS:
            is_usable = model != damaged or damage in HARMLESS
            (nights.score if is_usable else nights.rescue)(damage, model, night)
        nights.count(damage, night)
        nights.check_freshness(damage, damaged, night)
        print(f"{damage}: {nights.n_published} published; {nights.problems}", flush=True)

        _restore(models_dir, damaged, good)
        load_spec.cache_clear()

    n_nights = len(DAMAGES) * len(MODELS)
    record_figure(f"of {n_nights} model-nights published beside a damaged spec", nights.n_published)
    assert nights.n_published >= LEAST_PUBLISHED_RATIO * n_nights
    assert nights.problems == []


def _restore(models_dir: Path, model: str, text: str) -> None:
    for path in models_dir.glob(f"{model}*"):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    (models_dir / f"{model}.yaml").write_text(text)
