"""The supervisor restarts what died, with growing pauses, and never ends a part that works."""

import shutil
from types import SimpleNamespace

import psutil
import pytest

from nightshift_local import supervisor as module
from nightshift_local.placement import prepare_home
from nightshift_local.servers.airflow_parts import API_SERVER, DAG_PROCESSOR, SCHEDULER
from nightshift_local.supervisor import Supervisor


class FakePart:
    """A part whose process and health the test decides."""

    name = "part"
    group = "s3"
    is_optional = False
    port = 0
    address = ""

    def __init__(self, unhealthy_limit_seconds=60.0):
        self.unhealthy_limit_seconds = unhealthy_limit_seconds
        self.is_running, self.is_well, self.fails = False, True, False
        self.n_starts = self.n_stops = 0
        self.process = SimpleNamespace(
            find=lambda: SimpleNamespace(pid=1) if self.is_running else None,
            end_idle_leftovers=lambda: None,
        )

    def ensure_started(self):
        if not self.is_running:
            self.n_starts += 1
        if self.fails:
            raise OSError("no disk")
        self.is_running = True

    def stop(self):
        self.n_stops += 1
        self.is_running = False

    def is_healthy(self):
        return self.is_well


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Return a function that lets seconds pass and then watches once."""
    part, clock = FakePart(), SimpleNamespace(now=1000.0)
    stack = SimpleNamespace(parts=(part,), settings={})
    monkeypatch.setattr(module, "compose", lambda *_: stack)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    supervisor = Supervisor(prepare_home(tmp_path), ["s3"])

    def after(seconds):
        clock.now += seconds
        supervisor.watch_once()
        return part

    after.part = part
    return after


def test_part_is_started_again_when_it_died(watch):
    assert watch(0).n_starts == 1
    watch.part.is_running = False
    assert watch(1).n_starts == 2


def test_pauses_grow_when_starts_fail(watch):
    watch.part.fails = True
    starts = [watch(1).n_starts for _ in range(40)]
    assert starts[0] == 1
    assert starts[2] == 2
    assert starts[-1] <= 6


def test_part_is_restarted_when_it_stays_unhealthy(watch):
    watch(0)
    watch.part.is_well = False
    watch(20)
    assert watch.part.n_stops == 0
    watch(61)
    assert watch.part.n_stops == 1
    assert watch(1).n_starts == 2


def test_part_gets_more_time_when_a_restart_did_not_help(watch):
    """On a busy machine a start may take longer than the limit: it must come to its end."""

    def seconds_until_stopped():
        n_stops, seconds = watch.part.n_stops, 0
        while watch.part.n_stops == n_stops:
            watch(10)
            seconds += 10
        return seconds

    watch(0)
    watch.part.is_well = False
    waits = [seconds_until_stopped() for _ in range(6)]
    assert 60 < waits[0] < 100
    assert 120 < waits[1] < 160
    assert 240 < waits[2] < 290
    # It is never given up: eight limits, and the pause before a start.
    assert 480 < waits[-1] < 600

    # What has answered has its usual limit again.
    watch(70)
    watch.part.is_well = True
    watch(20)
    watch.part.is_well = False
    assert 60 < seconds_until_stopped() < 100


def test_part_is_left_alone_when_it_has_no_limit(watch):
    watch.part.unhealthy_limit_seconds = None
    watch(0)
    watch.part.is_well = False
    watch(500)
    assert watch(500).n_stops == 0


def test_supervisor_ends_and_makes_nothing_anew_when_its_home_was_deleted(tmp_path):
    home = prepare_home(tmp_path / "home")
    supervisor = Supervisor(home, ["s3"])
    shutil.rmtree(home)
    supervisor.run()
    assert not home.exists()


class FakeProcess:
    """A process that can be suspended, as psutil shows it."""

    pid = 1

    def __init__(self):
        self.is_suspended = False

    def status(self):
        return psutil.STATUS_STOPPED if self.is_suspended else psutil.STATUS_SLEEPING

    def suspend(self):
        self.is_suspended = True

    def resume(self):
        self.is_suspended = False


class Airflow:
    """An API server and what needs it, in the order of the stack."""

    def __init__(self, tmp_path, monkeypatch):
        self.api, self.scheduler, self.dag_processor = (FakePart() for _ in range(3))
        self.process, self.clock = FakeProcess(), SimpleNamespace(now=1000.0)
        self.api.name, self.scheduler.name, self.dag_processor.name = (
            API_SERVER,
            SCHEDULER,
            DAG_PROCESSOR,
        )
        self.scheduler.process.find = lambda: self.process if self.scheduler.is_running else None
        stack = SimpleNamespace(parts=(self.api, self.scheduler, self.dag_processor), settings={})
        monkeypatch.setattr(module, "compose", lambda *_: stack)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.clock.now))
        self.supervisor = Supervisor(prepare_home(tmp_path), ["airflow"])

    def after(self, seconds):
        """Let seconds pass one by one, as the supervisor looks."""
        for _ in range(seconds):
            self.clock.now += 1
            self.supervisor.watch_once()


@pytest.fixture
def stack(tmp_path, monkeypatch):
    return Airflow(tmp_path, monkeypatch)


def test_the_scheduler_starts_only_when_the_api_server_answers(stack):
    stack.api.is_well = False
    stack.after(30)
    assert (stack.api.n_starts, stack.dag_processor.n_starts, stack.scheduler.n_starts) == (1, 1, 0)
    stack.api.is_well = True
    stack.after(4)
    assert stack.scheduler.n_starts == 1


def test_the_scheduler_is_suspended_when_the_api_server_dies_and_goes_on_when_it_is_back(stack):
    stack.after(30)
    assert not stack.process.is_suspended
    stack.api.is_running, stack.api.is_well = False, False
    stack.after(1)
    assert stack.process.is_suspended
    stack.after(300)
    assert stack.process.is_suspended
    stack.api.is_well = True
    stack.after(15)
    assert stack.process.is_suspended, "tasks have not yet sent their heartbeats"
    stack.after(15)
    assert not stack.process.is_suspended
    assert (stack.scheduler.n_stops, stack.scheduler.n_starts, stack.dag_processor.n_stops) == (
        0,
        1,
        0,
    )


def test_some_late_answers_of_the_api_server_suspend_nobody(stack):
    stack.after(30)
    answers = iter([False] * 3)
    stack.api.is_healthy = lambda: next(answers, True)
    stack.after(40)
    assert next(answers, None) is None
    assert not stack.process.is_suspended


def test_the_scheduler_is_suspended_when_the_api_server_hangs(stack):
    stack.after(30)
    stack.api.is_well = False
    stack.after(45)
    assert stack.process.is_suspended


def test_the_scheduler_is_still_judged_while_the_api_server_answers(stack):
    stack.after(30)
    stack.scheduler.is_well = False
    stack.after(120)
    assert stack.scheduler.n_stops >= 1


def test_a_suspended_scheduler_goes_on_under_another_supervisor(stack, tmp_path):
    stack.after(30)
    stack.process.suspend()
    stack.supervisor = Supervisor(prepare_home(tmp_path), ["airflow"])
    stack.after(30)
    assert not stack.process.is_suspended
