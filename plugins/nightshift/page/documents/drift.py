"""The pages of drift: distances of all features over days, and one feature's two distributions."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.page.documents.models import model_facts, model_names, newest_partition
from nightshift.page.documents.requests import MissingPageError
from nightshift.quality.profiles import stored_sketch
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.text_sketch import TextSketch

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot, Row
    from nightshift.quality.sketches.sketch import Sketch

DEFAULT_DAYS, MAX_DAYS = 60, 366
MAX_LEVELS = 25
"""Levels of a distribution that are shown, the most frequent of the reference first."""
SCORE = "score"
MISSING, OTHER_LEVELS = "(missing)", "(all other levels)"

# A year has 15,000 cells: as lists, no object is made for each of them. They keep the order of the
# rows that they are made of.
DRIFT_QUERY = """
select feature, array_agg(partition_date) as days, array_agg(kind) as kinds,
    array_agg(units) as units, array_agg(is_drifted) as drifted, array_agg(is_slow) as slow
from (
    select partition_date, feature, kind, distance as units, is_drifted, is_slow
    from monitoring.drift_published
    where model = %(model)s and dataset = 'monitoring_drift/' || %(model)s
        and partition_date between %(first)s and %(last)s
    order by feature, partition_date
) cell
group by feature order by feature
"""
_VERDICTS = """
select partition_date, drift_status, score_drift_status, n_features, n_drifted, n_faults, cause,
    segment, has_triggered,
    reasons, report_key is not null as has_report, decision_state
from monitoring.verdicts_published
where model = %(model)s and partition_date between %(first)s and %(last)s
order by partition_date desc
"""
_SLOW = """
select partition_date, feature, slow_statistic, slow_since, slow_shift, slow_evidence
from monitoring.drift_published
where model = %(model)s and partition_date = %(newest)s and is_slow
order by slow_evidence desc
"""
_CELL = """
select * from monitoring.drift_published
where model = %(model)s and partition_date = %(day)s and feature = %(feature)s
"""
_HISTORY = """
select partition_date, distance, is_drifted, slow_evidence from monitoring.drift_published
where model = %(model)s and feature = %(feature)s
    and partition_date between %(day)s::date - 180 and %(day)s::date + 30
order by partition_date
"""
_FAULTS = """
select night, "column" as feature, kind, distance, detail, since, feeds
from monitoring.input_faults
where model = %(model)s and night between %(first)s and %(last)s
order by night desc, distance desc limit 50
"""
_PROFILE = """
select r.kind, r.n_rows, r.n_missing, r.minimum, r.maximum, r.sketch
from ops.published p
join monitoring.profiles r using (dataset, partition_date, load_id)
where p.dataset = %(dataset)s and p.partition_date = %(day)s and r.column_name = %(column)s
"""
_REFERENCE_FILE = """
select metadata_key, metadata_sha256 from ml.decisions
where model = %(model)s and version = %(version)s limit 1
"""


def drift_document(
    snapshot: PageSnapshot, model: str | None, n_days: int, last: dt.date | None
) -> dict[str, Any]:
    """Return the distances of a model's features, and the verdicts of the same days.

    Args:
        snapshot: The warehouse.
        model: Its name; None takes the first one.
        n_days: Days that are shown; 1 to ``MAX_DAYS``.
        last: The last day; None takes the newest that was monitored.

    Raises:
        MissingPageError: There is no such model.
    """
    names = model_names(snapshot)
    chosen = model or (names[0] if names else None)
    document: dict[str, Any] = {"models": names, "model": chosen, "days": []}
    document |= {"series": [], "n_cells": 0, "features": []}
    if chosen is None:
        return document
    # A name of an address may be any text: an unknown one is a missing page, not an empty map.
    model_facts(snapshot, chosen)
    newest = newest_partition(snapshot, chosen)
    last = last or newest
    n_days = min(max(n_days, 1), MAX_DAYS)
    document |= {"n_days": n_days, "last": last, "newest": newest}
    document |= {"verdicts": [], "faults": [], "slow": []}
    if last is None:
        return document
    first = last - dt.timedelta(days=n_days - 1)
    values = {"model": chosen, "first": first, "last": last}
    series = snapshot.rows(DRIFT_QUERY, values)
    document |= {"series": series, "n_cells": sum(len(row["days"]) for row in series)}
    document["verdicts"] = snapshot.rows(_VERDICTS, values)
    document["faults"] = snapshot.rows(_FAULTS, values)
    document["features"] = _features(series)
    # Those of the newest measured night: an older one knows less of the same change.
    newest_cell = max((row["newest_day"] for row in document["features"]), default=last)
    document["slow"] = snapshot.rows(_SLOW, values | {"newest": newest_cell})
    # A model of a few nights has no year to show: the map begins where something was measured.
    begin = min((row["first_day"] for row in document["features"]), default=first)
    n_shown = (last - begin).days + 1
    document["days"] = [begin + dt.timedelta(days=index) for index in range(n_shown)]
    return document


def with_cells(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with a row per feature and day instead of lists, for programs."""
    cells = []
    for row in document.pop("series"):
        columns = (row["days"], row["kinds"], row["units"], row["drifted"], row["slow"])
        for values in zip(*columns, strict=True):
            day, column_type, units, is_drifted, is_slow = values
            cells.append(
                {
                    "partition_date": day,
                    "feature": row["feature"],
                    "kind": column_type,
                    "units": units,
                    "is_drifted": is_drifted,
                    "is_slow": is_slow,
                }
            )
    return document | {"cells": cells}


def _features(series: list[Row]) -> list[Row]:
    """Return one row per feature, those that drifted most first."""
    features = []
    for row in series:
        units = [value for value in row["units"] if value is not None]
        features.append(
            {
                "feature": row["feature"],
                "type": row["kinds"][-1],
                "first_day": row["days"][0],
                "newest_day": row["days"][-1],
                "newest_units": row["units"][-1],
                "largest_units": max(units, default=None),
                "n_drifted": sum(row["drifted"]),
                "n_slow": sum(row["slow"]),
            }
        )
    # The score is the sum of all features: it stands above them.
    features.sort(key=lambda row: (row["type"] != SCORE, -_n_changed(row), -_size(row)))
    return features


def _n_changed(feature: Row) -> int:
    return int(feature["n_drifted"] + feature["n_slow"])


def _size(feature: Row) -> float:
    return float(feature["largest_units"] or 0.0)


def cell_document(snapshot: PageSnapshot, model: str, feature: str, day: dt.date) -> dict[str, Any]:
    """Return what was measured of a feature on a day, its history, and the day's summary.

    Raises:
        MissingPageError: Nothing was measured.
    """
    values = {"model": model, "feature": feature, "day": day}
    rows = snapshot.rows(_CELL, values)
    if not rows:
        raise MissingPageError(
            f"No drift of {feature!r} of {model} was measured on {day}.",
            todo="Open the page Drift.",
        )
    facts = model_facts(snapshot, model)
    # The score is a column of the predictions, every other one of the feature view.
    dataset = f"features/{facts['feature_view']}"
    if rows[0]["kind"] == SCORE:
        dataset = f"predictions/{model}"
    profile = snapshot.rows(_PROFILE, {"dataset": dataset, "day": day, "column": feature})
    version = {"model": model, "version": rows[0]["model_version"]}
    reference = snapshot.rows(_REFERENCE_FILE, version)
    return {
        "model": model,
        "feature": feature,
        "day": day,
        "dataset": dataset,
        "measured": rows[0],
        "history": snapshot.rows(_HISTORY, values),
        "profile": profile[0] if profile else None,
        "reference_file": reference[0] if reference else None,
    }


def distributions(
    measured: Mapping[str, Any], profile: Mapping[str, Any], model_document: bytes
) -> list[dict[str, Any]]:
    """Return the bins of a feature with their share in the reference and in the partition.

    The bins are those of the reference profile. The partition's numbers are counted by the middles
    of its profile's finer bins, so a share may differ slightly from the monitor's exact count.

    Args:
        measured: Row of monitoring.drift_published.
        profile: Row of monitoring.profiles.
        model_document: Bytes of the version's ``model.json``.
    """
    reference = json.loads(model_document)["reference"]
    feature, column_type = measured["feature"], measured["kind"]
    part = reference[SCORE] if column_type == SCORE else reference[column_type][feature]
    counts = (profile["n_rows"], profile["n_missing"])
    bounds = (profile["minimum"], profile["maximum"])
    sketch = stored_sketch(profile["kind"], bytes(profile["sketch"]), counts, bounds)
    if isinstance(sketch, NumberSketch) and "edges" in part:
        bins = _number_bins(part, sketch)
    elif isinstance(sketch, TextSketch) and isinstance(part["shares"], Mapping):
        bins = _level_bins(part, sketch)
    else:
        return []
    missing = sketch.n_missing / max(sketch.n_rows, 1)
    return [*bins, _bin(MISSING, part["missing_share"], missing)]


def _number_bins(part: Mapping[str, Any], sketch: NumberSketch) -> list[dict[str, Any]]:
    edges = part["edges"]
    counts = sketch.histogram(np.array(edges, np.float64))
    # The reference counts its shares without missing rows; here all rows are the whole.
    known = 1 - part["missing_share"]
    bins = []
    for index, share in enumerate(part["shares"]):
        low = f"{edges[index - 1]:.4g} ≤" if index > 0 else ""
        high = f"< {edges[index]:.4g}" if index < len(edges) else ""
        label = f"{low} x {high}".strip() if low or high else "all numbers"
        bins.append(_bin(label, share * known, _share(int(counts[index]), sketch)))
    return bins


def _level_bins(part: Mapping[str, Any], sketch: TextSketch) -> list[dict[str, Any]]:
    known = 1 - part["missing_share"]
    shares = sorted(part["shares"].items(), key=lambda item: -item[1])
    bins = []
    for level, share in shares[:MAX_LEVELS]:
        bins.append(_bin(level, share * known, _share(sketch.levels[level], sketch)))
    shown = {level for level, _ in shares[:MAX_LEVELS]}
    n_others = sum(n for level, n in sketch.levels.items() if level not in shown)
    rest = sum(share for _, share in shares[MAX_LEVELS:])
    bins.append(_bin(OTHER_LEVELS, rest * known, _share(n_others, sketch)))
    return bins


def _share(n_rows: int, sketch: Sketch) -> float:
    return n_rows / max(sketch.n_rows, 1)


def _bin(label: str, reference: float, current: float) -> dict[str, Any]:
    return {"bin": label, "reference_share": reference, "partition_share": current}
