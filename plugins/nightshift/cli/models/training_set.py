"""``nightshift training-set``: the rows of a training as a Parquet file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.arguments import AsJson, Model, optional_partition
from nightshift.settings import load_settings


def training_set(
    model: Model,
    to: Annotated[Path, typer.Option("--to", help="Parquet file; an existing one is replaced.")],
    as_of: Annotated[
        str,
        typer.Option(
            help="Partition whose night trains, YYYY-MM-DD; by default the newest with features.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write exactly the rows that a training reads: features, label, weight and split marks.

    The digest equals that of the recorded training set. Columns that the spec does not name do not
    leave the warehouse.
    """
    from nightshift.contracts.model_spec import load_spec
    from nightshift.studies.training_rows_file import write_training_rows

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    partition = optional_partition(as_of)
    written = write_training_rows(settings, spec, partition, to)
    if as_json:
        document = asdict(written)
        # Neither a path nor a range has a form in JSON.
        document["path"] = str(to.resolve())
        document["window"] = str(written.window)
        typer.echo(json.dumps(document, indent=1))
        return
    # Rows of a gap are in the training set too: no fit reads them, and no check.
    parts = ", ".join(f"{name} {count:,}" for name, count in written.parts.items())
    typer.echo(f"{to.resolve()}: {written.n_rows:,} rows of {written.window} ({parts})")
    recorded = written.training_set or "no training of this partition is recorded yet"
    typer.echo(f"digest of the training set: SHA-256 {written.sha256} ({recorded})")
    if written.left_out:
        typer.echo(f"left out, the spec does not name them: {', '.join(written.left_out)}")
