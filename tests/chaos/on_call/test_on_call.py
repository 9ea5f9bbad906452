"""Sixty-five faults as on-call meets them: the code names the cause, its page helps, its commands
bring the wanted state.

Forty-five of them were injected by hand into the running product once; then the code was right in
23, the page helped in 23, and 15 of the 27 repairs that were tried worked as the page said. Ten
more are faults of which nothing fails, and ten were found by attacking what was built for these.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.on_call.fault import Fault, Verdict, judge
from tests.chaos.on_call.faults import FAULTS
from tests.chaos.on_call.history import History, open_history

from nightshift.settings import PROJECT_ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.promise("R4"),
    pytest.mark.timeout(3 * 3600, func_only=True),
]

N_FAULTS, LEAST = 65, 63


class Verdicts:
    """Judges each fault once, whichever test asks first."""

    def __init__(self, history: History, folder: Path) -> None:
        self._history, self._folder = history, folder
        self._known: dict[str, Verdict] = {}

    def of(self, fault: Fault) -> Verdict:
        if fault.name not in self._known:
            folder = self._folder / str(len(self._known))
            folder.mkdir()
            verdict = self._known[fault.name] = judge(self._history, fault, folder)
            print(f"{fault.name}: {verdict}", flush=True)
        return self._known[fault.name]


@pytest.fixture(scope="module")
def verdicts(session_settings, fast_server, tmp_path_factory) -> Iterator[Verdicts]:
    with open_history(session_settings, tmp_path_factory.mktemp("on call")) as history:
        yield Verdicts(history, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", FAULTS)
def test_on_call_repairs_the_fault_by_its_code_and_its_page(verdicts: Verdicts, name: str) -> None:
    assert verdicts.of(FAULTS[name]) == Verdict(True, True, True)


def test_nearly_all_faults_have_the_right_code_a_helpful_page_and_a_repair_that_works(
    verdicts: Verdicts, record_figure: Callable[[str, float], None]
) -> None:
    judged = [verdicts.of(fault) for fault in FAULTS.values()]
    counts = {
        "on-call faults with the right code": sum(one.is_code_right for one in judged),
        "on-call faults with a page that helps": sum(one.page_helps for one in judged),
        "on-call faults that the page's commands repair": sum(one.repair_works for one in judged),
    }
    for name, n_faults in counts.items():
        record_figure(name, n_faults)
        print(f"{name}: {n_faults} of {len(judged)}", flush=True)
    assert len(judged) == N_FAULTS
    assert min(counts.values()) >= LEAST


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS.values() if fault.proved_by])
def test_the_real_scheduler_meets_the_fault_in_a_test_of_its_own(name: str) -> None:
    path, _, test = FAULTS[name].proved_by.partition("::")
    tree = ast.parse((PROJECT_ROOT / path).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
