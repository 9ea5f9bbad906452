"""``nightshift airflow …``: Airflow's own command under the local settings."""

from __future__ import annotations

import typer

from nightshift.settings import default_home

# `--help` and all options belong to Airflow's command.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def airflow(context: typer.Context) -> None:
    """Run Airflow's own command under the local settings, such as: nightshift airflow dags list."""
    from nightshift_local.servers.airflow_parts import API_SERVER, AirflowPart

    AirflowPart(default_home(), API_SERVER).exec(*context.args)
