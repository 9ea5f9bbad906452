"""A shard is a stream.

The same rows in any batches, nothing left when it breaks or is cancelled in the middle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from tests.integration.scoring.conftest import DAY, Registry, make_spec, publish_features

from nightshift.errors import NightshiftError, WarehouseError
from nightshift.scoring import shard as shard_module
from nightshift.scoring.pipeline import begin, publish, score, score_shard
from nightshift.scoring.scorer import Scorer
from nightshift.warehouse.fast_io.arrow_io import stream_arrow

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]
N_ROWS = 3_000


@pytest.fixture
def spec():
    return make_spec(
        scoring={
            "shards": 1,
            "reasons": 2,
            "fallback": {"feature": "late_rate_7d", "default": 0.25},
        }
    )


@pytest.fixture
def small_batches(monkeypatch) -> None:
    """Let a few rows be a batch, so that a small table is a long stream."""
    monkeypatch.setattr(shard_module, "stream_arrow", partial(stream_arrow, batch_bytes=4_000))


@pytest.fixture
def ready(warehouse, registry: Registry):
    publish_features(warehouse, n_rows=N_ROWS)
    registry.promote("2013-07-01")
    return warehouse


def staged(conn) -> int:
    return int(conn.execute("select count(*) from predictions.parcel_late").fetchone()[0])


def fail_at(n: int, error: BaseException, before: Callable[..., object]) -> Callable[..., object]:
    """Return a function that does what it did before, and fails at its n-th call."""
    calls = iter(range(1, 10**9))

    def wrapped(*arguments: object, **named: object) -> object:
        if next(calls) == n:
            raise error
        return before(*arguments, **named)

    return wrapped


def test_content_is_the_same_when_batches_are_small(
    ready, scoring_settings, spec, run, small_batches, monkeypatch
):
    batches: list[int] = []
    scored = Scorer.score
    monkeypatch.setattr(
        Scorer,
        "score",
        lambda self, rows, shift=0.0: batches.append(rows.num_rows) or scored(self, rows, shift),
    )
    (small,) = score(scoring_settings, spec, DAY, run)
    assert len(batches) > 20
    monkeypatch.setattr(shard_module, "stream_arrow", stream_arrow)
    (again,) = score(scoring_settings, spec, DAY, run)
    assert (small.n_rows, small.is_new, again.is_new) == (N_ROWS, True, False)
    assert small.load_id == again.load_id


def test_next_step_is_published_when_the_champion_breaks_in_the_middle(
    ready, scoring_settings, spec, run, small_batches, monkeypatch
):
    plan = begin(scoring_settings, spec, DAY, run)
    monkeypatch.setattr(Scorer, "score", fail_at(7, ValueError("it broke"), Scorer.score))
    score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(ready) == 0
    monkeypatch.undo()
    (published,) = publish(scoring_settings, spec, plan, run)
    assert published.n_rows == N_ROWS
    sources = ready.execute(
        "select distinct score_source, score_source_reason from analytics.parcel_late_current"
    ).fetchall()
    ((source, reason),) = sources
    assert source == "fallback_rule"
    assert reason.startswith("version 1 cannot score (ValueError")


def test_rerun_scores_all_when_the_server_ends_the_reader(
    warehouse, registry, scoring_settings, spec, run, monkeypatch
):
    """So many rows that they are not all on their way already."""
    publish_features(warehouse, n_rows=(n_rows := 200_000))
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    end_readers = (
        "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'copy (select%%'"
    )
    with monkeypatch.context() as patched:
        scored = Scorer.score
        patched.setattr(shard_module, "stream_arrow", partial(stream_arrow, batch_bytes=100_000))
        patched.setattr(
            Scorer,
            "score",
            lambda self, rows, shift: (warehouse.execute(end_readers), scored(self, rows, shift))[
                -1
            ],
        )
        with pytest.raises(WarehouseError, match="NS-WAREHOUSE-001"):
            score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(warehouse) == 0
    score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(warehouse) == n_rows


def after_each_batch(action: Callable[[int], object]) -> Callable[..., Iterator[object]]:
    """Return a ``log_progress`` that calls an action with the number of each staged batch."""

    def watch(batches: Iterable[object], *_: object) -> Iterator[object]:
        for number, batch in enumerate(batches, 1):
            yield batch
            action(number)

    return watch


def interrupt_at_5(number: int) -> None:
    """Send a signal after the fifth batch, which Python gives to the main thread."""
    if number == 5:
        os.kill(os.getpid(), signal.SIGINT)


def raise_at_5(number: int) -> None:
    """Raise after the fifth batch."""
    if number == 5:
        raise KeyboardInterrupt


@pytest.fixture
def hears_signals() -> Iterator[None]:
    """Have Python's own handler for SIGINT, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("small_batches", "hears_signals")
@pytest.mark.parametrize("is_signal", [False, True], ids=["in the stream", "by a signal"])
def test_nothing_works_on_when_it_is_cancelled(
    ready, scoring_settings, spec, run, monkeypatch, is_signal
):
    plan = begin(scoring_settings, spec, DAY, run)
    action = interrupt_at_5 if is_signal else raise_at_5
    monkeypatch.setattr(shard_module, "log_progress", after_each_batch(action))
    with pytest.raises(KeyboardInterrupt):
        score_shard(scoring_settings, spec, plan, 0, run)
    started = time.monotonic()
    while left := still_at_work(ready, run.application_name):
        assert time.monotonic() - started < 10, left
        time.sleep(0.05)
    assert staged(ready) == 0
    monkeypatch.undo()
    score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(ready) == N_ROWS


def still_at_work(conn, application_name: str) -> list[str]:
    """Return the threads and backends that still work for the shard."""
    backends = conn.execute(
        "select state || ': ' || query from pg_stat_activity where application_name = %s and pid"
        " <> pg_backend_pid()",
        [application_name],
    ).fetchall()
    threads = [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("prefetch for", "append to"))
    ]
    return [query for (query,) in backends] + threads


def test_nothing_ends_a_shard_when_it_takes_longer_than_an_idle_transaction_may(
    ready, scoring_settings, spec, run, monkeypatch
):
    monkeypatch.setattr("nightshift.warehouse.connection.IDLE_IN_TRANSACTION_SECONDS", 1)
    monkeypatch.setattr(shard_module, "stream_arrow", partial(stream_arrow, batch_bytes=100_000))
    plan = begin(scoring_settings, spec, DAY, run)
    slow = after_each_batch(lambda _: time.sleep(1.5))
    monkeypatch.setattr(shard_module, "log_progress", slow)
    score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(ready) == N_ROWS


def test_published_rows_stay_when_an_attempt_wakes_up_that_stood_still(
    ready, scoring_settings, spec, run, monkeypatch
):
    """It had its models loaded; meanwhile a later attempt staged and published the load."""
    plan = begin(scoring_settings, spec, DAY, run)

    def publish_meanwhile(*arguments: object) -> object:
        monkeypatch.undo()
        score_shard(scoring_settings, spec, plan, 0, run)
        publish(scoring_settings, spec, plan, run)
        return loaded(*arguments)

    loaded = shard_module.load_models
    monkeypatch.setattr(shard_module, "load_models", publish_meanwhile)
    score_shard(scoring_settings, spec, plan, 0, run)
    assert staged(ready) == N_ROWS
    rows = ready.execute("select count(*) from analytics.parcel_late_current").fetchone()
    assert rows == (N_ROWS,)


def test_later_attempt_wins_when_an_older_one_hangs_in_its_stream(
    ready, scoring_settings, spec, run, small_batches, monkeypatch
):
    plan = begin(scoring_settings, spec, DAY, run)
    is_released = threading.Event()
    log_progress = shard_module.log_progress
    hang = after_each_batch(lambda _: is_released.wait(30))
    monkeypatch.setattr(shard_module, "log_progress", hang)
    older = threading.Thread(
        target=lambda: suppress_errors(score_shard, scoring_settings, spec, plan, 0, run),
        daemon=True,
    )
    older.start()
    wait_until(lambda: still_at_work(ready, run.application_name) and holds_lock(ready))
    monkeypatch.setattr(shard_module, "log_progress", log_progress)
    score_shard(scoring_settings, spec, plan, 0, replace(run, attempt=2))
    assert staged(ready) == N_ROWS
    is_released.set()
    older.join(10)
    assert not older.is_alive()
    (published,) = publish(scoring_settings, spec, plan, replace(run, attempt=2))
    assert published.n_rows == N_ROWS


def suppress_errors(call: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(NightshiftError):
        call(*arguments)


def holds_lock(conn) -> bool:
    return bool(
        conn.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and granted"
        ).fetchone()[0]
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("ready", "small_batches")
def test_log_says_rows_speed_and_time_left_when_a_shard_takes_long(
    scoring_settings, spec, run, monkeypatch, caplog
):
    monkeypatch.setattr("nightshift.scoring.shard.LOG_SECONDS", 0.0)
    with caplog.at_level("INFO", "nightshift.scoring.shard"):
        score(scoring_settings, spec, DAY, run)
    lines = [
        record.message for record in caplog.records if record.name == "nightshift.scoring.shard"
    ]
    assert lines[0].startswith("shard 0 of parcel_late: ")
    assert f" of about {N_ROWS:,} rows, " in lines[0]
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith(f"shard 0 of parcel_late: {N_ROWS:,} rows in ")
