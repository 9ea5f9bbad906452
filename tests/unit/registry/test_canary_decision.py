"""What ends a canary, by hand-made losses; and a call that is given up in time."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.integration.registry.conftest import make_spec

from nightshift.registry.canary.decision import loss_reasons
from nightshift.registry.canary.evidence import CanaryEvidence, e_value_worse
from nightshift.scoring.canary.time_limit import run_within

SPEC = make_spec()


def evidence(gains: list[float], own: list[float], champion_loss: float = 0.5) -> CanaryEvidence:
    return CanaryEvidence("log_loss", np.array(gains), np.array(own), champion_loss)


def test_proved_worse_on_all_entities_is_told_with_its_e_value() -> None:
    gains = [-0.02 + 0.005 * (-1) ** n for n in range(20)]
    [reason] = loss_reasons(SPEC, evidence(gains, []))
    assert reason.startswith("It is proved worse on all entities: 20 nights, mean gain -0.02 log")
    assert loss_reasons(SPEC, evidence([-gain for gain in gains], [])) == []
    assert e_value_worse(np.array(gains[:13])) <= 1, "too few nights are no proof"


def test_own_rows_may_lose_a_tenth_of_the_champions_loss_a_night() -> None:
    assert loss_reasons(SPEC, evidence([], [-0.049] * 5)) == []
    [reason] = loss_reasons(SPEC, evidence([], [-0.051] * 5))
    assert reason == (
        "On its own rows of 5 night(s) it lost 0.051 log_loss a night against the champion;"
        " allowed are 0.05."
    )


def test_first_night_must_be_three_times_as_bad() -> None:
    assert loss_reasons(SPEC, evidence([], [-0.149])) == []
    assert len(loss_reasons(SPEC, evidence([], [-0.151]))) == 1
    assert loss_reasons(SPEC, evidence([], [-0.151, 0.02])) == []


def test_limit_of_the_spec_counts() -> None:
    canary = SPEC.promotion.canary.model_copy(update={"maximum_loss": 0.01})
    promotion = SPEC.promotion.model_copy(update={"canary": canary})
    strict = SPEC.model_copy(update={"promotion": promotion})
    assert len(loss_reasons(strict, evidence([], [-0.02] * 3))) == 1
    assert SPEC.digest == strict.digest, "who gets a prediction makes it no other one"


def test_call_that_hangs_is_given_up_and_keeps_no_process_alive() -> None:
    never = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="trying took longer than 0 s"):
        run_within(0.1, "trying", never.wait)
    assert time.monotonic() - started < 5
    hanging = [thread for thread in threading.enumerate() if thread.name == "trying"]
    assert [thread.daemon for thread in hanging] == [True]
    never.set()


def test_call_gives_its_result_or_its_error() -> None:
    assert run_within(5, "adding", lambda: 1 + 1) == 2
    with pytest.raises(MemoryError):
        run_within(5, "failing", lambda: (_ for _ in ()).throw(MemoryError()))
