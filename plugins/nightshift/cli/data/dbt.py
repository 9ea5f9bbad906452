"""``nightshift dbt …``: dbt's own command on the warehouse, with the developer's target."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import typer

from nightshift.settings import load_settings

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def dbt(context: typer.Context) -> None:
    """Run dbt on schemas of your own (dev_<you>_*), for example: nightshift dbt build.

    The models of predictions are written from the specs before.
    """
    from nightshift.warehouse.dbt.invocation import DbtProcessError, dbt_environment
    from nightshift.warehouse.dbt.prediction_models import write_prediction_models

    settings = load_settings()
    # A new spec must be in the lineage, and its views in the build.
    write_prediction_models(settings.models_dir, settings.dbt_project_dir)
    # The dbt next to this interpreter has the adapter; one of the PATH may not.
    scripts = Path(sys.executable).parent
    program = shutil.which("dbt", path=str(scripts)) or shutil.which("dbt")
    if program is None:
        raise DbtProcessError("dbt is not installed.", todo="Run `make install`.")
    project = str(settings.dbt_project_dir)
    environment = {
        # A developer's own choice of these wins.
        "DBT_PROJECT_DIR": project,
        "DBT_PROFILES_DIR": project,
        **dbt_environment(settings, "nightshift dbt"),
    }
    arguments = [program, *context.args]
    # exec instead of a child: signals and the terminal belong to dbt.
    os.execve(program, arguments, environment)  # noqa: S606 - our own argv, no shell
