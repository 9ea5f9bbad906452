"""Each fault as people are told of it: the right incident, one notice, a command that repairs, and
the notice that it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.on_call.faults import FAULTS
from tests.chaos.on_call.history import History, open_bare_history, open_history
from tests.chaos.on_call.notified import NoticeVerdict, judge_notice

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R20"),
    pytest.mark.timeout(900, func_only=True),
]
LONG = [pytest.mark.long, pytest.mark.timeout(3 * 3600, func_only=True)]

MIN_RIGHT, MAX_SECONDS = 0.975, 60.0
"""39 of 40 faults; a look of the watch and its notices, which begins each minute."""
N_TRIED, MIN_REPAIRED = 20, 0.9
"""Of twenty faults, the text of the notice alone repairs eighteen, within a minute of reading."""
WITHOUT_HISTORY = (
    "a manifest is broken",
    "scheduler and API server are killed",
    "a run has no key",
    "the scheduler dies while its API answers",
    "the clock of the watch is a day behind",
)
"""Faults that need nothing but an empty warehouse and a landed file."""


class Verdicts:
    """Judges each fault once, whichever test asks first."""

    def __init__(self, history: History, folder: Path) -> None:
        self._history, self._folder = history, folder
        self._known: dict[str, NoticeVerdict] = {}

    def of(self, name: str) -> NoticeVerdict:
        if name not in self._known:
            folder = self._folder / str(len(self._known))
            folder.mkdir()
            verdict = self._known[name] = judge_notice(self._history, FAULTS[name], folder)
            print(f"{name}: {verdict}", flush=True)
        return self._known[name]


@pytest.fixture(scope="module")
def verdicts(session_settings, fast_server, tmp_path_factory) -> Iterator[Verdicts]:
    with open_history(session_settings, tmp_path_factory.mktemp("notices")) as history:
        yield Verdicts(history, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def quick_verdicts(session_settings, fast_server, tmp_path_factory) -> Iterator[Verdicts]:
    with open_bare_history(session_settings, tmp_path_factory.mktemp("notices")) as history:
        yield Verdicts(history, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", WITHOUT_HISTORY)
def test_people_are_told_of_a_fault_once_and_the_command_of_the_notice_ends_it(
    quick_verdicts: Verdicts, name: str
) -> None:
    verdict = quick_verdicts.of(name)
    assert verdict.is_good, "\n".join(verdict.problems)


@pytest.mark.parametrize("name", FAULTS)
class TestLong:
    pytestmark = LONG

    def test_people_are_told_of_each_fault_once_and_the_command_of_the_notice_ends_it(
        self, verdicts: Verdicts, name: str
    ) -> None:
        verdict = verdicts.of(name)
        assert verdict.is_good, "\n".join(verdict.problems)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600, func_only=True)
def test_no_fault_is_silent_and_nearly_all_are_told_rightly(
    verdicts: Verdicts, record_figure: Callable[[str, float], None]
) -> None:
    judged = [verdicts.of(name) for name in FAULTS]
    told = [each for each in judged if each.read_seconds > 0]
    figures = {
        "faults": len(judged),
        "faults with the right incidents, code, days, consequence and command": sum(
            each.is_right for each in judged
        ),
        "faults told once": sum(each.is_told_once for each in judged),
        "silent faults": sum(each.n_silent for each in judged),
        "incidents that no fault has": sum(each.n_false for each in judged),
        "faults that the commands of their notices repair": sum(
            each.command_repairs for each in judged
        ),
        "faults whose end is told": sum(each.end_is_told for each in judged),
        "faults with a notice": len(told),
        "faults that the texts of their notices alone repair": sum(
            each.text_repairs for each in told
        ),
        "seconds to read the longest notice and copy its command": max(
            each.read_seconds for each in told
        ),
        "seconds of the slowest look with its notices": max(each.seconds for each in judged),
    }
    for name, value in figures.items():
        record_figure(f"on-call notices: {name}", value)
        print(f"{name}: {value}", flush=True)
    assert sum(each.is_good for each in judged) >= MIN_RIGHT * len(judged)
    assert len(told) >= N_TRIED
    assert sum(each.text_repairs for each in told) >= MIN_REPAIRED * len(told)
    assert sum(each.n_silent for each in judged) == 0
    assert max(each.seconds for each in judged) < MAX_SECONDS
