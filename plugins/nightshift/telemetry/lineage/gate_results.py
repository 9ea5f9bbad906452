"""What the gate found of a load, read from its evidence in the bucket."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import cause_of

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.telemetry.night_records import Load

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateCheck:
    """An expectation and whether the load met it; no observed value.

    Attributes:
        expectation: Its type.
        column: Its column; empty for one about the table or several columns.
        severity: ``critical`` would have stopped the load.
    """

    expectation: str
    column: str
    severity: str
    has_passed: bool


def read_gate(settings: Settings, load: Load) -> list[GateCheck]:
    """Return the checks of a load's last gate; none without evidence or without a bucket."""
    from nightshift.lake.object_store import ObjectStore

    # As `str` of a range of partitions has it: the key of the evidence.
    days = load.first_day.isoformat()
    if load.last_day != load.first_day:
        days = f"{days}..{load.last_day.isoformat()}"
    prefix = f"data_docs/{load.dataset}/{days}/{load.load_id}-"
    try:
        store = ObjectStore.open(settings)
        # One file an attempt: the last one is the verdict that stands.
        keys = [key for key in store.list(prefix) if key.endswith(".json")]
        if not keys:
            return []
        evidence = json.loads(store.get(max(keys)))
        return [_check_of(result) for result in evidence["results"]]
    except Exception as error:  # noqa: BLE001 - an event without checks is better than none
        logger.warning("The gate of load %s is not known: %s", load.load_id, cause_of(error))
        return []


def _check_of(result: dict[str, dict[str, object]]) -> GateCheck:
    config = result["expectation_config"]
    # Other arguments are limits and value sets, which need not leave the warehouse.
    arguments = config["kwargs"]
    column: object = ""
    if isinstance(arguments, dict):
        column = arguments.get("column", "")
    severity = config.get("severity") or "critical"
    return GateCheck(
        expectation=str(config["type"]),
        column=str(column),
        severity=str(severity),
        has_passed=result["success"] is True,  # type: ignore[comparison-overlap]
    )
