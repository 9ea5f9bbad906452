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
    """Measure the steps of a run.

    Attributes:
        steps: Name and seconds of each step, in the order in which the steps ended.
    """

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print a step when it begins, and its seconds when it has ended."""
        number = len(self.steps) + 1
        typer.echo(f"[{number}] {name}")
        started = time.monotonic()
        # A step that fails is not measured: its error ends the run.
        yield
        seconds = time.monotonic() - started
        self.steps.append((name, seconds))
        typer.echo(f"      done in {seconds:.1f} s")

    def print_steps(self) -> None:
        """Print all steps and their sum.

        Steps that ran at the same time count with their full seconds.
        """
        total = sum(seconds for _, seconds in self.steps)
        rows = []
        for name, seconds in [*self.steps, ("all", total)]:
            rows.append((f"{seconds:7.1f}", name))
        print_table(("seconds", "step"), rows)
