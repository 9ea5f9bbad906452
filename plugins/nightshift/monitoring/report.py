"""A report for people by Evidently: a bounded, seeded sample of the reference beside the night. The only module that knows Evidently.

It runs in a process of its own with a deadline: its import is heavy, and neither its failure nor
its slowness may touch a verdict.
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

DEADLINE_SECONDS = 120
"""Ten times what a report takes on two busy cores."""
SCORE = "score"


class ReportError(NightshiftError):
    """The report could not be made in time."""

    code = "NS-MONITOR-002"


@dataclass(frozen=True)
class Sample:
    """Rows and their scores; the columns are those of the signature, categories as codes."""

    columns: dict[str, npt.NDArray[np.float64]]

    @classmethod
    def draw(
        cls,
        rows: pa.Table,
        score: npt.NDArray[np.float64],
        signature: Signature,
        n_rows: int,
        seed: int,
    ) -> Sample:
        """Draw at most ``n_rows`` rows without replacement; the same seed and rows give the same sample.

        Args:
            rows: Shape (n, any).
            score: Shape (n,), or scores of other rows to draw from on their own.
            signature: Names, order and levels.
            n_rows: Upper limit.
            seed: Seed of the draw.
        """
        import numpy as np

        from nightshift.models.signature import encode

        random = np.random.default_rng(seed)
        places = np.sort(random.permutation(rows.num_rows)[:n_rows])
        matrix = encode(rows.take(places), signature)
        drawn = score[places] if score.size == rows.num_rows else random.choice(score, places.size)
        return cls(
            {name: matrix[:, place] for place, name in enumerate(signature.names)} | {SCORE: drawn}
        )

    def write(self, path: Path) -> None:
        """Write the sample as a Parquet file."""
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(self.columns), path)


@dataclass(frozen=True)
class Report:
    """A finished report."""

    html: bytes
    json: bytes


@dataclass(frozen=True)
class ShownDrift:
    """What the report says about drift: the verdict's own numbers over all rows, never those of the sample.

    Attributes:
        psi: Stability index by column; a column without one is left out.
        drifted: The columns that drifted.
        drifted_ratio: Share of drifted features, 0 to 1, from which the night counts as drifted.
        categorical: The columns that are codes of levels.
    """

    psi: dict[str, float]
    drifted: list[str]
    drifted_ratio: float
    categorical: list[str]


def make_report(reference: Sample, current: Sample, shown: ShownDrift) -> Report:
    """Draw two samples beside each other, column by column.

    Args:
        reference: Rows of the champion's training set.
        current: Rows of the night.
        shown: The verdict's numbers.

    Raises:
        ReportError: The report's process failed or did not finish in time.
    """
    with TemporaryDirectory(prefix="nightshift-report-") as name:
        folder = Path(name)
        reference.write(folder / "reference.parquet")
        current.write(folder / "current.parquet")
        (folder / "plan.json").write_text(json.dumps(asdict(shown)))
        _run_child(folder)
        return Report((folder / "report.html").read_bytes(), (folder / "report.json").read_bytes())


def _run_child(folder: Path) -> None:
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
        done = subprocess.run(  # noqa: S603
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
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
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
    whole = [frame[columns].astype(dict.fromkeys(categorical, "Int64")) for frame in frames]
    current, reference = (Dataset.from_pandas(frame, definition) for frame in whole)
    methods = {
        name: _given_answer(name, shown.psi[name], name in shown.drifted) for name in columns
    }
    features = [name for name in columns if name != SCORE]
    metrics: list[Any] = [
        DataDriftPreset(
            columns=features, per_column_method=methods, drift_share=shown.drifted_ratio
        )
    ]
    metrics += [ValueDrift(column=SCORE, method=methods[SCORE])] if SCORE in columns else []
    snapshot = EvidentlyReport(metrics).run(current, reference)
    (folder / "report.html").write_text(snapshot.get_html_str(as_iframe=False), encoding="utf-8")
    (folder / "report.json").write_text(snapshot.json(), encoding="utf-8")


def _given_answer(column: str, psi: float, is_drifted: bool) -> str:
    """Register a drift test with Evidently that answers what is known already; return its name."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    name = f"psi_of_{column}"
    test = StatTest(name=name, display_name="PSI, all rows", allowed_feature_types=list(ColumnType))
    register_stattest(test, lambda *_: (psi, is_drifted))
    return name


if __name__ == "__main__":
    _write_report(Path(sys.argv[1]))
