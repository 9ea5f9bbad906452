"""Check that the code reads easily: density of lines, size of modules and packages, nesting.

The limits stand in ``[tool.nightshift.style]`` of pyproject.toml. All hold for every package below
``folders``; in ``script_folders``, whose programs wire many parts of the library together, only
those of a module and its lines do. Lines are non-blank lines; nodes are those of Python's syntax
tree, so a denser line holds more of them.

``check_style.py [FOLDER …]`` checks the given folders as packages, by default pyproject.toml's.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PYPROJECT = Path("pyproject.toml")
TOOL_COMMENTS = ("noqa", "type:", "fmt:", "pragma")
"""Comments for tools do not count as explanations."""
LIBRARY = {"nightshift", "nightshift_local"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Limits:
    """The limits; the names are the keys of ``[tool.nightshift.style]``.

    Attributes:
        max_median_nodes_per_line: Of a package: the median over its modules.
        min_comments_per_100_lines: Of a package: comments for people.
        min_lines_for_density: Shorter modules and packages have no density of their own.
        max_columns: Of each line: code, docstring and comment.
        max_module_lines: Lines of a module.
        max_package_modules: Modules of a package without its sub-packages and ``__init__``.
        max_internal_imports: Modules of the library that a module imports, also in functions.
        max_comprehension_fors: ``for`` clauses of a comprehension.
        max_conditional_depth: Conditional expressions within each other.
    """

    max_median_nodes_per_line: float
    min_comments_per_100_lines: float
    min_lines_for_density: int
    max_columns: int
    max_module_lines: int
    max_package_modules: int
    max_internal_imports: int
    max_comprehension_fors: int
    max_conditional_depth: int


@dataclass(frozen=True)
class Module:
    """A module and its counts."""

    path: Path
    text: str
    nodes: Sequence[ast.AST]
    n_lines: int
    n_comments: int


def main() -> int:
    """Return 1 if a limit is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    table = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["nightshift"]["style"]
    folders = [Path(name) for name in table.pop("folders")]
    script_folders = [Path(name) for name in table.pop("script_folders")]
    limits = Limits(**table)
    problems = check_folders(arguments.folders or folders, limits)
    if not arguments.folders:
        problems += check_scripts(script_folders, limits)
    for problem in problems:
        print(problem)  # noqa: T201
    return 1 if problems else 0


def check_folders(folders: Iterable[Path], limits: Limits) -> list[str]:
    """Return one line per finding: ``file:line: what is wrong (limit …)``."""
    packages: dict[Path, list[Module]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            packages.setdefault(path.parent, []).append(read_module(path))
    problems: list[str] = []
    for package, modules in packages.items():
        problems += check_package(package, modules, limits)
        for module in modules:
            problems += check_module(module, limits)
            problems += check_imports(module, limits)
    return problems


def check_scripts(folders: Iterable[Path], limits: Limits) -> list[str]:
    """Return the findings of modules that belong to no package of the library."""
    problems: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            problems += check_module(read_module(path), limits)
    return problems


def read_module(path: Path) -> Module:
    """Parse one module and count its lines and comments."""
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    n_lines = sum(bool(line.strip()) for line in text.splitlines())
    return Module(path, text, nodes, n_lines, count_comments(text))


def count_comments(text: str) -> int:
    """Return the number of comments that are for people and not for tools."""
    n_comments = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_for_tools = any(mark in token.string for mark in TOOL_COMMENTS)
        n_comments += token.type == tokenize.COMMENT and not is_for_tools
    return n_comments


def check_package(package: Path, modules: Sequence[Module], limits: Limits) -> Iterator[str]:
    """Yield what a package breaks as a whole."""
    n_modules = sum(module.path.name != "__init__.py" for module in modules)
    if n_modules > limits.max_package_modules:
        yield finding(package, None, f"{n_modules} modules", limits.max_package_modules)

    n_lines = sum(module.n_lines for module in modules)
    densities = [
        len(module.nodes) / module.n_lines
        for module in modules
        if module.n_lines >= limits.min_lines_for_density
    ]
    if not densities or n_lines < limits.min_lines_for_density:
        return
    density = median(densities)
    if density > limits.max_median_nodes_per_line:
        what = f"median of {density:.2f} nodes a line"
        yield finding(package, None, what, limits.max_median_nodes_per_line)
    comments = 100 * sum(module.n_comments for module in modules) / n_lines
    if comments < limits.min_comments_per_100_lines:
        what = f"{comments:.2f} comments in 100 lines"
        yield finding(package, None, what, limits.min_comments_per_100_lines, "at least")


def check_module(module: Module, limits: Limits) -> Iterator[str]:
    """Yield what a module and its lines break."""
    if module.n_lines > limits.max_module_lines:
        yield finding(module.path, None, f"{module.n_lines} lines", limits.max_module_lines)
    for number, line in enumerate(module.text.splitlines(), 1):
        if len(line) > limits.max_columns:
            yield finding(module.path, number, f"{len(line)} columns", limits.max_columns)
    for node in module.nodes:
        if isinstance(node, COMPREHENSIONS):
            n_fors = len(node.generators)
            if n_fors > limits.max_comprehension_fors:
                what = f"a comprehension with {n_fors} `for`"
                yield finding(module.path, node.lineno, what, limits.max_comprehension_fors)
        elif isinstance(node, ast.IfExp):
            depth = conditional_depth(node)
            if depth > limits.max_conditional_depth:
                what = f"{depth} conditional expressions within each other"
                yield finding(module.path, node.lineno, what, limits.max_conditional_depth)


def check_imports(module: Module, limits: Limits) -> Iterator[str]:
    """Yield whether a module knows too many others."""
    n_imports = len(internal_imports(module.nodes))
    if n_imports > limits.max_internal_imports:
        what = f"imports {n_imports} modules of the library"
        yield finding(module.path, None, what, limits.max_internal_imports)


def internal_imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules of the library that are imported, also within functions."""
    imported: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    return {name for name in imported if name.partition(".")[0] in LIBRARY}


def conditional_depth(node: ast.IfExp) -> int:
    """Return how many conditional expressions stand within each other, this one included."""
    inner = [child for child in ast.walk(node) if isinstance(child, ast.IfExp)]
    return 1 + max(map(conditional_depth, inner[1:]), default=0)


def finding(path: Path, line: int | None, what: str, limit: float, bound: str = "at most") -> str:
    """Return one line that an editor can jump to."""
    position = f"{path}:{line}" if line else str(path)
    return f"{position}: {what}, {bound} {limit:g}"


if __name__ == "__main__":
    sys.exit(main())
