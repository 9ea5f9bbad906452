"""Airflow makes its home when it is imported; this one is not the user's."""

from tests.integration.orchestration.conftest import _HOME

__all__ = ["_HOME"]
