"""What each way begins with: the champion as scoring loads it, and the published features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from benchmarks.scoring.made_up import make_spec
from benchmarks.shape import CATEGORICAL, NUMERIC

from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.models.trained_model import TrainedModel


def champion(settings: Settings) -> TrainedModel:
    """Return the model as scoring loads it."""
    from nightshift.scoring.model_loading import load_version
    from nightshift.warehouse.connection import connect

    with connect(settings, "bench") as conn:
        return load_version(settings, conn, make_spec("auto", 0), 1)


def read_features(settings: Settings) -> pa.Table:
    """Return all feature rows, ordered by key."""
    from psycopg import sql

    from nightshift.warehouse.fast_io.arrow_io import stream_arrow

    names = sql.SQL(", ").join(map(sql.Identifier, [*NUMERIC, *CATEGORICAL]))
    query = sql.SQL("select thing_id, {} from features.feat_bench order by thing_id").format(names)
    return pa.Table.from_batches(list(stream_arrow(settings, query)))
