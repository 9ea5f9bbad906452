"""``nightshift airflow …``: Airflow's own command under the local settings."""

from __future__ import annotations

import json
import typing

import typer

from nightshift.cli.arguments import actor
from nightshift.settings import default_home, load_settings

# `--help` and all options belong to Airflow's command.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
ACTS = {
    "assets": {"materialize"},
    "backfill": {"create"},
    "connections": {"add", "create-default-connections", "delete", "import"},
    "dags": {"clear", "delete", "pause", "test", "trigger", "unpause"},
    "db": {"clean", "downgrade", "drop-archived", "reset"},
    "partitions": {"clear"},
    "pools": {"delete", "import", "set"},
    "tasks": {"clear", "test"},
    "variables": {"delete", "import", "set"},
}
"""Airflow's subcommands by which people change something, or run it, by their group."""
SECRET_GROUPS = frozenset({"connections", "variables"})
"""Their arguments hold secrets without a name: only the first one, the key, is kept."""


def airflow(context: typer.Context) -> None:
    """Run Airflow's own command under the local settings, such as: nightshift airflow dags list."""
    from nightshift.warehouse.control_tables.acts import Act, recorded_act
    from nightshift_local.servers.airflow_parts import API_SERVER, AirflowPart

    part = AirflowPart(default_home(), API_SERVER)
    name = act_name(context.args)
    if not name:
        part.exec(*context.args)

    arguments = {"arguments": recorded_arguments(context.args)}
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
    is_act = verb in ACTS.get(group, ())
    if not is_act or "--help" in options or "-h" in options:
        return ""
    return f"airflow.{group}.{verb}"


def recorded_arguments(arguments: list[str]) -> list[typing.Any]:
    """Return what is recorded of the arguments behind group and verb.

    A JSON object becomes one here too, since a secret in it is redacted by its name.
    """
    from nightshift.warehouse.control_tables.acts import REDACTED

    group, _, *rest = arguments
    if group in SECRET_GROUPS:
        # An option first: its value cannot be told from the key.
        is_key = bool(rest) and not rest[0].startswith("-")
        return [*rest[: int(is_key)], REDACTED]

    recorded: list[typing.Any] = []
    is_conf = False
    for text in rest:
        # Also `--conf={…}`, `-c{…}`, a shortened option and other options with an object.
        option, brace, content = text.partition("{")
        if brace:
            recorded += [option] if option else []
            recorded.append(_object(brace + content) or REDACTED)
        elif is_conf or text.startswith("--conf="):
            recorded.append(REDACTED)
        else:
            recorded.append(text)
        is_conf = text in ("-c", "--conf")
    return recorded


def _object(text: str) -> dict[str, typing.Any] | None:
    """Return a JSON object; None for anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
