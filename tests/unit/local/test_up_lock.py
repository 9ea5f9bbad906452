"""Of two `nightshift up` one works, and the other waits or says that it does not."""

import os
import signal
import subprocess
import sys

import pytest

from nightshift.errors import ServiceError
from nightshift_local.placement import prepare_home
from nightshift_local.up_lock import only_up

HOLDER = """
import sys
from pathlib import Path
from nightshift_local.up_lock import only_up
with only_up(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return another process that holds the lock of the home."""
    home = prepare_home(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_second_one_is_told_and_refused_when_the_first_does_not_end(tmp_path, holder):
    told = []
    with (
        pytest.raises(ServiceError, match="NS-SERVICE-014"),
        only_up(tmp_path, told.append, wait_seconds=0.3),
    ):
        pytest.fail("two at once")
    assert told == ["  another `nightshift up` works on this home: waiting for it"]


@pytest.mark.parametrize("end", ["done", "killed"])
def test_second_one_goes_on_when_the_first_has_ended(tmp_path, holder, end):
    def hear(_text):
        if end == "done":
            holder.stdin.close()
        else:
            holder.send_signal(signal.SIGKILL)

    with only_up(tmp_path, hear, wait_seconds=20):
        assert holder.wait(20) == (0 if end == "done" else -signal.SIGKILL)
