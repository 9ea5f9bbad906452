"""What every benchmark reports: facts, figures, and figures with a limit; as text and JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nightshift.settings import PROJECT_ROOT


@dataclass(frozen=True)
class Limited:
    """A figure and what it has to be.

    Attributes:
        value: What was measured.
        kind: On which side of the limit is good.
        limit: The limit.
        unit: Empty for a ratio.
    """

    value: float
    kind: Literal["at least", "at most"]
    limit: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Return whether the figure is on the good side."""
        return self.value >= self.limit if self.kind == "at least" else self.value <= self.limit

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.value:,.4g} {self.unit}".strip()
            + f", {self.kind} {self.limit:g}: {'met' if self.is_met else 'MISSED'}"
        )


@dataclass
class Result:
    """What one benchmark measured in one call.

    Attributes:
        name: Name of its file.
        sizes: What was given, in words.
        figures: Numbers by their name with its unit, medians unless the name says otherwise.
        limited: Figures with a limit.
        bars: What the page draws next to each other, in one unit.
        unit: That unit.
    """

    name: str
    sizes: str
    figures: dict[str, float] = field(default_factory=dict)
    limited: dict[str, Limited] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    unit: str = ""

    @property
    def is_good(self) -> bool:
        """Return whether every limit is met."""
        return all(limited.is_met for limited in self.limited.values())

    def tell(self, path: Path | None) -> int:
        """Print everything and write JSON on request; return 1 when a limit is missed, else 0."""
        facts = measured_on()
        for name, value in {**facts, "sizes": self.sizes}.items():
            print(f"{name:9} {value}")
        for name, number in self.figures.items():
            print(f"  {name:44} {number:,.4g}")
        for name, limited in self.limited.items():
            print(f"  {name:44} {limited}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps({**facts, **asdict(self)}, indent=1) + "\n", encoding="utf-8"
            )
        return 0 if self.is_good else 1


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    ``getrusage`` would be wrong: a child begins with the peak of whoever started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measured_on() -> dict[str, Any]:
    """Return command, machine and commit."""
    path = Path(sys.argv[0]).resolve()
    shown = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else Path(path.name)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": (
            f"PYTHONPATH=plugins python -m {'.'.join(shown.with_suffix('').parts)}"
            f" {shlex.join(_shown_arguments())}"
        ).strip(),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
            f" Python {platform.python_version()}"
        ),
        "commit": commit.stdout.strip(),
    }


def _shown_arguments() -> list[str]:
    """Leave out where the result goes."""
    pairs = zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)
    return [text for before, text in pairs if before != "--json" and not text.startswith("--json")]
