"""Measure and print the steps of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import typer

from nightshift.cli.console import print_table


@dataclass
class Stopwatch:
    """Name and seconds of each step, in the order in which the steps ended."""

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print a step when it begins, and its seconds when it has ended."""
        typer.echo(f"[{len(self.steps) + 1}] {name}")
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.steps.append((name, seconds))
        typer.echo(f"      done in {seconds:.1f} s")

    def print_steps(self) -> None:
        """Print all steps and their sum."""
        total = sum(seconds for _, seconds in self.steps)
        rows = [(f"{seconds:7.1f}", name) for name, seconds in [*self.steps, ("all", total)]]
        print_table(("seconds", "step"), rows)
