"""``nightshift repro``: make published predictions, or a training set, again from raw rows, and compare every bit."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.provenance.repro import Replay
    from nightshift.settings import Settings

_SHOWN = 20


def repro(  # noqa: PLR0913, PLR0917  (each is an option that a person types)
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    key: Annotated[
        str, typer.Argument(help="Entity key of one prediction, such as 2013-03-10_UA_1545_EWR.")
    ] = "",
    partition: Annotated[
        str, typer.Option(help="Night that predicted, YYYY-MM-DD; by default the entity's last.")
    ] = "",
    sample: Annotated[
        int,
        typer.Option("--random", min=0, help="So many random predictions, superseded ones too."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the random ones.")] = 1,
    training_set: Annotated[
        int, typer.Option(min=0, help="Rebuild the training set of this model version instead.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rebuild features as they were known, load the model that scored, score, and compare: values, score, reasons, hash.

    Writes nothing. Exits with 1 when anything differs, and shows it column by column.
    """
    from nightshift.contracts.model_spec import load_spec

    if sum(map(bool, (key, sample, training_set))) != 1:
        raise typer.BadParameter(
            "Name one prediction, or --random <n>, or --training-set <version>."
        )
    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    if training_set:
        is_equal = _training_set(settings, spec, training_set, as_json)
    else:
        night = Partition.parse(partition) if partition else None
        is_equal = _print(_replay(settings, spec, key, (sample, seed), night), as_json, bool(key))
    if not is_equal:
        raise typer.Exit(1)


def _replay(
    settings: Settings, spec: ModelSpec, key: str, sample: tuple[int, int], night: Partition | None
) -> list[Replay]:
    from nightshift.provenance.predictions import find_prediction, sample_predictions
    from nightshift.provenance.repro import replay_predictions
    from nightshift.warehouse.connection import connect

    with connect(settings, "nightshift repro") as conn:
        wanted = (
            [find_prediction(conn, spec, key, night)]
            if key
            else sample_predictions(conn, spec, *sample, night)
        )
    return replay_predictions(settings, spec, wanted)


def _print(replays: list[Replay], as_json: bool, is_one: bool) -> bool:
    if as_json:
        say(json.dumps([_facts(replay) for replay in replays], indent=1, default=str))
    elif is_one:
        _print_one(replays[0])
    else:
        _print_many(replays)
    return all(replay.is_equal for replay in replays)


def _print_one(replay: Replay) -> None:
    made = replay.prediction
    say(f"{made.key}, partition {made.day}, load {made.load_id}, model version {made.version}")
    say(
        f"features rebuilt from load {replay.features.load_id} as of {replay.features.as_of.isoformat()}"
    )
    print_table(
        ("", "published", "replayed"),
        [
            ("hash", replay.published_hash[:16], replay.row_hash[:16]),
            *((n, repr(v), repr(v)) for n, v in made.values.items() if n == "score"),
        ]
        if replay.is_equal
        else [("hash", replay.published_hash[:16], replay.row_hash[:16])],
    )
    if replay.is_equal:
        say(f"equal: {replay.n_values} values, bit by bit")
    else:
        _print_differences([replay])
    if replay.remark:
        say(replay.remark)


def _print_many(replays: list[Replay]) -> None:
    n_equal = sum(replay.is_equal for replay in replays)
    nights, versions = {r.prediction.day for r in replays}, {r.prediction.version for r in replays}
    n_old = sum(not r.prediction.is_current for r in replays)
    say(
        f"{n_equal:,} of {len(replays):,} predictions equal, bit by bit: {len(nights)} night(s), {len(versions)} model version(s),"
        f" {n_old:,} superseded"
    )
    for remark, n in Counter(r.remark for r in replays if r.remark).items():
        say(f"{n:,} with {remark}")
    if n_equal < len(replays):
        _print_differences([replay for replay in replays if not replay.is_equal])


def _print_differences(replays: list[Replay]) -> None:
    columns = Counter(d.column for replay in replays for d in replay.differences)
    say(
        f"{len(replays):,} differ, in: {', '.join(f'{name} ({n})' for name, n in columns.most_common(_SHOWN))}"
    )
    rows = [
        (r.prediction.key, str(r.prediction.day), d.column, repr(d.published), repr(d.replayed))
        for r in replays[:_SHOWN]
        for d in r.differences
    ]
    print_table(("entity", "partition", "column", "published", "replayed"), rows)
    say(
        "features were built by code "
        + ", ".join(sorted({replay.features.code_version for replay in replays}))
    )


def _facts(replay: Replay) -> dict[str, Any]:
    made = replay.prediction
    return {
        "key": made.key,
        "partition": made.day,
        "load_id": made.load_id,
        "model_version": made.version,
        "is_equal": replay.is_equal,
        "published_hash": replay.published_hash,
        "row_hash": replay.row_hash,
        "remark": replay.remark,
        "differences": [vars(difference) for difference in replay.differences],
    }


def _training_set(settings: Settings, spec: ModelSpec, version: int, as_json: bool) -> bool:
    from nightshift.provenance.training_set import rebuild_training_set

    rebuilt = rebuild_training_set(settings, spec.name, version)
    if as_json:
        say(json.dumps({**vars(rebuilt), "is_equal": rebuilt.is_equal}, indent=1))
    else:
        say(f"{rebuilt.key}: {rebuilt.n_rows:,} rows recorded, {rebuilt.n_rows_rebuilt:,} rebuilt")
        say(
            f"content hash {rebuilt.sha256} recorded, {rebuilt.sha256_rebuilt} rebuilt: {'equal' if rebuilt.is_equal else 'DIFFERENT'}"
        )
    return rebuilt.is_equal
