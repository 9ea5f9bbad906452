"""Predictions of a model: scores and, of some tasks, probabilities or groups; and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nightshift.models.class_scores import of_rows
from nightshift.models.signature import numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Integers, Mask, Matrix, Vector

_DAY = "partition_date"


@dataclass(frozen=True)
class Groups:
    """The rows that a ranking orders among each other.

    Attributes:
        codes: Number of each row's group, from 0; shape (n,).
        top_k: How many rows of a group are chosen.
    """

    codes: Integers
    top_k: int


@dataclass(frozen=True)
class Predictions:
    """Scores and probabilities of some rows.

    Attributes:
        score: Orders the rows: probability before calibration, or the value in the label's unit;
            shape (n,).
        probability: Calibrated probability, of classes that of the predicted one; None for a
            regression; shape (n,).
        threshold: Probability from which a row is called positive.
        answers: Median, lower and upper end of each row, NaN without; shape (n, 3).
        classes: Calibrated probability of each class; None without classes; shape (n, classes).
        groups: Which rows are ordered among each other; of a ranking that is judged only.
    """

    score: Vector
    probability: Vector | None = None
    threshold: float = 0.5
    answers: Matrix | None = None
    classes: Matrix | None = None
    groups: Groups | None = None

    @classmethod
    def of_classes(cls, classes: Matrix, uncalibrated: Matrix | None = None) -> Predictions:
        """Return predictions of the likeliest class of each row, the first of equals.

        Args:
            classes: Calibrated probabilities, shape (n, classes).
            uncalibrated: The same before calibration; None for what has none, such as a baseline.
        """
        predicted = classes.argmax(axis=1)
        score = of_rows(classes if uncalibrated is None else uncalibrated, predicted)
        return cls(score, of_rows(classes, predicted), classes=classes)

    @property
    def predicted_class(self) -> Integers:
        """Return the number of the likeliest class of each row, shape (n,)."""
        assert self.classes is not None  # noqa: S101 - the caller knows the task
        predicted: Integers = self.classes.argmax(axis=1)
        return predicted

    @property
    def all_probabilities(self) -> Matrix | None:
        """Return the probabilities of each row: (n,) of a binary label, (n, classes) of classes."""
        return self.probability if self.classes is None else self.classes

    def answered(self, label: Vector) -> tuple[Vector, Vector]:
        """Return outcome and prediction of each row, as calibration compares them; shape (n,) each.

        They are label and probability, or label and value; of classes whether the predicted one
        came true, and its probability.
        """
        if self.probability is None:
            return label, self.score
        if self.classes is not None:
            return (label == self.predicted_class).astype(float), self.probability
        return label, self.probability

    def by_class(self, label: Vector) -> tuple[Vector, Vector]:
        """Return of each row and class whether it came true, and its probability.

        Returns:
            Shape (n * classes,) each: the classes of the first row, then those of the second …
        """
        assert self.classes is not None  # noqa: S101 - the caller knows the task
        n_classes = self.classes.shape[1]
        came_true = label.astype(int)[:, None] == range(n_classes)
        return came_true.reshape(-1).astype(float), self.classes.reshape(-1)

    def of_outcome(self, label: Vector) -> tuple[Vector, Vector]:
        """Return outcome and prediction of each row, as a proper loss compares them; shape (n,).

        As ``answered``; of classes the probability that the one that came true had, and ones.
        """
        if self.classes is None:
            return self.answered(label)
        of_label = of_rows(self.classes, label)
        return of_label * 0 + 1, of_label

    def at(self, mask: Mask) -> Predictions:
        """Return the predictions of some rows."""
        probability = None if self.probability is None else self.probability[mask]
        answers = None if self.answers is None else self.answers[mask]
        classes = None if self.classes is None else self.classes[mask]
        groups = self.groups and replace(self.groups, codes=self.groups.codes[mask])
        return Predictions(self.score[mask], probability, self.threshold, answers, classes, groups)


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of consecutive rows as one; the threshold is that of the last part.

    Args:
        parts: At least one; of one model, or of one after the other.
    """
    import numpy as np

    score = np.concatenate([part.score for part in parts])
    probabilities = [part.probability for part in parts if part.probability is not None]
    # Either every part has probabilities (a binary model) or none has.
    probability = np.concatenate(probabilities) if probabilities else None
    answers = [part.answers for part in parts if part.answers is not None]
    classes = [part.classes for part in parts if part.classes is not None]
    return Predictions(
        score,
        probability,
        parts[-1].threshold,
        np.concatenate(answers) if answers else None,
        np.concatenate(classes) if classes else None,
    )


def labels_of(spec: ModelSpec, rows: pa.Table) -> Vector:
    """Return the labels of rows, shape (n,); NaN for a row without one."""
    return numbers(rows, spec.label.column)


def with_groups(spec: ModelSpec, rows: pa.Table, predictions: Predictions) -> Predictions:
    """Return predictions of a ranking with the groups of their rows; others stay as they are.

    Args:
        spec: Its group and top_k.
        rows: The predicted rows, in the same order.
        predictions: For these rows.
    """
    if not spec.is_ranking or predictions.groups is not None:
        return predictions
    return replace(predictions, groups=Groups(group_codes(spec, rows), spec.top_k))


def group_codes(spec: ModelSpec, rows: pa.Table) -> Integers:
    """Return the number of each row's group, from 0 by night and then by the value; shape (n,).

    Rows without a value are a group of their night.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = np.zeros(rows.num_rows, dtype=np.int64)
    # Rows of a test may have no night.
    names = [_DAY] if _DAY in rows.column_names else []
    for name in (*names, *spec.group_columns):
        column = pc.cast(rows.column(name), pa.string())
        # An empty text is a value of its own, as in the ranks that the warehouse sets.
        for part in (column.is_valid(), column.fill_null("")):
            _, own = np.unique(part.to_numpy().astype(str), return_inverse=True)
            _, codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)
    return np.asarray(codes, dtype=np.int64)
