"""Airflow's home page says why its Triggerer is red; only the API server pays for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nightshift_local.servers.airflow_settings import NO_TRIGGERER, write_notice

READ = """
import sys
sys.argv = ["airflow", {part!r}]
from airflow import settings
settings.prepare_syspath_for_config_and_plugins()
settings.import_local_settings()
print([alert.text for alert in settings.DASHBOARD_UIALERTS])
"""


@pytest.mark.parametrize(("part", "texts"), [("api-server", [NO_TRIGGERER]), ("scheduler", [])])
def test_the_home_page_tells_why_no_triggerer_runs(tmp_path, part, texts):
    write_notice(tmp_path)
    write_notice(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ.format(part=part)],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path / "airflow")},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(texts)
