"""What any model must beat: the prior, the spec's rule, a linear model and one small tree, fitted on the rows that it was fitted on.

The judge fits them from the immutable training set, so no challenger can bring weak opponents of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.models.calibration import EDGE
from nightshift.models.predictions import Predictions
from nightshift.models.signature import encode, learn_signature, numbers
from nightshift.training.evaluation import rule_predictions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.signature import Signature

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

MAXIMUM_ROWS = 50_000
"""Rows that a baseline is fitted on, evenly spaced; twice as many moved no metric of 2013 by
more than 0.002.
"""
_LEAVES = 8
_LEAF_ROWS = 50
_ITERATIONS = 100
_MAXIMUM_LEVELS = 50
"""Levels of a category that the linear model knows; rarer ones count as missing."""
_MEDIAN_METRICS = {"mae"}


@dataclass(frozen=True, eq=False)
class Baselines(Mapping[str, Predictions]):
    """Predictions of ``prior``, ``rule``, ``linear`` and ``tree`` for some rows; each is made when it is first asked for.

    The same rows give the same predictions. Whoever asks gets a ``SignatureError`` when the rows do
    not fit the spec.

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
    _made: dict[str, Predictions] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(("prior", "rule", "linear", "tree"))

    def __len__(self) -> int:
        """Return how many there are."""
        return 4

    def __getitem__(self, name: str) -> Predictions:
        """Return the predictions of one."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    @cached_property
    def _sample(self) -> pa.Table:
        return _evenly(self.fit_rows)

    @cached_property
    def _encoded(self) -> tuple[Signature, Matrix, Matrix]:
        signature = learn_signature(self.spec.features, self._sample)
        return signature, encode(self._sample, signature), encode(self.rows, signature)

    def _make(self, name: str) -> Predictions:
        if name == "rule":
            return rule_predictions(
                self.spec.task, self.spec.scoring.fallback, self.rows, self.threshold
            )
        label = numbers(self._sample, self.spec.label.column)
        if name == "prior":
            return _wrap(self.spec, _prior(self.spec, label, self.rows.num_rows), self.threshold)
        signature, train, later = self._encoded
        model = {"linear": _linear, "tree": _tree}[name](self.spec, signature)
        return _wrap(self.spec, _fit(model, self.spec, train, label, later), self.threshold)


def _evenly(rows: pa.Table) -> pa.Table:
    import numpy as np

    if rows.num_rows <= MAXIMUM_ROWS:
        return rows
    return rows.take(np.linspace(0, rows.num_rows - 1, MAXIMUM_ROWS).round().astype(np.int64))


def _prior(spec: ModelSpec, label: Vector, n_rows: int) -> Vector:
    """Return the best constant: the mean, or the median where the metric asks for it."""
    import numpy as np

    middle = np.median(label) if spec.promotion.metric in _MEDIAN_METRICS else label.mean()
    return np.full(n_rows, float(middle))


def _linear(spec: ModelSpec, signature: Signature) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    # A solver's own tolerance ends the fit early on purpose: a baseline in its last digits costs
    # minutes and beats nobody.
    head = (
        LogisticRegression(C=1.0, max_iter=_ITERATIONS, tol=1e-3)
        if spec.task == Task.BINARY
        else Ridge(alpha=1.0)
    )
    return make_pipeline(_columns(signature, is_linear=True), head)


def _tree(spec: ModelSpec, signature: Signature) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if spec.task == Task.BINARY else DecisionTreeRegressor
    tree = kind(
        max_leaf_nodes=_LEAVES, min_samples_leaf=_LEAF_ROWS, random_state=spec.training.seed % 2**32
    )
    return make_pipeline(_columns(signature, is_linear=False), tree)


def _columns(signature: Signature, *, is_linear: bool) -> Any:  # noqa: ANN401 - scikit-learn has no types
    """Fill missing numbers by their median, and turn categories into one column a level for the linear model."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = SimpleImputer(strategy="median", keep_empty_features=True)
    # A category that is empty in the whole window is kept as one level: the column says nothing.
    levels: Any = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    if is_linear:
        numeric = make_pipeline(numeric, StandardScaler())
        levels = make_pipeline(
            levels,
            OneHotEncoder(max_categories=_MAXIMUM_LEVELS, handle_unknown="infrequent_if_exist"),
        )
    return make_column_transformer(
        (numeric, list(range(len(signature.numeric)))), (levels, signature.categorical_positions)
    )


def _fit(model: Any, spec: ModelSpec, train: Matrix, label: Vector, later: Matrix) -> Vector:  # noqa: ANN401 - scikit-learn has no types
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning

    # An even sample of a very rare event may miss it: then the best model is a constant.
    if np.ptp(label) == 0:
        return np.full(later.shape[0], float(label[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, label)
    return np.asarray(
        model.predict_proba(later)[:, 1] if spec.task == Task.BINARY else model.predict(later),
        dtype=np.float64,
    )


def _wrap(spec: ModelSpec, value: Vector, threshold: float) -> Predictions:
    import numpy as np

    return (
        Predictions(value, np.clip(value, EDGE, 1 - EDGE), threshold)
        if spec.task == Task.BINARY
        else Predictions(value)
    )
