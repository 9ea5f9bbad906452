"""``nightshift why``: where a published prediction comes from, and its reasons in words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nightshift.cli.console import say
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings


def why(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    key: Annotated[str, typer.Argument(help="Entity key, such as 2013-03-10_UA_1545_EWR.")],
    partition: Annotated[
        str, typer.Option(help="Night that predicted, YYYY-MM-DD; by default the entity's last.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole chain as JSON, every file and feature.")
    ] = False,
) -> None:
    """Print the chain of a prediction: raw rows and files, features, model, training set, code, publication; and why."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.provenance.lineage import as_json as written
    from nightshift.provenance.lineage import explain
    from nightshift.provenance.predictions import find_prediction
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    with connect(settings, "nightshift why") as conn:
        found = find_prediction(conn, spec, key, Partition.parse(partition) if partition else None)
    facts = explain(settings, spec, found)
    if as_json:
        say(written(facts))
    else:
        for line in _lines(facts):
            say(line)


def _lines(facts: dict[str, Any]) -> list[str]:
    made, published = facts["prediction"], facts["publication"]
    lines = [
        (
            f"{made['key']}, predicted by the night of {made['partition']}: score {made['score']!r}, probability {made['probability']!r},"
            f" decile {made['decile']} ({made['score_source']})"
        ),
        *(f"  because {reason}" for reason in facts["reasons"]),
        (
            f"publication   load {published['load_id']}, token {published['token']}, run {published['run_id']}, by {published['actor']},"
            f" at {published['published_at']}; code {published['code_version']}"
        ),
    ]
    if facts["model"] is None:
        return [*lines, "model         none: the ladder's lower steps need none"]
    return [*lines, *_model_lines(facts), *_feature_lines(facts)]


def _model_lines(facts: dict[str, Any]) -> list[str]:
    model, rows = facts["model"], facts["training_set"]
    promoted = model["promotion"] or {}
    return [
        (
            f"model         version {model['version']}, digest {model['digest']}, trained by the night of {model['trained_on_partition']};"
            f" code {model['code_version']}"
        ),
        f"  promotion   {promoted.get('verdict', 'none')} by {promoted.get('actor')}, evidence {promoted.get('evidence_sha256')}",
        f"training set  {rows['training_set']}",
        (
            f"  content     {rows['n_rows']:,} rows of {rows['first_day']} to {rows['last_day']} known at {rows['as_of']}, from"
            f" {rows['n_feature_loads']} feature loads; SHA-256 {rows['sha256']}; code {rows['code_version']}"
        ),
    ]


def _feature_lines(facts: dict[str, Any]) -> list[str]:
    features, files = facts["features"], facts["files"]
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        by_dataset.setdefault(file["dataset"], []).append(file)
    return [
        (
            f"features      {features['dataset']} load {features['load_id']}, as of {features['as_of']}, {len(features['row'])} values;"
            f" code {features['code_version']}"
        ),
        *(
            f"  own row     {row['source_uri']} row {row['source_row']}, SHA-256 {row['source_sha256']}"
            for row in facts["rows"]
        ),
        *(
            f"  files       {dataset}: {len(found)}, {found[0]['partition']} to {found[-1]['partition']},"
            f" {sum(file['n_rows'] for file in found):,} rows; the last {found[-1]['source_uri']}, SHA-256 {found[-1]['source_sha256']}"
            for dataset, found in by_dataset.items()
        ),
    ]
