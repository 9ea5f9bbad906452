"""``nightshift why``: the lineage of a published prediction, and its reasons in words."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import typer

from nightshift.cli.arguments import AsJson, Key, Model, PredictedOn, optional_partition
from nightshift.settings import load_settings

# The templates are filled with the facts that `provenance.lineage.explain` returns.
PREDICTION = (
    "{key}, predicted by the night of {partition}: score {score!r}, probability {probability!r},"
    " decile {decile} ({score_source})"
)
CLASS = "class         {predicted_class!r}, raw score {raw_score!r}; {probabilities}"
RANK = "rank          {rank} in its group, {chosen}"
PUBLICATION = (
    "publication   load {load_id}, token {token}, run {run_id}, by {actor}, at {published_at};"
    " code {code_version}"
)
NO_MODEL = "model         none: this step of the fallback chain needs no model"
MODEL = (
    "model         version {version}, digest {digest}, trained by the night of"
    " {trained_on_partition}; code {code_version}"
)
PROMOTION = "  promotion   {verdict} by {actor}, evidence {evidence_sha256}"
NO_PROMOTION = {"verdict": "none", "actor": None, "evidence_sha256": None}
TRAINING_SET = (
    "training set  {training_set}\n"
    "  content     {n_rows:,} rows of {first_day} to {last_day} known at {as_of},"
    " from {n_feature_loads} feature loads; SHA-256 {sha256}; code {code_version}"
)
FEATURES = (
    "features      {dataset} load {load_id}, as of {as_of}, {n_values} values; code {code_version}"
)
OWN_ROW = "  own row     {source_uri} row {source_row}, SHA-256 {source_sha256}"
FILES = (
    "  files       {dataset}: {n_files}, {first} to {partition}, {n_total:,} rows;"
    " the last {source_uri}, SHA-256 {source_sha256}"
)


def why(
    model: Model,
    key: Key,
    partition: PredictedOn = "",
    as_json: AsJson = False,
) -> None:
    """Print the lineage of a prediction: files, features, model, training set, code; and why."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.provenance.lineage import as_json as to_json
    from nightshift.provenance.lineage import explain
    from nightshift.provenance.predictions import find_prediction
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    day = optional_partition(partition)
    with connect(settings, "nightshift why") as conn:
        prediction = find_prediction(conn, spec, key, day)
    facts = explain(settings, spec, prediction)
    if as_json:
        typer.echo(to_json(facts))
        return
    for line in describe(facts):
        typer.echo(line)


def describe(facts: dict[str, Any]) -> list[str]:
    """Return one line per step, from the prediction back to its files."""
    prediction = facts["prediction"]
    lines = [PREDICTION.format_map(prediction)]
    # Predictions of classes have one probability of each.
    if "predicted_class" in prediction:
        each = [
            f"{name} {value!r}"
            for name, value in prediction.items()
            if name.startswith("probability_")
        ]
        lines.append(CLASS.format(**prediction, probabilities=", ".join(each)))
    if "rank" in prediction:
        chosen = "chosen" if prediction["is_top_k"] else "not chosen"
        lines.append(RANK.format(**prediction, chosen=chosen))
    lines += [f"  because {reason}" for reason in facts["reasons"]]
    lines += [f"  cause   {cause}" for cause in facts["causes"]]
    if facts["level"] is not None:
        lines.append(_level_line(facts["level"]))
    lines.append(PUBLICATION.format_map(facts["publication"]))
    model = facts["model"]
    if model is None:
        return [*lines, NO_MODEL]
    # A version that a person pinned may never have been promoted.
    promotion = NO_PROMOTION | (model["promotion"] or {})
    lines += [
        MODEL.format_map(model),
        PROMOTION.format_map(promotion),
        TRAINING_SET.format_map(facts["training_set"]),
    ]
    return [*lines, *_feature_lines(facts)]


def _level_line(level: dict[str, Any]) -> str:
    """Return what the night added to the version's answer, and which nights say so."""
    line = f"level         {level['shift']:+.4f} to the version's answer"
    # Without mature nights nothing was added, and the reason says so.
    if level["n_nights"]:
        days = f"{level['first_night']} to {level['last_night']}"
        line += f", by {level['n_nights']} mature nights, {days}, with {level['n_rows']:,} labels"
    return f"{line}; {level['reason']}" if level["reason"] else line


def _feature_lines(facts: dict[str, Any]) -> list[str]:
    """Return the lines of the feature load, of the entity's own raw rows, and of all files."""
    features = facts["features"]
    n_values = len(features["row"])
    lines = [FEATURES.format(**features, n_values=n_values)]
    lines += [OWN_ROW.format_map(row) for row in facts["rows"]]
    # One line per dataset: a look-back of 28 days reads a file of each day.
    for _, group in groupby(facts["files"], key=itemgetter("dataset")):
        files = list(group)
        last = files[-1]
        summary = {
            "n_files": len(files),
            "first": files[0]["partition"],
            "n_total": sum(file["n_rows"] for file in files),
        }
        lines.append(FILES.format(**last, **summary))
    return lines
