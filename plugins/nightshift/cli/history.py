"""``nightshift deliver | deliver-history | backfill | train | score | monitor``: data and models of the past, without Airflow."""

from __future__ import annotations

import datetime as dt
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import say
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.drops import NewDrop
    from nightshift.settings import Settings

First = Annotated[str, typer.Argument(help="First partition, YYYY-MM-DD.")]
Last = Annotated[str, typer.Argument(help="Last partition, included; the first by default.")]


def deliver(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset's contract.")],
    partition: Annotated[str, typer.Argument(help="Operating day, YYYY-MM-DD.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="A CSV file with a header, plain or compressed (.csv.gz), or a Parquet file.",
            exists=True,
            dir_okay=False,
        ),
    ],
    delivered_at: Annotated[
        str, typer.Option(help="When it became known, ISO time with offset; now by default.")
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only hold the file against its contract, as ingest will; write nothing.",
        ),
    ] = False,
) -> None:
    """Put a file of your own into the lake as one drop: data file and manifest."""
    from nightshift.contracts.datasets import load_contract

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    at = (
        dt.datetime.fromisoformat(delivered_at).astimezone(dt.UTC)
        if delivered_at
        else dt.datetime.now(dt.UTC)
    )
    day = Partition.parse(partition, contract.timezone)
    if dry_run:
        say(_checked(contract, day, file, at))
    else:
        _deliver_files(settings, contract, [(day, file, at)])


def deliver_history(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset's contract.")],
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of files named <day>.csv, <day>.csv.gz or <day>.parquet.",
            exists=True,
            file_okay=False,
        ),
    ],
    at_cutoff: Annotated[
        bool,
        typer.Option(
            "--at-cutoff",
            help="Say that each file became known at the cut-off of its night; now by default.",
        ),
    ] = False,
) -> None:
    """Put a folder of your own files, one for each day, into the lake: one drop a day."""
    from nightshift.contracts.datasets import load_contract
    from nightshift.quality.file_blocks import suffix_of

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    found = [
        (file.name.removesuffix(suffix_of(file.name)), file)
        for file in sorted(folder.iterdir())
        if suffix_of(file.name)
    ]
    files = [(Partition.parse(day, contract.timezone), file) for day, file in found]
    if not files:
        raise typer.BadParameter(
            f"{folder} holds no data file; expected <day>.csv, such as 2013-02-01.csv, or .csv.gz, or .parquet."
        )
    now = dt.datetime.now(dt.UTC)
    _deliver_files(
        settings,
        contract,
        [(partition, file, partition.cutoff if at_cutoff else now) for partition, file in files],
    )


def backfill(first: First, last: Last = "") -> None:
    """Ingest and transform a range of partitions in one go, then publish it; Airflow backfills night by night instead."""
    settings, partitions = load_settings(), PartitionRange.of(first, last or None)
    run = RunContext(f"backfill/{partitions}", actor=f"cli:{getpass.getuser()}")
    ingest_range(settings, partitions, run)
    transform_range(settings, partitions, run)


def train(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    partition: Annotated[str, typer.Argument(help="Night that trains, YYYY-MM-DD.")],
) -> None:
    """Train one challenger as that night would, and promote or refuse it."""
    from nightshift.contracts.model_spec import load_spec

    settings, night = load_settings(), Partition.parse(partition)
    run = RunContext(f"train__{model}/{night}", actor=f"cli:{getpass.getuser()}")
    say(train_once(settings, load_spec(settings.models_dir, model), night, run))


def score(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    first: First,
    last: Last = "",
    version: Annotated[
        int,
        typer.Option(
            help="Take this version, whoever was champion; by default the one valid on each night."
        ),
    ] = 0,
) -> None:
    """Score and publish a range of partitions as their nights would, or by a version that you name, and say who scored."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.scoring.champion import PinnedVersion
    from nightshift.scoring.publication import score as score_range

    settings, partitions = load_settings(), PartitionRange.of(first, last or None)
    run = RunContext(f"score__{model}/{partitions}", actor=f"cli:{getpass.getuser()}")
    named = PinnedVersion(version, run.actor) if version else None
    published = score_range(
        settings, load_spec(settings.models_dir, model), partitions, run, named=named
    )
    say(
        f"predictions/{model}: {sum(load.n_rows for load in published):,} rows in {len(published)} partition(s)"
    )
    for line in _scored_by(settings, model, partitions):
        say(f"      {line}")


def monitor(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    first: First,
    last: Last = "",
) -> None:
    """Measure drift and matured predictions of a range of nights as they would, and give each verdict."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.monitoring.monitor import monitor

    settings, partitions = load_settings(), PartitionRange.of(first, last or None)
    run = RunContext(f"monitor__{model}/{partitions}", actor=f"cli:{getpass.getuser()}")
    verdict = monitor(settings, load_spec(settings.models_dir, model), partitions, run)
    found = {
        "drift": verdict.drift_status,
        "score drift": verdict.score_drift_status,
        "performance": verdict.performance_status,
    }
    say(
        f"{model} on {partitions.last}: {', '.join(f'{condition} {state}' for condition, state in found.items())}"
    )
    for reason in verdict.reasons:
        say(f"      {reason}")


def ingest_range(settings: Settings, partitions: PartitionRange, run: RunContext) -> None:
    """Ingest every dataset over a range; reference data from its first delivery on."""
    from nightshift.contracts.datasets import Delivery, read_contracts
    from nightshift.ingestion.load import ingest

    contracts = read_contracts(settings.datasets_dir)
    for problem in contracts.problems.values():
        say(f"      not loaded: {problem}")
    for name, contract in contracts.documents.items():
        wanted = partitions
        if contract.delivery is Delivery.ON_CHANGE:
            wanted = PartitionRange(
                min(Partition(contract.history_start), partitions.first), partitions.last
            )
        result = ingest(settings, name, wanted, run)
        say(f"      raw/{name:<18} {result.n_rows:>9,} rows, {result.n_refused} refused")


def transform_range(settings: Settings, partitions: PartitionRange, run: RunContext) -> None:
    """Build and publish the feature views of a range."""
    from nightshift.transformation.build import build

    result = build(settings, partitions, run)
    say(f"      {result.n_rows:,} rows of features in {len(partitions)} partition(s)")
    result.require_all()


def train_once(settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext) -> str:
    """Make a challenger, decide, and return the decision in one line."""
    from nightshift.registry.model_versions import register
    from nightshift.registry.promotion import decide
    from nightshift.training.pipeline import train as fit
    from nightshift.training.point_in_time_probe import probe_features
    from nightshift.training.training_set import build_training_set, mature_window

    window = mature_window(spec, partition)
    say(f"probing the features of {window} for knowledge of the future")
    probe_features(settings, spec, window, run)
    say(f"building the training set of {window}")
    training_set = build_training_set(settings, spec, partition, run)
    say(f"training on {training_set.n_rows:,} rows of {training_set.window}")
    candidate = fit(settings, spec, training_set.key, run)
    version = register(settings, candidate, run).version
    say(f"judging version {version}")
    decision = decide(settings, spec, version, run)
    return f"version {version}, {decision.verdict}: {'; '.join(decision.reasons)}"


def _deliver_files(
    settings: Settings,
    contract: DatasetContract,
    files: Sequence[tuple[Partition, Path, dt.datetime]],
) -> None:
    """Write one drop per partition, file and time of delivery (UTC)."""
    from nightshift.lake.drops import write_drop
    from nightshift.lake.object_store import ObjectStore

    store = ObjectStore.open(settings)
    for partition, file, at in files:
        drop = write_drop(store, _new_drop(contract, partition, file, at))
        say(f"{drop.data_key}: {drop.n_rows:,} rows, delivered at {at.isoformat()}")


def _new_drop(
    contract: DatasetContract, partition: Partition, file: Path, at: dt.datetime
) -> NewDrop:
    from nightshift.lake.drops import NewDrop
    from nightshift.quality.file_blocks import UnreadableFileError, count_rows, suffix_of
    from nightshift.quality.unpacked_stream import OverLimitError

    suffix = suffix_of(file.name) or ".csv"
    try:
        n_rows = count_rows(file, file.name)
    except (UnreadableFileError, OverLimitError) as error:
        raise typer.BadParameter(f"{file} cannot be read as {suffix}: {error}") from None
    name = f"{file.name.removesuffix(suffix)}-{at:%Y%m%dT%H%M%SZ}"
    return NewDrop(
        contract.name,
        partition.day,
        at,
        file.read_bytes(),
        n_rows,
        name,
        contract.schema_version,
        suffix,
    )


def _checked(contract: DatasetContract, partition: Partition, file: Path, at: dt.datetime) -> str:
    """Return what ingest would make of a file.

    Raises:
        ContractError: It would be refused.
    """
    from nightshift.ingestion.row_check import check_rows
    from nightshift.lake.drops import manifest_of
    from nightshift.quality.contract_check import LargeFileError, check_file

    new = _new_drop(contract, partition, file, at)
    drop = manifest_of(new)
    try:
        delivered = check_file(contract, drop, new.data)
    except LargeFileError:
        return f"{file}: columns and number of rows are right; it is too large to check its rows here. Nothing was written."
    rows = check_rows(contract, [drop], [delivered])
    for error in rows.errors.values():
        raise error
    n_refused = len(rows.refused[0])
    counts = f"{rows.values.num_rows:,} rows, {n_refused} distinct refused, {rows.n_duplicated[0]} repeated"
    return "\n".join([f"{file} would be loaded: {counts}. Nothing was written.", *delivered.notes])


def _scored_by(settings: Settings, model: str, partitions: PartitionRange) -> list[str]:
    """Say for each source of the published scores of a range how many rows it made, and why if it was the rule."""
    from psycopg import sql

    from nightshift.warehouse.connection import connect

    query = sql.SQL(
        """
        select score_source, model_version, score_source_reason, count(*) from {}
        where partition_date between %s and %s group by 1, 2, 3 order by 1, 2, 3
        """
    ).format(sql.Identifier("analytics", f"{model}_current"))
    with connect(settings, "nightshift score") as conn:
        found = conn.execute(query, [partitions.first.day, partitions.last.day]).fetchall()
    return [
        f"{n_rows:,} by {source.replace('_', ' ')}{f' v{version}' if version else ''}{f': {reason}' if reason else ''}"
        for source, version, reason, n_rows in found
    ]
