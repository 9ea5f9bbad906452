"""``nightshift repro``: recompute published values from raw rows and compare every bit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.arguments import AsJson, Key, Model, PredictedOn
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
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
    seed: Annotated[int, typer.Option(help="Seed of the random choice.")] = 1,
    training_set: Annotated[
        int, typer.Option(min=0, help="Rebuild the training set of this model version instead.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Recompute a published prediction or training set from raw rows, and compare it bit by bit.

    Writes nothing. Exits with 1 when anything differs, and shows it column by column.
    """
    from nightshift.contracts.model_spec import load_spec

    # A prediction, a sample or a training set: each has its own comparison.
    n_targets = sum(map(bool, (key, sample, training_set)))
    if n_targets != 1:
        raise typer.BadParameter(
            "Name one prediction, or --random <n>, or --training-set <version>."
        )
    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    if training_set:
        is_equal = _compare_training_set(settings, spec, training_set, as_json)
    else:
        day = Partition.parse(partition) if partition else None
        replays = _replay(settings, spec, key, (sample, seed), day)
        _print_replays(replays, as_json, bool(key))
        is_equal = all(replay.is_equal for replay in replays)
    if not is_equal:
        raise typer.Exit(1)


def _compare_training_set(settings: Settings, spec: ModelSpec, version: int, as_json: bool) -> bool:
    """Rebuild a version's training set, print both hashes, and return whether they are equal."""
    from nightshift.provenance.training_set import rebuild_training_set

    rebuilt = rebuild_training_set(settings, spec.name, version)
    if as_json:
        typer.echo(json.dumps({**vars(rebuilt), "is_equal": rebuilt.is_equal}, indent=1))
        return rebuilt.is_equal
    result = "equal" if rebuilt.is_equal else "DIFFERENT"
    typer.echo(
        f"{rebuilt.key}: {rebuilt.n_rows:,} rows recorded, {rebuilt.n_rows_rebuilt:,} rebuilt"
    )
    typer.echo(
        f"content hash {rebuilt.sha256} recorded, {rebuilt.sha256_rebuilt} rebuilt: {result}"
    )
    return rebuilt.is_equal


def _replay(
    settings: Settings, spec: ModelSpec, key: str, sample: tuple[int, int], day: Partition | None
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


def _print_replays(replays: list[Replay], as_json: bool, is_single: bool) -> None:
    if as_json:
        documents = [_document(replay) for replay in replays]
        typer.echo(json.dumps(documents, indent=1, default=str))
    elif is_single:
        _print_replay(replays[0])
    else:
        _print_summary(replays)


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
    made, features = replay.prediction, replay.features
    typer.echo(
        f"{made.key}, partition {made.day}, load {made.load_id}, model version {made.version}"
    )
    typer.echo(f"features rebuilt from load {features.load_id} as of {features.as_of.isoformat()}")
    rows = [("hash", replay.published_hash[:16], replay.row_hash[:16])]
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
    n_nights = len({replay.prediction.day for replay in replays})
    n_versions = len({replay.prediction.version for replay in replays})
    n_superseded = sum(not replay.prediction.is_current for replay in replays)
    typer.echo(
        f"{n_equal:,} of {len(replays):,} predictions equal, bit by bit: {n_nights} night(s),"
        f" {n_versions} model version(s), {n_superseded:,} superseded"
    )
    notes = Counter(replay.note for replay in replays if replay.note)
    for note, n in notes.items():
        typer.echo(f"{n:,} with {note}")
    if different:
        _print_differences(different)


def _print_differences(replays: Sequence[Replay]) -> None:
    n_by_column: Counter[str] = Counter()
    for replay in replays:
        n_by_column.update(difference.column for difference in replay.differences)
    columns = [f"{name} ({n})" for name, n in n_by_column.most_common(MAX_DIFFERENCES)]
    typer.echo(f"{len(replays):,} differ, in: {', '.join(columns)}")
    rows = []
    for replay in replays[:MAX_DIFFERENCES]:
        key, day = replay.prediction.key, replay.prediction.day
        for difference in replay.differences:
            values = (repr(difference.published), repr(difference.replayed))
            rows.append((key, day, difference.column, *values))
    print_table(("entity", "partition", "column", "published", "replayed"), rows)
    versions = sorted({replay.features.code_version for replay in replays})
    typer.echo(f"features were built by code {', '.join(versions)}")
