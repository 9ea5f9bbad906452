"""What upstream still owes is waited for; all else has three tries (orchestration/defaults.py)."""

from __future__ import annotations

import pytest

from nightshift.errors import NightshiftError, ObjectStoreError, StaleTokenError
from nightshift.ingestion.load import DropMissingError
from nightshift.transformation.build import InputsChangedError, LookbackIncomplete


@pytest.mark.parametrize("error", [DropMissingError, LookbackIncomplete])
def test_task_waits_when_upstream_owes_something(error: type[NightshiftError]):
    assert error.is_waiting
    assert error.is_retryable


@pytest.mark.parametrize(
    "error", [NightshiftError, ObjectStoreError, StaleTokenError, InputsChangedError]
)
def test_task_does_not_wait_when_nothing_is_owed(error: type[NightshiftError]):
    assert not error.is_waiting
