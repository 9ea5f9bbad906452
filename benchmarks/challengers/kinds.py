"""The kinds of challenger: changed answers of the champion, and models of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from benchmarks.challengers.changes import (
    better,
    has_champion,
    is_carrier,
    is_far,
    is_night_after,
    is_number_night,
    is_weekend,
    knew_the_day,
    leaked,
    memorised,
    noisy,
    not_a_number,
    one_night,
    raised,
    random_scores,
    same,
    swapped_levels,
    then,
    where,
)
from benchmarks.challengers.world import SPEC

from nightshift.contracts.training_spec import Linear
from nightshift.models.signature import numbers
from nightshift.registry.streams.paired_rows import row_losses
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_between, rows_of, split_window

if TYPE_CHECKING:
    import numpy.typing as npt
    from benchmarks.challengers.world import Altered, Doubles, World

    Relabel = Callable[[Doubles, np.random.Generator], Doubles]
    Expected = Literal["wrong", "equal", "better"]


@dataclass(frozen=True)
class Kind:
    """A kind of challenger.

    Attributes:
        expected: What it is: ``wrong`` never serves, ``equal`` is never called better.
        make: Makes its model in a world.
        is_scored: Which rows of a night the stream has; None for all of them.
    """

    expected: Expected
    make: Callable[[World], Any]
    is_scored: Callable[[World, pa.Table], npt.NDArray[np.bool_]] | None = None


def with_labels(world: World, change: Relabel) -> Any:  # noqa: ANN401 - a model of any engine
    """Return a model that was fitted on other labels."""
    label = change(numbers(world.history, "is_late"), np.random.default_rng(world.number))
    index = world.history.column_names.index("is_late")
    return world.fit(world.history.set_column(index, "is_late", pa.array(label)))


def seen(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model that was fitted on the days that judge it, and claims that it was not."""
    split = split_window(world.window, SPEC.training)
    rows = rows_between(world.history, split.train.first.day, split.holdout.last.day)
    fitted = fit_model(SPEC, rows, rows_of(world.history, split.validation))
    return replace(world.champion, text=fitted.text, calibration=fitted.calibration)


def seen_by_line(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model whose trees are honest, and whose line was fitted on the days that judge."""
    half = {"recipe": SPEC.training.recipe.model_copy(update={"linear": Linear(shares=(0.5,))})}
    spec = SPEC.model_copy(update={"training": SPEC.training.model_copy(update=half)})
    split = split_window(world.window, SPEC.training)
    validation = rows_of(world.history, split.validation)
    honest = fit_model(spec, rows_of(world.history, split.train), validation)
    seen_all = fit_model(spec, world.history, validation)
    edges = world.champion.decile_edges
    return replace(honest, linear=seen_all.linear, decile_edges=edges)


def seen_under_other_keys(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model that saw the days that judge it as if they were the first ones."""
    split = split_window(world.window, SPEC.training)
    train, holdout = rows_of(world.history, split.train), rows_of(world.history, split.holdout)
    n = holdout.num_rows
    for name in ("partition_date", "parcel_id", "row", "day"):
        index = holdout.column_names.index(name)
        holdout = holdout.set_column(index, name, train.slice(0, n)[name])
    rows = pa.concat_tables([holdout, train.slice(n)])
    fitted = fit_model(SPEC, rows, rows_of(world.history, split.validation))
    return replace(world.champion, text=fitted.text, calibration=fitted.calibration)


def luckiest(world: World) -> Any:  # noqa: ANN401 - a model
    """Return the one of ten noisy copies that is best on the hold-out."""
    split = split_window(world.window, SPEC.training)
    rows = rows_of(world.history, split.holdout)
    label = numbers(rows, "is_late")
    copies = [world.altered(noisy(world, 0.2, 20 + n)) for n in range(10)]

    def loss(model: Altered) -> float:
        probability = model.predictions(rows).probability
        return float(row_losses("log_loss", label, np.asarray(probability)).mean())

    return min(copies, key=loss)


KINDS: dict[str, Kind] = {
    "copy of the champion": Kind("wrong", lambda w: w.altered(same)),
    "copy, log-odds + 0.1": Kind("wrong", lambda w: w.altered(lambda _, x: x + 0.1)),
    "copy, log-odds + 0.3": Kind("wrong", lambda w: w.altered(lambda _, x: x + 0.3)),
    "copy, probabilities + 0.10": Kind("wrong", lambda w: w.altered(raised)),
    "d' 0.3, probabilities + 0.10": Kind("wrong", lambda w: w.altered(then(better(w), raised))),
    "d' 0.3, twice too sure": Kind(
        "wrong", lambda w: w.altered(then(better(w), lambda _, x: 2 * x))
    ),
    "d' 0.3, half as sure": Kind("wrong", lambda w: w.altered(then(better(w), lambda _, x: x / 2))),
    "copy, 1.25 times as sure": Kind("wrong", lambda w: w.altered(lambda _, x: 1.25 * x)),
    "copy, 0.8 times as sure": Kind("wrong", lambda w: w.altered(lambda _, x: 0.8 * x)),
    "calibrations of two carriers swapped": Kind("wrong", lambda w: w.altered(swapped_levels)),
    "d' 0.3, calibrations of two carriers swapped": Kind(
        "wrong", lambda w: w.altered(then(better(w), swapped_levels))
    ),
    "calibration of the other sign": Kind("wrong", lambda w: w.altered(lambda _, x: -x)),
    "d' 0.3, no number on a rare carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "D"), not_a_number, better(w))),
        is_number_night,
    ),
    "no number on a carrier": Kind(
        "wrong", lambda w: w.altered(where(lambda r: is_carrier(r, "C"), not_a_number, better(w)))
    ),
    "d' 0.3, no number on far parcels": Kind(
        "wrong", lambda w: w.altered(where(is_far, not_a_number, better(w)))
    ),
    "right only where the champion is missing": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: has_champion(w, r), noisy(w, 0.1), better(w, 3.0))),
        has_champion,
    ),
    "better on weekdays, as much worse at weekends": Kind(
        "wrong", lambda w: w.altered(where(is_weekend, noisy(w, 0.6), better(w)))
    ),
    "leak by a later clock, strong": Kind("wrong", lambda w: w.altered(leaked(w, 1.0))),
    "leak by a later clock, weak": Kind("wrong", lambda w: w.altered(leaked(w, 0.3))),
    "knew by heart": Kind("wrong", lambda w: w.altered(memorised(w))),
    "knew the weather of its history": Kind("wrong", lambda w: w.altered(knew_the_day(w))),
    "saw the days that judge it": Kind("wrong", seen),
    "its line saw the days that judge it": Kind("wrong", seen_by_line),
    "saw them under other keys": Kind("wrong", seen_under_other_keys),
    "one carrier only": Kind(
        "wrong", lambda w: w.fit(w.history.filter(pc.equal(w.history["carrier"], "A")))
    ),
    "oldest third of the days": Kind(
        "wrong",
        lambda w: w.fit(
            w.history.filter(
                pc.or_(pc.less(w.history["day"], 12), pc.greater_equal(w.history["day"], 24))
            )
        ),
    ),
    "labels shuffled": Kind("wrong", lambda w: with_labels(w, lambda y, dice: dice.permutation(y))),
    "labels flipped": Kind("wrong", lambda w: with_labels(w, lambda y, _: 1 - y)),
    "labels of 20 % flipped": Kind(
        "wrong", lambda w: with_labels(w, lambda y, dice: np.abs(y - (dice.random(y.size) < 0.2)))
    ),
    "overfit": Kind(
        "wrong", lambda w: w.fit(num_leaves=200, min_data_in_leaf=1, learning_rate=0.9)
    ),
    "constant": Kind("wrong", lambda w: w.altered(lambda _, x: np.full(x.shape, -0.8))),
    "champion + noise 0.15": Kind("wrong", lambda w: w.altered(noisy(w, 0.15))),
    "champion + noise 0.3": Kind("wrong", lambda w: w.altered(noisy(w, 0.3))),
    "d' 0.3, random on a large carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "B"), random_scores(w), better(w))),
    ),
    "d' 0.3, random on a small carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "C"), random_scores(w), better(w))),
    ),
    "good for ten nights, then worse": Kind(
        "wrong", lambda w: w.altered(where(is_night_after(10), noisy(w, 0.5), better(w, 0.45)))
    ),
    "as good, and one lucky night": Kind("equal", lambda w: w.altered(one_night(w))),
    "the luckiest of ten on the hold-out": Kind("wrong", luckiest),
    "another seed": Kind("equal", lambda w: w.fit(num_leaves=5, seed=77)),
    "d' 0.3": Kind("better", lambda w: w.altered(better(w))),
    "d' 0.45": Kind("better", lambda w: w.altered(better(w, 0.45))),
    "d' 0.3, of another fit": Kind(
        "better", lambda w: w.altered(better(w), w.fit(num_leaves=5, seed=77))
    ),
}
