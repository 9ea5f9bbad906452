"""Refuse windows that a model cannot be fitted, stopped, calibrated or judged on.

A library's own error about an empty or one-sided sample names no day, and a retry meets the same
rows. So the parts of a split are checked before the first tree is grown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.models.signature import numbers
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.metrics import Task
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.training.splits import Split


class WindowError(NightshiftError):
    """A part of the training window has no labelled row, or a single label value."""

    code = "NS-TRAIN-015"


def check_window(spec: ModelSpec, rows: pa.Table, split: Split) -> None:
    """Refuse a split of which a part is empty, or holds one label where two are needed.

    A hold-out of one class is no error here: the model can be trained, and the promotion gate
    refuses it for want of evidence.

    Args:
        spec: Task and label.
        rows: The training set.
        split: Its parts.

    Raises:
        WindowError: A part has no labelled row (015), or a single label value (016).
    """
    parts = {"train": split.train, "validation": split.validation, "hold-out": split.holdout}
    for name, days in parts.items():
        label = numbers(rows_of(rows, days), spec.label.column)
        if label.size == 0:
            raise _no_rows(spec, name, days)
        if name in _needs_two_labels(spec.task) and label.min() == label.max():
            raise _one_label(spec, name, days, label.size)


def is_trainable(spec: ModelSpec, rows: pa.Table, split: Split) -> bool:
    """Return whether a split has what ``check_window`` asks for."""
    try:
        check_window(spec, rows, split)
    except WindowError:
        return False
    return True


def _needs_two_labels(task: Task) -> tuple[str, ...]:
    """Return the parts that must hold more than one label value.

    A regression is stopped on validation rows of one value as well as on others. A class that the
    validation rows do not hold leaves the calibration and the threshold undefined.
    """
    return ("train", "validation") if task == "binary" else ("train",)


def _no_rows(spec: ModelSpec, name: str, days: PartitionRange) -> WindowError:
    return WindowError(
        f"The {name} days of {spec.name} have no labelled row.",
        expected=f"at least one row with {spec.label.column!r} in {days}",
        got="none",
        todo=f"Look for the labels of these days in marts.{spec.label.relation}; deliver and build what is missing, then train again.",
    )


def _one_label(spec: ModelSpec, name: str, days: PartitionRange, n_rows: int) -> WindowError:
    return WindowError(
        f"The {name} days of {spec.name} hold a single value of label {spec.label.column!r}.",
        expected=f"two different values at least in {days}",
        got=f"{n_rows:,} row(s) with the same label",
        todo=f"Is marts.{spec.label.relation} right for these days? A rare event needs longer parts:"
        " training.validation_days, training.window_days.",
        code="NS-TRAIN-016",
    )
