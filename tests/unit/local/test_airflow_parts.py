"""Every light on Airflow's home page is that of a part that runs."""

from __future__ import annotations

import ast
import inspect

import pytest

from nightshift_local.placement import prepare_home
from nightshift_local.servers.airflow_parts import API_SERVER, COMMANDS, HEALTH_KEYS
from nightshift_local.servers.airflow_settings import OLD_NOTICE, remove_notice
from nightshift_local.supervisor import HEALTH_REPORTED_BY


def test_each_part_whose_health_airflow_shows_is_started_and_checked() -> None:
    from airflow.api.common.airflow_health import get_airflow_health

    # The function's result is what the home page shows, one light for each key.
    tree = ast.parse(inspect.getsource(get_airflow_health))
    keys = {key.value for node in ast.walk(tree) if isinstance(node, ast.Dict)
            for key in node.keys if isinstance(key, ast.Constant)}  # fmt: skip
    shown = {"metadatabase", "scheduler", "triggerer", "dag_processor"}
    assert shown <= keys
    assert set(HEALTH_KEYS.values()) == shown - {"metadatabase"}
    assert set(HEALTH_KEYS) == set(HEALTH_REPORTED_BY) == set(COMMANDS) - {API_SERVER}


@pytest.mark.parametrize(
    ("content", "stays"),
    [(f"{OLD_NOTICE}\n\nDASHBOARD_UIALERTS = []\n", False), ("PLUGINS = []\n", True)],
)
def test_the_notice_of_a_missing_triggerer_goes_and_a_file_of_ones_own_stays(
    tmp_path, content: str, stays: bool
) -> None:
    home = prepare_home(tmp_path)
    file = home / "airflow" / "config" / "airflow_local_settings.py"
    remove_notice(home)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    remove_notice(home)
    remove_notice(home)
    assert file.exists() is stays
