"""Each limit of the style check: a package within it passes, and one beyond it is named."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nightshift.settings import PROJECT_ROOT

CHECK = PROJECT_ROOT / ".ci" / "check_style.py"
GOOD = """\"\"\"A module.\"\"\"

from nightshift.errors import SpecError


def names(values):
    \"\"\"Return the names.\"\"\"
    # The reason why.
    # And another one.
    return [value.name for value in values if value]


class GoodError(
    SpecError,
):
    \"\"\"An error.\"\"\"
"""


def load_check() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("check_style", CHECK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check_style = load_check()
LIMITS = check_style.Limits(
    max_median_nodes_per_line=5.5,
    min_comments_per_100_lines=2.5,
    min_lines_for_density=5,
    max_columns=100,
    max_module_lines=20,
    max_package_modules=3,
    max_internal_imports=2,
    max_comprehension_fors=1,
    max_conditional_depth=1,
)


def check(folder: Path, *strings: str) -> list[str]:
    """Return the findings of a package with a module per text."""
    for index, text in enumerate(strings):
        (folder / f"module_{index}.py").write_text(text)
    return check_style.check_folders([folder], LIMITS)


def test_a_package_within_all_limits_passes(tmp_path: Path):
    assert check(tmp_path, GOOD, GOOD, GOOD) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "x = [a for b in c for a in b]",
            "module_0.py:17: a comprehension with 2 `for`, at most 1",
        ),
        ("x = {a: 1 for b in c for a in b}", "a comprehension with 2 `for`"),
        ("x = 1 if a else (2 if b else 3)", ":17: 2 conditional expressions within each other"),
        ("x = f(1 if (2 if a else b) else 3)", "2 conditional expressions within each other"),
        (f"x = '{'y' * 95}'", "module_0.py:17: 101 columns, at most 100"),
        (f"# {'y' * 99}", ":17: 101 columns"),
        ("x = 1\n" * 10, "module_0.py: 21 lines, at most 20"),
        (
            "import nightshift.settings\nfrom nightshift_local.ports import Ports",
            "module_0.py: imports 3 modules of the library, at most 2",
        ),
        ("x = f(a.b(c.d), e.f(g.h), i.j(k.l), m.n(o.p), q.r(s.t)), u.v(w)\n" * 3, "nodes a line"),
    ],
    ids=[
        "nested comprehension",
        "nested dict comprehension",
        "nested conditional",
        "conditional in a condition",
        "long line",
        "long comment",
        "long module",
        "imports",
        "dense",
    ],
)
def test_a_module_beyond_a_limit_is_named(tmp_path: Path, line: str, says: str):
    [problem] = check(tmp_path, f"{GOOD}{line}\n")
    assert says in problem


def test_a_package_without_comments_is_named(tmp_path: Path):
    uncommented = GOOD.replace("    # The reason why.\n", "    x = 1  # noqa: F841\n")
    text = uncommented.replace("    # And another one.\n", "")
    [problem] = check(tmp_path, text)
    assert problem == f"{tmp_path}: 0.00 comments in 100 lines, at least 2.5"


def test_a_package_with_too_many_modules_is_named_and_its_init_is_not_counted(tmp_path: Path):
    (tmp_path / "__init__.py").write_text("")
    assert check(tmp_path, *[GOOD] * 3) == []
    assert check(tmp_path, *[GOOD] * 4) == [f"{tmp_path}: 4 modules, at most 3"]


def test_two_conditionals_next_to_each_other_do_not_nest(tmp_path: Path):
    assert check(tmp_path, f"{GOOD}x = (1 if a else 2) + (3 if b else 4)\n") == []


def test_scripts_are_held_to_the_limits_of_a_module_and_to_none_of_a_package(tmp_path: Path):
    wired = "from nightshift_local.ports import Ports\nimport nightshift.settings\n"
    for number in range(4):
        text = wired + "x = f(a.b(c.d)), e.f(g.h)\n" * 9
        (tmp_path / f"script_{number}.py").write_text(text)
    assert check_style.check_scripts([tmp_path], LIMITS) == []
    (tmp_path / "long.py").write_text("x = 1\n" * 21)
    (tmp_path / "nested.py").write_text("x = [a for b in c for a in b]\n")
    assert check_style.check_scripts([tmp_path], LIMITS) == [
        f"{tmp_path}/long.py: 21 lines, at most 20",
        f"{tmp_path}/nested.py:1: a comprehension with 2 `for`, at most 1",
    ]


def test_the_command_reads_its_limits_from_the_project_and_fails_with_a_finding(tmp_path: Path):
    (tmp_path / "module.py").write_text(f"{GOOD}x = [a for b in c for a in b]\n")
    done = subprocess.run(
        [sys.executable, str(CHECK), str(tmp_path)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path}/module.py:17: a comprehension with 2 `for`, at most 1\n"
