"""The supervisor restarts what died, with growing pauses, and never ends a part that works."""

import shutil
from types import SimpleNamespace

import pytest

from nightshift.services import supervisor as module
from nightshift.services.placement import prepare_home
from nightshift.services.supervisor import Supervisor


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
        self.process = SimpleNamespace(find=lambda: SimpleNamespace(pid=1) if self.is_running else None, end_idle_leftovers=lambda: None)

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
