"""Name what LightGBM refuses: a parameter of the spec, or rows that no tree can be grown on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nightshift.errors import NightshiftError

_MAX_CHARACTERS = 300


class TreesRefusedError(NightshiftError):
    """LightGBM refuses the parameters or the rows; another try would be refused too."""

    code = "NS-TRAIN-017"


@contextmanager
def name_refusals() -> Iterator[None]:
    """Report what LightGBM refuses in the block, also as a decorator.

    Raises:
        TreesRefusedError: It refused something.
    """
    import lightgbm as lgb

    try:
        yield
    except lgb.basic.LightGBMError as error:
        # Its first line names the parameter or the condition, and no row.
        got = (str(error).splitlines() or ["no message"])[0]
        raise TreesRefusedError(
            "LightGBM refuses to grow trees.",
            expected="parameters of LightGBM under training.params, each with a value of its type",
            got=got[:_MAX_CHARACTERS],
            todo="Correct training.params of the spec, then train again.",
        ) from error
