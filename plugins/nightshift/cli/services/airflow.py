"""``nightshift airflow …``: Airflow's own command under the local settings."""

from __future__ import annotations

import typer

from nightshift.cli.arguments import actor
from nightshift.settings import default_home, load_settings

# `--help` and all options belong to Airflow's command.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
ACTS = frozenset({"backfill", "clear", "create", "delete", "fail", "pause", "trigger", "unpause"})
"""First words of Airflow's subcommands by which people act on runs."""
GROUPS = frozenset({"backfill", "dags", "pools", "tasks"})


def airflow(context: typer.Context) -> None:
    """Run Airflow's own command under the local settings, such as: nightshift airflow dags list."""
    from nightshift.warehouse.control_tables.acts import Act, recorded_act
    from nightshift_local.servers.airflow_parts import API_SERVER, AirflowPart

    part = AirflowPart(default_home(), API_SERVER)
    name = act_name(context.args)
    if not name:
        part.exec(*context.args)

    arguments = {"arguments": context.args[2:]}
    act = Act(name, "cli", actor(), arguments=arguments, must_be_recorded=False)
    with recorded_act(load_settings(), act) as running:
        # A child, since the outcome is recorded afterwards.
        exit_code = part.call(*context.args)
        running.read_back["exit_code"] = exit_code
        if exit_code:
            raise typer.Exit(exit_code)


def act_name(arguments: list[str]) -> str:
    """Return the name of the act that a command of Airflow is; empty for a mere look or help."""
    group, verb, *options = [*arguments, "", ""]
    is_act = group in GROUPS and verb.partition("-")[0] in ACTS
    if not is_act or "--help" in options or "-h" in options:
        return ""
    return f"airflow.{group}.{verb}"
