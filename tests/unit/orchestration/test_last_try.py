"""Which error ends a task for good, as the retry policy decides it too."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.errors import ObjectStoreError, SpecError, StaleTokenError
from nightshift.orchestration.task_scope import Interruption, TaskTerminatedError
from nightshift.orchestration.task_tries import N_TRIES, is_last_try
from nightshift.orchestration.upstream import CutoffAheadError

ERRORS = {
    "needs a person": (SpecError("s"), 0, True),
    "may heal": (ObjectStoreError("o"), 0, False),
    "has had all tries": (ObjectStoreError("o"), N_TRIES - 1, True),
    "foreign": (ValueError("v"), 1, False),
    "foreign, the last": (ValueError("v"), N_TRIES - 1, True),
    "waited for too long": (CutoffAheadError("c"), 0, True),
    "waits": (AirflowRescheduleException(None), N_TRIES, False),
    "skipped": (AirflowSkipException("s"), N_TRIES, False),
    "another run owns it": (StaleTokenError("t"), N_TRIES, False),
    "terminated": (TaskTerminatedError("t"), N_TRIES, False),
    "interrupted": (Interruption(), N_TRIES, False),
}


@pytest.mark.parametrize("name", ERRORS)
def test_only_an_error_without_another_try_is_final(name):
    error, n_failed, expected = ERRORS[name]
    assert is_last_try(error, n_failed) is expected
