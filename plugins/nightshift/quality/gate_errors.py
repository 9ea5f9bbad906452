"""Errors of the quality gates; each of them stops the run before anything is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, WarehouseError
from nightshift.warehouse.faults import fault_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.quality.gates import GateResult
    from nightshift.quality.suites.check_results import CheckResult


class GateError(NightshiftError):
    """Staged rows failed their expectation suite, or the gate could give no verdict.

    Attributes:
        result: The verdict; None when there is none.
    """

    code = "NS-GATE-001"
    result: GateResult | None = None


class SuiteError(GateError):
    """The expectation suite is missing, empty or wrong; without one there is no verdict."""

    code = "NS-GATE-002"


class GateCrashError(GateError):
    """The suite could not be evaluated, completely or in part."""

    code = "NS-GATE-003"
    is_retryable = True


def failed_gate(
    result: GateResult, blocking: Sequence[CheckResult], partitions: PartitionRange
) -> NightshiftError:
    """Return the error of a batch that did not pass."""
    crashes = [check.observed for check in blocking if check.has_crashed]
    # The warehouse refused to evaluate: that is no verdict about the rows.
    fault = fault_in("\n".join(crashes))
    if fault and type(fault) is not WarehouseError:
        return fault
    error_class = GateCrashError if crashes else GateError
    n_failed = f"{len(blocking)} of {result.n_expectations}"
    title = f"{result.dataset} of {partitions} failed {n_failed} expectations:"
    error = error_class(
        "\n    ".join([title, *map(str, blocking)]),
        expected="every critical expectation evaluated and met",
        got=f"data docs: {result.docs_key or 'could not be stored'}",
        todo="Nothing was published. Correct the data upstream or, if the suite is wrong, the"
        " suite; then rerun the task.",
    )
    error.result = result
    return error
