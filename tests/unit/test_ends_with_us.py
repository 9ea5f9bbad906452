"""No server of a test lives on when pytest is killed."""

import ast
import os
import signal
import subprocess
import sys

import psutil
import pytest
from tests.ends_with_us import ENDS_WITH_US

from nightshift.settings import PROJECT_ROOT

ENDING_BY_THEMSELVES = {
    "benchmarks/scoring/__main__.py": "children that score once",
    "benchmarks/scoring/spark.py": "a peer that scores once",
    "tests/chaos/scheduler/test_busy_machine.py": "loops that end with their parent",
    "tests/integration/local/test_local_servers.py": "the starter that is killed",
    "tests/integration/transformation/test_dbt_runner.py": "the starter that is killed",
    "tests/unit/backtest/test_nightly_models.py": "the process that is killed",
    "tests/unit/local/test_up_lock.py": "ends with its input",
    "tests/unit/test_ends_with_us.py": "the starter that is killed",
}
STARTER = """
import subprocess, sys
subprocess.Popen(sys.argv[1:]).wait()
"""


def is_tied(call: ast.Call) -> bool:
    """Return whether a command begins with ``*ENDS_WITH_US``."""
    command = call.args[0]
    if not isinstance(command, ast.List):
        return False
    return ast.unparse(command.elts[0]) == "*ENDS_WITH_US"


def test_each_process_that_a_test_or_benchmark_leaves_running_is_tied_to_it():
    tied, untied = [], set()
    for folder in ("tests", "benchmarks"):
        for path in sorted((PROJECT_ROOT / folder).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(call, ast.Call) or not call.args:
                    continue
                if not ast.unparse(call.func).endswith("Popen"):
                    continue
                name = str(path.relative_to(PROJECT_ROOT))
                if is_tied(call):
                    tied.append(name)
                else:
                    untied.add(name)
    assert untied == set(ENDING_BY_THEMSELVES)
    assert len(tied) >= 8


@pytest.mark.parametrize(("before", "lives_on"), [(ENDS_WITH_US, False), ((), True)])
def test_a_server_ends_when_its_starter_is_killed(before, lives_on):
    # It runs, and is tied, once it has told its pid.
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    server = [*before, sys.executable, "-S", "-c", code]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, *server], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    process = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    _, alive = psutil.wait_procs([process], timeout=1 if lives_on else 60)
    is_alive = bool(alive) and process.status() != psutil.STATUS_ZOMBIE
    if is_alive:
        os.kill(process.pid, signal.SIGKILL)
    assert is_alive is lives_on
