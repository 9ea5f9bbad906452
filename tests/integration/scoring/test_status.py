"""What ``nightshift status`` says of a pipeline in which no task has failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.integration.scoring.conftest import DAY, publish_features

from nightshift.cli.services import status
from nightshift.scoring.pipeline import score
from nightshift.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.promise("R1")]


@pytest.fixture
def notices(
    registry, scoring_settings, spec, run, tmp_path, monkeypatch
) -> Callable[[], list[str]]:
    """Score a night, and return a function that looks at the pipeline as the command does."""
    models = tmp_path / "dags" / "models"
    models.mkdir(parents=True)
    (models / f"{spec.name}.yaml").write_text(spec.model_dump_json())
    values = dict(scoring_settings) | {"dags_dir": models.parent}
    monkeypatch.setattr(status, "load_settings", lambda: Settings(**values))
    publish_features(registry.conn)
    registry.promote("2013-07-01")
    score(scoring_settings, spec, DAY, run)
    return status._pipeline_notices


def test_nothing_is_said_when_all_is_well(notices):
    assert notices() == []


@pytest.mark.parametrize(
    ("table", "dataset", "n_rows"),
    [
        ("predictions.parcel_late", "predictions/parcel_late", "49 of 50"),
        ("features.feat_parcel", "features/parcel", "49 of 50"),
    ],
)
def test_lost_rows_of_the_last_days_are_named(notices, warehouse, table, dataset, n_rows):
    warehouse.execute(f"delete from {table} where parcel_id = '2013-07-01-1'".encode())
    (notice,) = notices()
    assert notice.startswith(f"[NS-WRITE-007] Published rows of {dataset} are not")
    assert f"{n_rows} rows are there" in notice


def test_old_publications_are_not_counted(notices, warehouse):
    warehouse.execute("delete from predictions.parcel_late")
    warehouse.execute("update ops.published set published_at = now() - interval '8 days'")
    assert notices() == []


def test_a_dropped_view_of_analysts_is_named_until_migrate_or_a_scoring_makes_it(
    notices, warehouse, scoring_settings, spec, run
):
    warehouse.execute("drop view analytics.parcel_late_current")
    (notice,) = notices()
    assert notice.startswith("[NS-WAREHOUSE-010] Views of parcel_late")
    assert "analytics.parcel_late_current" in notice

    score(scoring_settings, spec, DAY, run)

    assert notices() == []


def test_a_wrong_spec_hides_nothing_of_the_other_models(notices, warehouse, tmp_path):
    (tmp_path / "dags" / "models" / "empty.yaml").write_text("")
    warehouse.execute("delete from predictions.parcel_late")
    wrong, lost = notices()
    assert wrong.startswith("[NS-SPEC-001]")
    assert "empty.yaml" in wrong
    assert lost.startswith("[NS-WRITE-007]")
