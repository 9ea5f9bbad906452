"""Every error code has a page, every page a code, and the index lists them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nightshift.incidents.runbook_commands import page_advice
from nightshift.settings import PROJECT_ROOT

RUNBOOKS = PROJECT_ROOT / "docs" / "runbooks"
CODE = re.compile(r"NS-[A-Z]+-\d{3}")
PAGES = sorted(RUNBOOKS.glob("NS-*.md"))


def codes_of(path: Path) -> set[str]:
    """Return the error codes of a module.

    They stand as ``code = "…"`` in a class and as ``code="…"`` in a call.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                targets = (
                    part.targets
                    if isinstance(part, ast.Assign)
                    else [part.target]
                    if isinstance(part, ast.AnnAssign)
                    else []
                )
                if any(isinstance(target, ast.Name) and target.id == "code" for target in targets):
                    values.append(part.value)  # type: ignore[union-attr]
        elif isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        found |= {
            v.value
            for v in values
            if isinstance(v, ast.Constant) and isinstance(v.value, str) and CODE.fullmatch(v.value)
        }
    return found


def raised_codes() -> set[str]:
    modules = [
        *(PROJECT_ROOT / "plugins").rglob("*.py"),
        *(PROJECT_ROOT / "examples").rglob("*.py"),
    ]
    return set().union(*(codes_of(path) for path in modules))


def test_codes_are_read_from_classes_and_calls(tmp_path: Path):
    module = tmp_path / "module.py"
    lines = [
        "class A(E):",
        '    code: str = "NS-A-001"',
        "class B(E):",
        '    code = "NS-B-001"',
        'raise E("x", code="NS-C-001")',
        'x = "NS-D-001"',
    ]
    module.write_text("\n".join(lines))
    assert codes_of(module) == {"NS-A-001", "NS-B-001", "NS-C-001"}


def test_every_code_has_a_page_and_every_page_a_code():
    codes = raised_codes()
    assert len(codes) > 50
    assert codes == {page.stem for page in PAGES}


def test_no_two_errors_share_a_code():
    """A code that stands in two classes would send people to the wrong page."""
    classes = [
        part.value.value
        for path in (PROJECT_ROOT / "plugins").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.Assign)
        and isinstance(part.value, ast.Constant)
        and CODE.fullmatch(str(part.value.value))
    ]
    assert sorted(classes) == sorted(set(classes))


def test_index_has_one_line_for_each_page_and_nothing_else():
    rows = [
        line
        for line in (RUNBOOKS / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| [NS-")
    ]
    titles = [page.read_text(encoding="utf-8").splitlines()[0].split(": ", 1)[1] for page in PAGES]
    assert rows == [
        f"| [{page.stem}]({page.name}) | {title} |"
        for page, title in zip(PAGES, titles, strict=True)
    ]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_page_answers_the_questions_of_the_night(page: Path):
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}: ")
    assert len(text.splitlines()) <= 30
    # What to do at night comes first; who reads on learns why. `By day` is for what can wait.
    headings = re.findall(r"^\*\*([A-Z][a-z ]+?)\.?\*\*", text, re.MULTILINE)
    order = ["At night do", "What happened", "Touches", "Look", "By day", "Escalate"]
    assert [name for name in headings if name != "By day"] == order[:4] + order[5:]
    assert headings == [name for name in order if name in headings]
    assert page_advice(text)


@pytest.fixture(scope="module")
def commands() -> set[str]:
    """Return the names of nightshift's commands; building all of them takes a moment."""
    from typer.main import get_command

    from nightshift.cli.app import app

    return set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [*PAGES, RUNBOOKS / "README.md"], ids=lambda page: page.stem)
def test_links_and_commands_exist(page: Path, commands: set[str]):
    text = page.read_text(encoding="utf-8")
    assert [
        link for link in re.findall(r"\]\(([^)]+)\)", text) if not (RUNBOOKS / link).is_file()
    ] == []
    assert set(re.findall(r"(?:^|`)nightshift ([a-z-]+)", text, re.MULTILINE)) <= commands


TELLS_NOT_TO_CLEAR = {"NS-WRITE-002"}
CLEAR = re.compile(
    r"nightshift airflow dags clear \S+ --partition-key <day> (--only-failed )?--yes"
)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.stem not in TELLS_NOT_TO_CLEAR],
    ids=lambda page: page.stem,
)
def test_a_page_that_tells_to_clear_gives_the_command(page: Path):
    text = " ".join(page.read_text(encoding="utf-8").split())
    advice = page_advice(text)
    if re.search(r"\bclear\b", advice, re.IGNORECASE):
        assert CLEAR.search(advice)
    commands = re.findall(r"`nightshift airflow dags clear[^`]*`", advice)
    assert [command for command in commands if not CLEAR.fullmatch(command.strip("`"))] == []


def test_index_of_decisions_is_current():
    folder = PROJECT_ROOT / "docs" / "adr"
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| \[?\d{4}", line)
    ]
    listed = [row for row in rows if row[0].startswith("[")]
    expected = []
    for page in sorted(folder.glob("0*.md")):
        text = page.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ").split(". ", 1)[1]
        head = re.search(r"^Status: (\w+) · Date: ([\d-]+) · Area: ([^·\n]+)", text, re.MULTILINE)
        status, date, area = (part.strip() for part in head.groups())
        expected.append([f"[{page.stem[:4]}]({page.name})", title, area, status, date])
    assert listed == expected
    # A page that is gone says which one contains it, and no number is given twice.
    merged = [row for row in rows if not row[0].startswith("[")]
    assert all(re.fullmatch(r"merged into \[\d{4}\]\((.+)\)", row[3]) for row in merged)
    assert all((folder / re.search(r"\((.+)\)", row[3]).group(1)).is_file() for row in merged)
    numbers = [row[0].strip("[]")[:4] for row in rows]
    assert numbers == sorted(set(numbers))
