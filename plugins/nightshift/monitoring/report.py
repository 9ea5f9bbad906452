"""The drift report for people, by Evidently: seeded samples of the reference and the partition.

Evidently runs in a child process with a deadline: its import is heavy, and neither its failure nor
its slowness may affect a verdict.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.models.signature import Signature

# Ten times the duration of a report on two busy cores.
DEADLINE_SECONDS = 120
SCORE = "score"


class ReportError(NightshiftError):
    """The report failed, or was not finished in time."""

    code = "NS-MONITOR-002"


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        html: The page for people, complete in itself.
        json: The same numbers for programs.
    """

    html: bytes
    json: bytes


@dataclass(frozen=True)
class ShownDrift:
    """The drift that the report shows: the verdict's numbers over all rows, not the sample's.

    Attributes:
        distances: Distance from usual by column, in usual variations from night to night; a column
            without one is left out.
        drifted: The columns that drifted.
        drifted_ratio: Share of drifted features, 0 to 1, from which the partition has drifted.
        categorical: The columns that are codes of levels.
    """

    distances: dict[str, float]
    drifted: list[str]
    drifted_ratio: float
    categorical: list[str]


def draw_sample(
    rows: pa.Table, score: npt.NDArray[np.float64], signature: Signature, n_rows: int, seed: int
) -> pa.Table:
    """Draw rows without replacement; the same seed and rows give the same sample.

    Args:
        rows: Shape (n, any).
        score: Shape (n,), or scores of other rows, which are drawn separately.
        signature: Names, order and levels.
        n_rows: Maximum number of rows.
        seed: Seed of the draw.

    Returns:
        The columns of the signature, categories as codes, and ``score``.
    """
    import numpy as np
    import pyarrow as pa

    from nightshift.models.signature import encode

    random = np.random.default_rng(seed)
    drawn = random.permutation(rows.num_rows)[:n_rows]
    # Sorted, so that the sample keeps the order of the rows.
    index = np.sort(drawn)
    matrix = encode(rows.take(index), signature)
    columns = dict(zip(signature.names, matrix.T, strict=True))
    if score.size == rows.num_rows:
        columns[SCORE] = score[index]
    else:
        columns[SCORE] = random.choice(score, index.size)
    return pa.table(columns)


def make_report(reference: pa.Table, current: pa.Table, shown: ShownDrift) -> Report:
    """Return a report that compares two samples column by column.

    Args:
        reference: Sample of the champion's training set.
        current: Sample of the partition.
        shown: The verdict's numbers.

    Raises:
        ReportError: The child process failed or did not finish in time.
    """
    from pyarrow import parquet

    with TemporaryDirectory(prefix="nightshift-report-") as name:
        folder = Path(name)
        parquet.write_table(reference, folder / "reference.parquet")
        parquet.write_table(current, folder / "current.parquet")
        (folder / "plan.json").write_text(json.dumps(asdict(shown)))
        _run_child(folder)
        html = (folder / "report.html").read_bytes()
        document = (folder / "report.json").read_bytes()
        return Report(html, document)


def _run_child(folder: Path) -> None:
    """Run ``_write_report`` on a folder in a process of its own.

    Raises:
        ReportError: It failed, or was not finished in time.
    """
    # No secret reaches the child process.
    secret = ("NIGHTSHIFT_", "AWS_", "AIRFLOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(secret)}
    plugins = Path(__file__).parents[2]
    # Libraries write their caches into the temporary folder, and phone nowhere.
    environment |= {
        "PYTHONPATH": str(plugins),
        "DO_NOT_TRACK": "1",
        "HOME": str(folder),
        "MPLCONFIGDIR": str(folder),
    }
    command = [sys.executable, "-m", "nightshift.monitoring.report", str(folder)]
    try:
        process = subprocess.run(  # noqa: S603
            command,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReportError(
            "The report was not finished in time.",
            got=type(error).__name__,
            todo="The verdict stands without it.",
        ) from None
    if process.returncode != 0:
        # The last line of a traceback names the error.
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise ReportError(
            "The report's process failed.",
            got=lines[-1][:300],
            todo="The verdict stands without it.",
        )


def _write_report(folder: Path) -> None:
    """Run Evidently on the two samples of a folder; called in the child process.

    The folder has ``plan.json``, ``reference.parquet`` and ``current.parquet``, and gets
    ``report.html`` and ``report.json``.
    """
    import pandas as pd
    from evidently import DataDefinition, Dataset
    from evidently import Report as EvidentlyReport

    shown = ShownDrift(**json.loads((folder / "plan.json").read_text()))
    current = pd.read_parquet(folder / "current.parquet")
    reference = pd.read_parquet(folder / "reference.parquet")

    # A column without any value on one side has no distribution to show.
    has_values = current.notna().any() & reference.notna().any()
    columns = [name for name in shown.distances if has_values[name]]
    categorical = [name for name in shown.categorical if name in columns]
    definition = DataDefinition(
        numerical_columns=[name for name in columns if name not in categorical],
        categorical_columns=categorical,
    )
    # Codes of levels are doubles in the sample, since a missing one is NaN.
    codes = dict.fromkeys(categorical, "Int64")
    snapshot = EvidentlyReport(_metrics(shown, columns)).run(
        Dataset.from_pandas(current[columns].astype(codes), definition),
        Dataset.from_pandas(reference[columns].astype(codes), definition),
    )
    html = snapshot.get_html_str(as_iframe=False)
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "report.json").write_text(snapshot.json(), encoding="utf-8")


def _metrics(shown: ShownDrift, columns: list[str]) -> list[Any]:
    """Return what Evidently shows: the drift of the features, and that of the score."""
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    methods = {}
    for name in columns:
        methods[name] = _register_result(name, shown.distances[name], name in shown.drifted)
    preset = DataDriftPreset(
        columns=[name for name in columns if name != SCORE],
        per_column_method=methods,
        drift_share=shown.drifted_ratio,
    )
    metrics: list[Any] = [preset]
    if SCORE in columns:
        metrics.append(ValueDrift(column=SCORE, method=methods[SCORE]))
    return metrics


def _register_result(column: str, distance: float, is_drifted: bool) -> str:
    """Register a drift test with Evidently that returns the known result; return its name."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    # The report must show the verdict's number, not one that Evidently computes from the sample.
    name = f"distance_of_{column}"
    test = StatTest(
        name=name,
        display_name="usual variations from night to night, all rows",
        allowed_feature_types=list(ColumnType),
    )
    register_stattest(test, lambda *_: (distance, is_drifted))
    return name


if __name__ == "__main__":
    _write_report(Path(sys.argv[1]))
