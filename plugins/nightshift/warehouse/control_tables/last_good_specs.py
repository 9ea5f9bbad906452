"""The last good spec of each model, for the run on which its file is wrong.

Source: docs/adr/0039-one-wrong-file.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


def keep_spec(conn: Connection, spec: ModelSpec) -> None:
    """Store a spec that can be used, if it is not stored already."""
    conn.execute(
        """
        insert into ops.last_good_specs as kept (model, digest, spec, timezone)
        values (%s, %s, %s, %s)
        on conflict (model) do update
        set digest = excluded.digest, spec = excluded.spec, kept_at = excluded.kept_at,
            timezone = excluded.timezone
        where (kept.digest, kept.timezone) is distinct from (excluded.digest, excluded.timezone)
        """,
        [spec.name, spec.digest, spec.model_dump_json(), operating_timezone()],
    )


def last_good_spec(conn: Connection, model: str) -> ModelSpec | None:
    """Return the last good spec of a model; None if this code knows none."""
    row = conn.execute("select spec from ops.last_good_specs where model = %s", [model]).fetchone()
    if row is None:
        return None
    try:
        return ModelSpec.model_validate_json(row[0])
    except ValidationError:
        # It was stored by other code, whose specs had other keys.
        return None


def spec_for_rescue(conn: Connection, models_dir: Path, model: str) -> ModelSpec:
    """Return the spec that a rescue runs on: the file's or, while that is wrong, the last good one.

    Raises:
        SpecError: The file is wrong, and no good spec of the model is known.
    """
    try:
        return load_spec(models_dir, model)
    except SpecError as error:
        spec = last_good_spec(conn, model)
        if spec is None:
            raise
        logger.warning("The rescue runs on the last good spec of %s:\n%s", model, error)
        return spec
