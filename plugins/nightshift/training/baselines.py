"""Baselines that a model must beat: the prior, the spec's rule, a linear model, one small tree.

They are fitted on the rows that the model was fitted on. The gate fits them from the immutable
training set, so no challenger can bring weak baselines of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.contracts.metrics import Task
from nightshift.models.predictions import Predictions, with_groups
from nightshift.models.signature import encode, learn_signature, numbers
from nightshift.training.evaluation import as_predictions, rule_predictions

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.models.signature import Signature


NAMES = ("prior", "rule", "linear", "tree")
MAXIMUM_ROWS = 50_000
"""Rows that a baseline is fitted on, evenly spaced; twice as many moved no metric of 2013 by
more than 0.002.
"""
MAXIMUM_LEVELS = 50
"""Levels of a category that the linear model knows; rarer ones count as missing."""
_LEAVES = 8
_LEAF_ROWS = 50
_ITERATIONS = 100
_MEDIAN_METRICS = {"mae"}


@dataclass(frozen=True, eq=False)
class Baselines:
    """Predictions of the baselines in ``NAMES``, each made on first access.

    The same rows give the same predictions. Rows that do not fit the spec raise a
    ``SignatureError`` on access.

    Attributes:
        spec: Task, features, rule and seed.
        fit_rows: Rows that the challenger was fitted, stopped and calibrated on, in their total
            order.
        rows: Later rows; shape (n, any).
        threshold: Probability from which a row is called positive.
    """

    spec: ModelSpec
    fit_rows: pa.Table
    rows: pa.Table
    threshold: float
    _predictions: dict[str, Predictions] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Predictions:
        """Return the predictions of a baseline."""
        if name not in self._predictions:
            self._predictions[name] = self._predict(name)
        return self._predictions[name]

    def _predict(self, name: str) -> Predictions:
        spec = self.spec
        if name == "rule":
            rule = rule_predictions(spec.task, spec.scoring.fallback, self.rows, self.threshold)
            return with_groups(spec, self.rows, rule)
        label = numbers(self._sample, spec.label.column)
        if name == "prior":
            values = _prior(spec, label, self.rows.num_rows)
        else:
            signature, fit_matrix, matrix = self._encoded
            make_model = _linear_model if name == "linear" else _tree_model
            model = make_model(spec, signature)
            values = _fit_and_predict(model, spec, fit_matrix, label, matrix)
        return with_groups(
            spec,
            self.rows,
            as_predictions(spec.task, values, self.threshold),
        )

    @cached_property
    def _sample(self) -> pa.Table:
        n_rows = self.fit_rows.num_rows
        if n_rows <= MAXIMUM_ROWS:
            return self.fit_rows
        # Evenly spaced rows are of all days: the rows are ordered by day.
        positions = np.linspace(0, n_rows - 1, MAXIMUM_ROWS).round()
        return self.fit_rows.take(positions.astype(np.int64))

    @cached_property
    def _encoded(self) -> tuple[Signature, Matrix, Matrix]:
        signature = learn_signature(self.spec.features, self._sample)
        return signature, encode(self._sample, signature), encode(self.rows, signature)


def _prior(spec: ModelSpec, label: Vector, n_rows: int) -> Matrix:
    """Return the best constant: the mean, or the median if it minimizes the metric.

    Of classes it is the share of each.
    """
    if spec.classes:
        counts = np.bincount(label.astype(np.int64), minlength=len(spec.classes))
        return np.tile(counts / label.size, (n_rows, 1))
    is_median = spec.promotion.metric in _MEDIAN_METRICS
    constant = np.median(label) if is_median else label.mean()
    return np.full(n_rows, float(constant))


def _linear_model(spec: ModelSpec, signature: Signature) -> Any:  # noqa: ANN401 - untyped
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    # The loose tolerance ends the fit early on purpose: the last digits of a baseline cost minutes
    # and change no decision.
    model = Ridge(alpha=1.0)
    if spec.task.has_probability:
        model = LogisticRegression(C=1.0, max_iter=_ITERATIONS, tol=1e-3)
    return make_pipeline(_preprocessing(signature, is_linear=True), model)


def _tree_model(spec: ModelSpec, signature: Signature) -> Any:  # noqa: ANN401 - untyped
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    tree_type = DecisionTreeClassifier if spec.task.has_probability else DecisionTreeRegressor
    tree = tree_type(
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAF_ROWS,
        random_state=spec.training.seed % 2**32,
    )
    return make_pipeline(_preprocessing(signature, is_linear=False), tree)


def _preprocessing(signature: Signature, *, is_linear: bool) -> Any:  # noqa: ANN401 - untyped
    """Fill missing values; for the linear model also scale numbers and encode categories."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = SimpleImputer(strategy="median", keep_empty_features=True)
    # A category that is empty in the complete window is kept as one level: it carries no signal.
    levels: Any = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    if is_linear:
        numeric = make_pipeline(numeric, StandardScaler())
        encoder = OneHotEncoder(max_categories=MAXIMUM_LEVELS, handle_unknown="infrequent_if_exist")
        levels = make_pipeline(levels, encoder)
    numeric_positions = list(range(len(signature.numeric)))
    return make_column_transformer(
        (numeric, numeric_positions), (levels, signature.categorical_positions)
    )


def _fit_and_predict(
    model: Any,  # noqa: ANN401 - untyped
    spec: ModelSpec,
    fit_matrix: Matrix,
    label: Vector,
    matrix: Matrix,
) -> Matrix:
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    # An even sample of a very rare event may miss it: then the best model is a constant.
    if np.ptp(label) == 0:
        if spec.classes:
            return _prior(spec, label, matrix.shape[0])
        return np.full(matrix.shape[0], float(label[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(fit_matrix, label)
    if spec.task == Task.BINARY:
        return np.asarray(model.predict_proba(matrix)[:, 1], dtype=np.float64)
    if spec.classes:
        # A class that the sample lacks has no column of its own.
        values = np.zeros((matrix.shape[0], len(spec.classes)))
        values[:, model.classes_.astype(np.int64)] = model.predict_proba(matrix)
        return values
    return np.asarray(model.predict(matrix), dtype=np.float64)
