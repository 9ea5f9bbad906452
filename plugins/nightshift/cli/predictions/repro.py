"""``nightshift repro``: recompute published values from raw rows and compare every bit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.arguments import AsJson, Key, Model, PredictedOn, optional_partition
from nightshift.cli.console import print_table
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.provenance.repro import Replay
    from nightshift.settings import Settings

MAX_DIFFERENCES = 20
"""Predictions, and columns, whose differences a terminal shows."""


def repro(  # noqa: PLR0913, PLR0917  (each is an option that a person types)
    model: Model,
    key: Key = "",
    partition: PredictedOn = "",
    sample: Annotated[
        int,
        typer.Option("--random", min=0, help="Number of random predictions, superseded ones too."),
    ] = 0,
    seed: Annotated[
        int,
        typer.Option(help="Seed of the random choice."),
    ] = 1,
    training_set: Annotated[
        int,
        typer.Option(min=0, help="Rebuild the training set of this model version instead."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Recompute a published prediction or training set from raw rows, and compare it bit by bit.

    Writes nothing. Exits with 1 when anything differs, and shows it column by column.
    """
    from nightshift.contracts.model_spec import load_spec

    # A prediction, a sample or a training set: each has its own comparison.
    targets = [target for target in (key, sample, training_set) if target]
    if len(targets) != 1:
        raise typer.BadParameter(
            "Name one prediction, or --random <n>, or --training-set <version>."
        )
    day = optional_partition(partition)
    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    if training_set:
        is_equal = _compare_training_set(settings, spec, training_set, as_json)
    else:
        replays = _replay(settings, spec, key, (sample, seed), day)
        if as_json:
            _print_documents(replays)
        elif key:
            _print_replay(replays[0])
        else:
            _print_summary(replays)
        is_equal = all(replay.is_equal for replay in replays)
    if not is_equal:
        raise typer.Exit(1)


def _compare_training_set(settings: Settings, spec: ModelSpec, version: int, as_json: bool) -> bool:
    """Rebuild a version's training set, print both hashes, and return whether they are equal."""
    from nightshift.provenance.training_set import rebuild_training_set

    rebuilt = rebuild_training_set(settings, spec.name, version)
    is_equal = rebuilt.is_equal
    if as_json:
        document = {**vars(rebuilt), "is_equal": is_equal}
        typer.echo(json.dumps(document, indent=1))
        return is_equal
    result = "equal" if is_equal else "DIFFERENT"
    counts = f"{rebuilt.n_rows:,} rows recorded, {rebuilt.n_rows_rebuilt:,} rebuilt"
    hashes = f"{rebuilt.sha256} recorded, {rebuilt.sha256_rebuilt} rebuilt"
    typer.echo(f"{rebuilt.key}: {counts}")
    typer.echo(f"content hash {hashes}: {result}")
    return is_equal


def _replay(
    settings: Settings,
    spec: ModelSpec,
    key: str,
    sample: tuple[int, int],
    day: Partition | None,
) -> list[Replay]:
    """Recompute one prediction, or a sample of ``(number, seed)``."""
    from nightshift.provenance.predictions import find_prediction, sample_predictions
    from nightshift.provenance.repro import replay_predictions
    from nightshift.warehouse.connection import connect

    with connect(settings, "nightshift repro") as conn:
        if key:
            predictions = [find_prediction(conn, spec, key, day)]
        else:
            predictions = sample_predictions(conn, spec, *sample, day)
    return replay_predictions(settings, spec, predictions)


def _print_documents(replays: Sequence[Replay]) -> None:
    documents = [_document(replay) for replay in replays]
    typer.echo(json.dumps(documents, indent=1, default=str))


def _document(replay: Replay) -> dict[str, Any]:
    made = replay.prediction
    return {
        "key": made.key,
        "partition": made.day,
        "load_id": made.load_id,
        "model_version": made.version,
        "is_equal": replay.is_equal,
        "published_hash": replay.published_hash,
        "row_hash": replay.row_hash,
        "note": replay.note,
        "differences": [vars(difference) for difference in replay.differences],
    }


def _print_replay(replay: Replay) -> None:
    made = replay.prediction
    origin = f"load {made.load_id}, model version {made.version}"
    typer.echo(f"{made.key}, partition {made.day}, {origin}")
    features = replay.features
    as_of = features.as_of.isoformat()
    typer.echo(f"features rebuilt from load {features.load_id} as of {as_of}")
    rows = [("hash", replay.published_hash[:16], replay.row_hash[:16])]
    # With equal hashes the replayed score is the published one.
    if replay.is_equal and "score" in made.values:
        score = repr(made.values["score"])
        rows.append(("score", score, score))
    print_table(("", "published", "replayed"), rows)
    if replay.is_equal:
        typer.echo(f"equal: {replay.n_values} values, bit by bit")
    else:
        _print_differences([replay])
    if replay.note:
        typer.echo(replay.note)


def _print_summary(replays: Sequence[Replay]) -> None:
    different = [replay for replay in replays if not replay.is_equal]
    n_equal = len(replays) - len(different)
    predictions = [replay.prediction for replay in replays]
    n_nights = len({made.day for made in predictions})
    n_versions = len({made.version for made in predictions})
    n_superseded = sum(not made.is_current for made in predictions)
    typer.echo(
        f"{n_equal:,} of {len(replays):,} predictions equal, bit by bit: {n_nights} night(s),"
        f" {n_versions} model version(s), {n_superseded:,} superseded"
    )
    notes = Counter(replay.note for replay in replays if replay.note)
    for note, n_noted in notes.items():
        typer.echo(f"{n_noted:,} with {note}")
    if different:
        _print_differences(different)


def _print_differences(replays: Sequence[Replay]) -> None:
    n_by_column: Counter[str] = Counter()
    for replay in replays:
        n_by_column.update(difference.column for difference in replay.differences)
    frequent = n_by_column.most_common(MAX_DIFFERENCES)
    columns = ", ".join(f"{name} ({n})" for name, n in frequent)
    typer.echo(f"{len(replays):,} differ, in: {columns}")

    rows = []
    for replay in replays[:MAX_DIFFERENCES]:
        made = replay.prediction
        for difference in replay.differences:
            published = repr(difference.published)
            replayed = repr(difference.replayed)
            rows.append((made.key, made.day, difference.column, published, replayed))
    print_table(("entity", "partition", "column", "published", "replayed"), rows)

    # The first suspect: today's code builds the features again, not the code of that night.
    versions = sorted({replay.features.code_version for replay in replays})
    typer.echo(f"features were built by code {', '.join(versions)}")
