"""Setting up with wrong files: everything else is set up, and each wrong file is named."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightshift.cli.services.migrate import set_up
from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.errors import SpecError
from nightshift.scoring.spec_check import check_spec
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.control_tables.last_good_specs import (
    keep_spec,
    last_good_spec,
    spec_for_rescue,
)
from nightshift.warehouse.dbt.project import FeatureView

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
MODELS = PROJECT_ROOT / "dags" / "models"


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with a folder of specs, contracts and suites of the test's own."""
    for folder in ("dags", "expectations"):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder)
    places = {
        "dags_dir": tmp_path / "dags",
        "expectations_dir": tmp_path / "expectations",
        "home": tmp_path / "home",
    }
    return settings.model_copy(update=places)


def write_model(settings: Settings, name: str, old: str = "", new: str = "") -> None:
    text = (
        (MODELS / "flight_delayed.yaml")
        .read_text()
        .replace("name: flight_delayed", f"name: {name}", 1)
    )
    assert old in text
    (settings.models_dir / f"{name}.yaml").write_text(text.replace(old, new, 1))
    suite = settings.expectations_dir / "predictions" / "flight_delayed.json"
    shutil.copy(suite, suite.with_name(f"{name}.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_dbt")
def test_migrate_sets_up_the_others_and_names_each_wrong_file(
    own: Settings, conn: Connection
) -> None:
    write_model(own, "no_view", "feature_view: flight", "feature_view: balloon")
    write_model(own, "known_label", "column: is_delayed", "column: scheduled_departure_at")
    write_model(own, "lost_label", "column: is_delayed", "column: is_on_the_moon")
    (own.models_dir / "half.yaml").write_text("name: half\n")
    (own.datasets_dir / "odd.yaml").write_text("")
    changed = own.datasets_dir / "planes.yaml"
    changed.write_text(
        changed.read_text().replace("name: seats, type: integer", "name: seats, type: text")
    )
    (own.expectations_dir / "raw" / "carriers.json").unlink()
    (own.expectations_dir / "predictions" / "no_view.json").write_text("{")

    with pytest.raises(SpecError) as refusal:
        set_up(own)

    said = str(refusal.value)
    for words in (
        "half.yaml has",
        "odd.yaml is not a mapping",
        "the dbt project has no model feat_balloon",
        "marts.fct_flight_labels lacks is_on_the_moon",
        "expectations/raw/carriers.json does not exist",
        "expectations/predictions/no_view.json cannot be read (JSONDecodeError)",
    ):
        assert words in said
    kept = {name for (name,) in conn.execute("select model from ops.last_good_specs")}
    assert kept == {"flight_delayed", "arrival_delay_minutes"}
    made = conn.execute(
        "select to_regclass('analytics.flight_delayed_outcomes'), to_regclass('raw.weather')"
    ).fetchone()
    assert made is not None
    assert None not in made


def spec(**changes: object) -> ModelSpec:
    return load_spec(MODELS, "flight_delayed").model_copy(update=changes)


def create_view_table(conn: Connection, column_type: str) -> None:
    """Create the table of the feature view with the column of the spec's rule."""
    rule = spec().scoring.fallback.feature
    columns = f"partition_date date, load_id bigint, {rule} {column_type}"
    conn.execute(f"create table features.feat_flight ({columns})".encode())


def view_of(spec: ModelSpec, **types: str) -> FeatureView:
    columns = dict.fromkeys((spec.entity.key, spec.event_timestamp), "text")
    columns |= dict.fromkeys(spec.features.names, "double precision") | types
    return FeatureView(spec.feature_view, spec.entity.key, columns)


def test_a_label_that_the_view_shows_and_a_text_among_numbers_are_found(
    settings: Settings, conn: Connection
) -> None:
    create_view_table(conn, "real")
    found = check_spec(
        conn, settings, spec(), [view_of(spec(), is_delayed="boolean", distance_miles="text")]
    )
    assert "label.column: is_delayed is also in feat_flight" in str(found)
    assert "distance_miles is no number in feat_flight but text" in str(found)


@pytest.mark.parametrize(
    ("value", "is_refused"), [(0.0, False), (0.25, False), (1.0, False), (12.0, True), (-1.0, True)]
)
def test_a_rule_whose_column_is_no_probability_is_found_before_a_night_needs_it(
    settings: Settings, conn: Connection, value: float, is_refused: bool
) -> None:
    rule = spec().scoring.fallback.feature
    create_view_table(conn, "double precision")
    conn.execute(
        "insert into features.feat_flight values ('2013-03-04', 1, %s), ('2013-03-04', 1, null)",
        [value],
    )
    conn.execute(
        "insert into ops.loads"
        " (load_id, dataset, partition_date, token, state, run_id, attempt, actor, code_version,"
        " inputs, inputs_digest) values (1, 'features/flight', '2013-03-04', 1, 'published', 'r',"
        " 1, 'test', 'c', '{}', '')"
    )
    conn.execute(
        "insert into ops.published (dataset, partition_date, load_id, token)"
        " values ('features/flight', '2013-03-04', 1, 1)"
    )
    found = str(check_spec(conn, settings, spec(), [view_of(spec())]))
    assert (f"{rule} is no probability, 0 to 1, in 1 rows" in found) == is_refused
    regression = load_spec(MODELS, "arrival_delay_minutes")
    assert "no probability" not in str(
        check_spec(conn, settings, regression, [view_of(regression)])
    )


def test_a_rescue_runs_on_the_last_good_spec_while_the_file_is_wrong(
    own: Settings, conn: Connection
) -> None:
    good = load_spec(own.models_dir, "flight_delayed")
    keep_spec(conn, good)
    keep_spec(conn, good)
    path = own.models_dir / "flight_delayed.yaml"
    path.write_text(path.read_text() + "unheard_of: 1\n")
    load_spec.cache_clear()

    assert spec_for_rescue(conn, own.models_dir, "flight_delayed") == good
    later = good.model_copy(update={"deadline": dt.time(5)})
    keep_spec(conn, later)
    assert spec_for_rescue(conn, own.models_dir, "flight_delayed").digest == later.digest
    assert conn.execute("select count(*) from ops.last_good_specs").fetchone() == (1,)


def test_a_model_that_was_never_used_has_no_last_good_spec(own: Settings, conn: Connection) -> None:
    (own.models_dir / "half.yaml").write_text("name: half\n")
    with pytest.raises(SpecError, match=r"half\.yaml has"):
        spec_for_rescue(conn, own.models_dir, "half")
    assert last_good_spec(conn, "half") is None


def test_a_kept_spec_of_other_code_is_none(own: Settings, conn: Connection) -> None:
    keep_spec(conn, load_spec(own.models_dir, "flight_delayed"))
    conn.execute("update ops.last_good_specs set spec = replace(spec, 'deadline', 'due')")
    assert last_good_spec(conn, "flight_delayed") is None
