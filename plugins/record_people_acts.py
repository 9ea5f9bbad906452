"""Airflow plugin: the API server records what people do; see docs/plans.md."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from nightshift.orchestration.api_server.acts import RecordActs


class RecordPeopleActs(AirflowPlugin):
    """Puts the middleware before Airflow's API."""

    name = "record_people_acts"
    fastapi_root_middlewares: ClassVar[list[Any]] = [
        {"middleware": RecordActs, "args": [], "kwargs": {}, "name": "Acts of people"}
    ]
