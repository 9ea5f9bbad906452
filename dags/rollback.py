"""Restores an earlier champion and republishes what its successors scored.

One DAG for all models; a person starts it with a form.

**Reads** `ml.*`, the model files in the lake, `ops.published`, published features.
**Writes** `ml.promotions` (verdict `rolled_back`, with who and why), `predictions.<model>` of every
partition from the first one on, the alias in MLflow.
**Starts** by hand: "Trigger" asks for the model, the version, the first partition, the reason, and
whether to show only the plan.
**Rerun, clear, backfill**: a cleared run continues its own rollback, and changes nothing after a
later decision; there is no schedule to backfill. From a terminal: `nightshift rollback <model> --to
<version> --reason "<why>"`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import Param, dag

from nightshift.contracts.model_spec import read_specs
from nightshift.orchestration import defaults, rollback_tasks

MODELS = sorted(read_specs(Path(__file__).parent / "models").documents)
FORM = {
    "model": Param(None, type="string", enum=MODELS, title="Model"),
    "to_version": Param(
        None,
        type="integer",
        minimum=1,
        title="Version to put back",
        description="A former champion; `nightshift models` lists them.",
    ),
    "since": Param(
        None,
        type=["null", "string"],
        format="date",
        title="First partition to repair",
        description="Leave it empty for the one from which other versions took over.",
    ),
    "reason": Param(
        None,
        type="string",
        minLength=5,
        title="Reason",
        description="Kept in the record of champions, with your name.",
    ),
    "only_plan": Param(
        False,
        type="boolean",
        title="Only show the plan",
        description="Try the version and list what would be published; nothing moves.",
    ),
}


@dag(
    dag_id="rollback",
    schedule=None,
    is_paused_upon_creation=False,
    params=FORM,
    default_args=defaults.task_defaults("data-platform", defaults.SCORING, timeout_minutes=60),
    **defaults.dag_defaults(
        __doc__, "rollback", longest_run=dt.timedelta(hours=12), max_active_runs=4
    ),
)
def rollback() -> None:
    """Try the version, which changes nothing, then repair the partitions."""
    rollback_tasks.repair_partitions(rollback_tasks.plan_repair())


rollback()
