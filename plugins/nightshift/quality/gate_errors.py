"""Errors of the quality gates; each of them stops the run before anything is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.quality.gates import GateResult


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
