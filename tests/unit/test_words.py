"""One language: words that were replaced do not come back.

The glossary (docs/glossary.md) has the words to use. Decisions (docs/adr) and the changelog are
history and keep the words of their time; pages that are generated from the names of tests too.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightshift.settings import PROJECT_ROOT

LIBRARY = PROJECT_ROOT / "plugins" / "nightshift"
CODE = {
    "benchmarks": PROJECT_ROOT / "benchmarks",
    "ci": PROJECT_ROOT / ".ci",
    "dags": PROJECT_ROOT / "dags",
    "docker": PROJECT_ROOT / "docker",
    "examples": PROJECT_ROOT / "examples",
    "nightshift_local": PROJECT_ROOT / "plugins" / "nightshift_local",
    **{folder.name: folder for folder in LIBRARY.iterdir() if (folder / "__init__.py").is_file()},
}
HISTORY = ("docs/adr/", "docs/reliability.md", "docs/ml-test-score.md", "CHANGELOG.md")

MODULES = {
    "ahead": "prefetch",
    "append_stream": "copy_stream",
    "carry_over": "last_score",
    "exhaustion": "resource_errors",
    "fault_points": "failpoints",
    "history": "one module per command",
    "known_world": "point_in_time_rebuild",
    "lateness": "staleness",
    "load_trial": "sandboxed_load",
    "model_text": "model_format",
    "noise": "drift_baseline",
    "number_bins": "log_linear_histogram",
    "one_scan": "sql_checks",
    "passing_rows": "streaming_checks",
    "raw_version": "raw_load",
    "served_rows": "feature_query",
    "stored_version": "model_loader",
    "supersession": "cancel_attempts",
    "sweep": "late_arrivals",
    "tree_text": "model_format",
}
NAMES = {
    # types
    "Ahead": "Prefetcher",
    "Case": "PromotionContext",
    "Course": "PolicyRun",
    "Decided": "RetrainHistory",
    "Distinct": "KMVSketch",
    "Done": "CompletedLoad",
    "Judged": "HoldoutResult",
    "Judgement": "GateResult",
    "Knowledge": "RawKnowledge",
    "Named": "PinnedVersion",
    "Night": "MonitoringContext",
    "Origin": "Provenance",
    "Pages": "HistogramBuilder",
    "Question": "Check",
    "Rhythm": "Schedule",
    "Ruling": "TriggerDecision",
    "Stale": "StalePartition",
    "Stretch": "PartitionRun",
    "Workplace": "FitPaths",
    "WorseStepError": "DowngradeError",
    "Yardstick": "DriftReference",
    # functions and tasks
    "announce_raw": "emit_raw_assets",
    "arm": "enable",
    "catch_up": "reconcile",
    "compiled": "jit",
    "named_exhaustion": "translate_resource_errors",
    "reach": "hit",
    "say": "report, or typer.echo",
    "tell_failures": "watcher",
    # variables and parameters
    "asked": "requested",
    "behind": "after, or what it is",
    "beside": "alongside, or what it is",
    "found": "result, match, or what it is",
    "here": "what it is",
    "judged": "checked, or what it is",
    "kind": "type",
    "least": "minimum",
    "most_rows": "max_rows",
    "night": "partition",
    "nights": "partitions",
    "one": "what it is",
    "others": "what they are",
    "place": "index or position",
    "places": "indices or positions",
    "remark": "note",
    "remarks": "notes",
    "ruling": "decision",
    "said": "what it is",
    "texts": "strings",
    "told": "notified",
    "wanted": "requested, or what it is",
    "whole": "complete",
}
STORED = {
    ("catch_up.py", "catch_up"),
    ("column_drift.py", "kind"),
    ("facts.py", "kind"),
    ("fault_history.py", "kind"),
    ("faults.py", "kind"),
    ("input_faults.py", "kind"),
    ("records.py", "kind"),
    ("result.py", "kind"),
}
"""Stored names keep their word: the id of a DAG, columns of monitoring.drift, of column_faults and
of ops.incidents, a key of results.
"""
PHRASES = {
    r"as often as you like": "idempotent",
    r"beside": "alongside, next to",
    r"by halves": "partially",
    r"has the last word": "who decides",
    r"ladder": "fallback chain",
    r"left to its fate": "abandoned",
    r"left: nothing": "remaining: none",
    r"nobody could be told": "no notification channel accepted the message",
    r"not everybody could be told": "some notification channels failed",
    r"one of them": "what it is",
    r"step(s|ped|ping)? down": "downgrade",
    r"the others": "what they are",
    r"told by": "notified via",
    r"yardstick": "drift reference",
}
CLASS = re.compile(r" *class (\w+)[(:]")
PATTERN = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)


def old_names(path: Path) -> Iterator[str]:
    """Yield each old name that a module defines, as ``file:line: old → new``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = None
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name in NAMES and (path.name, name) not in STORED:
            yield f"{where(path, node.lineno)}: {name} → {NAMES[name]}"


def old_phrases(path: Path) -> Iterator[str]:
    """Yield each old phrase of a module's strings and comments, or of a page."""
    text = path.read_text(encoding="utf-8")
    passages = list(enumerate(text.splitlines(), 1))
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        words = (tokenize.STRING, tokenize.COMMENT)
        passages = [(token.start[0], token.string) for token in tokens if token.type in words]
    for line, passage in passages:
        for match in PATTERN.finditer(passage):
            number = line + passage.count("\n", 0, match.start())
            yield f"{where(path, number)}: {match.group()} → {replacement(match.group())}"


def replacement(phrase: str) -> str:
    """Return the words to use instead of a phrase."""
    for pattern, new in PHRASES.items():
        if re.fullmatch(pattern, phrase, re.IGNORECASE):
            return new
    raise AssertionError(phrase)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path}:{line}"


def findings(folder: Path) -> list[str]:
    """Return the old words of a folder of code."""
    problems = []
    for path in sorted(folder.rglob("*.py")):
        if path.stem in MODULES:
            problems.append(f"{where(path, 1)}: module {path.stem} → {MODULES[path.stem]}")
        problems += [*old_names(path), *old_phrases(path)]
    return problems


def pages() -> list[Path]:
    """Return the pages that people read."""
    folders = (PROJECT_ROOT, PROJECT_ROOT / "docs", PROJECT_ROOT / "docs" / "runbooks")
    readable = [
        *(PROJECT_ROOT / "examples").rglob("*.md"),
        PROJECT_ROOT / "docker" / "README.md",
    ]
    for folder in folders:
        readable += folder.glob("*.md")
    return sorted(page for page in readable if not name_of(page).startswith(HISTORY))


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT_ROOT))


def parameters(items: dict[str, Path]) -> list[object]:
    """Return one test per item."""
    return [pytest.param(path, id=name) for name, path in items.items()]


@pytest.mark.parametrize("folder", parameters(CODE))
def test_code_has_no_old_words(folder: Path) -> None:
    problems = findings(folder)
    assert problems == []


@pytest.mark.parametrize(
    "path",
    parameters({path.stem: path for path in sorted(LIBRARY.glob("*.py"))}),
)
def test_modules_of_the_library_have_no_old_names(path: Path) -> None:
    assert path.stem not in MODULES
    problems = [*old_names(path), *old_phrases(path)]
    assert problems == []


@pytest.mark.parametrize("page", parameters({name_of(page): page for page in pages()}))
def test_pages_have_no_old_words(page: Path) -> None:
    problems = list(old_phrases(page))
    assert problems == []


def test_a_class_name_stands_for_one_thing() -> None:
    modules: dict[str, list[str]] = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if name := CLASS.match(line):
                modules.setdefault(name[1], []).append(where(path, number))
    assert len(modules) > 300  # the library was read
    assert {name: lines for name, lines in modules.items() if len(lines) > 1} == {}


def test_an_old_word_is_named_with_its_replacement(tmp_path: Path) -> None:
    module = tmp_path / "sweep.py"
    module.write_text(
        '"""Go down.\n\nThe ladder.\n"""\n\n\n'
        "def collect(most_rows):\n"
        "    found = most_rows  # left to its fate\n"
        "    return found\n"
    )
    assert findings(tmp_path) == [
        f"{module}:1: module sweep → late_arrivals",
        f"{module}:7: most_rows → max_rows",
        f"{module}:8: found → result, match, or what it is",
        f"{module}:3: ladder → fallback chain",
        f"{module}:8: left to its fate → abandoned",
    ]
