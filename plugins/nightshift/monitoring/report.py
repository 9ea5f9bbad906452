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
    """A finished report."""

    html: bytes
    json: bytes


@dataclass(frozen=True)
class ShownDrift:
    """The drift that the report shows: the verdict's numbers over all rows, not the sample's.

    Attributes:
        psi: Stability index by column; a column without one is left out.
        drifted: The columns that drifted.
        drifted_ratio: Share of drifted features, 0 to 1, from which the partition has drifted.
        categorical: The columns that are codes of levels.
    """

    psi: dict[str, float]
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

    # Sorted, so that the sample keeps the order of the rows.
    random = np.random.default_rng(seed)
    index = np.sort(random.permutation(rows.num_rows)[:n_rows])
    matrix = encode(rows.take(index), signature)
    columns = {name: matrix[:, column] for column, name in enumerate(signature.names)}
    is_paired = score.size == rows.num_rows
    columns[SCORE] = score[index] if is_paired else random.choice(score, index.size)
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
        return Report((folder / "report.html").read_bytes(), (folder / "report.json").read_bytes())


def _run_child(folder: Path) -> None:
    # No secret reaches the child process.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NIGHTSHIFT_", "AWS_", "AIRFLOW_"))
    }
    environment |= {
        "PYTHONPATH": str(Path(__file__).parents[2]),
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
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise ReportError(
            "The report's process failed.", got=last[:300], todo="The verdict stands without it."
        )


def _write_report(folder: Path) -> None:
    """Run Evidently on the two samples of a folder; called in the child process."""
    import pandas as pd
    from evidently import DataDefinition, Dataset
    from evidently import Report as EvidentlyReport
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    shown = ShownDrift(**json.loads((folder / "plan.json").read_text()))
    frames = [pd.read_parquet(folder / f"{name}.parquet") for name in ("current", "reference")]
    columns = [name for name in shown.psi if all(frame[name].notna().any() for frame in frames)]
    categorical = [name for name in shown.categorical if name in columns]
    definition = DataDefinition(
        numerical_columns=[name for name in columns if name not in categorical],
        categorical_columns=categorical,
    )
    codes = dict.fromkeys(categorical, "Int64")
    current, reference = (
        Dataset.from_pandas(frame[columns].astype(codes), definition) for frame in frames
    )
    methods = {
        name: _register_result(name, shown.psi[name], name in shown.drifted) for name in columns
    }
    features = [name for name in columns if name != SCORE]
    metrics: list[Any] = [
        DataDriftPreset(
            columns=features, per_column_method=methods, drift_share=shown.drifted_ratio
        )
    ]
    if SCORE in columns:
        metrics.append(ValueDrift(column=SCORE, method=methods[SCORE]))
    snapshot = EvidentlyReport(metrics).run(current, reference)
    (folder / "report.html").write_text(snapshot.get_html_str(as_iframe=False), encoding="utf-8")
    (folder / "report.json").write_text(snapshot.json(), encoding="utf-8")


def _register_result(column: str, psi: float, is_drifted: bool) -> str:
    """Register a drift test with Evidently that returns the known result; return its name."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    # The report must show the verdict's number, not one that Evidently computes from the sample.
    name = f"psi_of_{column}"
    test = StatTest(name=name, display_name="PSI, all rows", allowed_feature_types=list(ColumnType))
    register_stattest(test, lambda *_: (psi, is_drifted))
    return name


if __name__ == "__main__":
    _write_report(Path(sys.argv[1]))
