"""The files of docs/own-model.md are a complete project: they ingest, build and score."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightshift.cli.data import backfill, deliver_history
from nightshift.cli.predictions import score
from nightshift.cli.services.migrate import set_up
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.training_set import build_training_set, read_rows

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

PAGE = PROJECT_ROOT / "docs" / "own-model.md"
FILE = re.compile(
    r"^`((?:dags|dbt_project|expectations)/[^`]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
FIRST = dt.date(2013, 1, 1)
N_DAYS = 10


@pytest.fixture
def own(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings of a project without the flights, with the page's files."""
    ignored = shutil.ignore_patterns("target", "logs", "flights", "predictions")
    shutil.copytree(PROJECT_ROOT / "dbt_project", tmp_path / "dbt_project", ignore=ignored)
    for name, content in FILE.findall(PAGE.read_text(encoding="utf-8")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    folders = {
        "dags_dir": tmp_path / "dags",
        "dbt_project_dir": tmp_path / "dbt_project",
        "expectations_dir": tmp_path / "expectations",
    }
    changed = settings.model_copy(update={**folders, "home": tmp_path / "home"})
    for command in (backfill, deliver_history, score):
        monkeypatch.setattr(command, "load_settings", lambda: changed)
    return changed


def write_days(folder: Path) -> None:
    """Write a file a day: 10 visitors an hour per day that has passed, five more on the hill."""
    folder.mkdir()
    for i in range(N_DAYS):
        day = FIRST + dt.timedelta(days=i)
        rows = [
            f"{shop},{day} {hour:02d}:00:00,{10 * i + extra}"
            for shop, extra in (("river", 0), ("hill", 5))
            for hour in (9, 10)
        ]
        (folder / f"{day}.csv").write_text("\n".join(["shop,hour_at,visitors", *rows]) + "\n")


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.usefixtures("warm_dbt")
def test_the_page_is_a_whole_project_when_its_files_are_written_into_an_empty_one(
    own: Settings,
    conn: Connection,
    run: RunContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_days(tmp_path / "files")
    set_up(own)
    deliver_history.deliver_history("shop_hours", tmp_path / "files", at_cutoff=True)
    backfill.backfill("2013-01-01", "2013-01-10")
    score.score("shop_visitors", "2013-01-09", "2013-01-10")

    assert (
        "4 by fallback rule: no champion is promoted for this partition" in capsys.readouterr().out
    )
    found = conn.execute(
        "select shop_day, score, outcome, is_mature from analytics.shop_visitors_outcomes"
        " order by 1"
    ).fetchall()
    assert found == [
        ("2013-01-10_hill", 110.0, 190, False),
        ("2013-01-10_river", 100.0, 180, False),
        ("2013-01-11_hill", 130.0, None, False),
        ("2013-01-11_river", 120.0, None, False),
    ]
    spec = load_spec(own.models_dir, "shop_visitors")
    days = {"minimum_days": 3, "validation_days": 1, "holdout_days": 1, "gap_days": 0}
    short = spec.model_copy(update={"training": spec.training.model_copy(update=days)})
    rows = read_rows(
        ObjectStore.open(own), build_training_set(own, short, Partition.parse("2013-01-10"), run)
    )
    pairs = zip(rows["shop_day"].to_pylist(), rows["visitors"].to_pylist(), strict=True)
    assert list(pairs)[:3] == [
        ("2013-01-02_hill", 30),
        ("2013-01-02_river", 20),
        ("2013-01-03_hill", 50),
    ]
