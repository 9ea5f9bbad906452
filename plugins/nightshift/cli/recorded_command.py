"""Record a command that is an act of a person: arguments, name, reason and outcome."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from nightshift.cli.arguments import Reason, actor
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.control_tables.acts import Act

Arguments = dict[str, Any]
Command = Callable[..., Any]
Condition = bool | Callable[[Arguments], bool]
"""A fact about every call of a command; or a function of the call's arguments."""


@dataclass(frozen=True)
class recorded:  # noqa: N801 - used as a decorator
    """Decorate a command that is an act of a person.

    It records the act in ``ops.acts``. A command without the option ``--reason`` gets it. On a
    terminal a missing reason is asked for.

    Attributes:
        name: Stable name of the act.
        needs_reason: Whether readers see the change.
        private: Arguments that may hold values of rows.
        must_be_recorded: False for what a broken warehouse must not stop.
        unless: Name of an option with which the command only looks, such as ``dry_run``.
    """

    name: str
    needs_reason: Condition = False
    private: tuple[str, ...] = ()
    must_be_recorded: Condition = True
    unless: str = ""

    def __call__(self, command: Command) -> Command:
        """Return the command that records itself."""
        # Typer reads `__signature__` as it is, so the texts of annotations are resolved here.
        signature = inspect.signature(command, eval_str=True)
        parameters = list(signature.parameters.values())
        names = {parameter.name for parameter in parameters}
        # Some commands call their reason a note.
        reason_name = "note" if "note" in names else "reason"
        is_added = reason_name not in names
        if is_added:
            parameters.append(_reason_option())
        extended = inspect.Signature(parameters)

        @functools.wraps(command)
        def run(
            *args: object,
            **options: object,
        ) -> object:
            bound = extended.bind(*args, **options)
            bound.apply_defaults()
            arguments = dict(bound.arguments)
            reason = arguments.pop(reason_name)

            only_looks = self._only_looks(arguments)
            if not only_looks:
                reason = self._ask_for(reason, arguments)
            passed = dict(arguments)
            if not is_added:
                passed[reason_name] = reason
            if only_looks:
                return command(**passed)

            # Imported late, like all that a command needs: `nightshift --help` is quick.
            from nightshift.warehouse.control_tables.acts import recorded_act

            # The command's own way to its settings: a test replaces it, `migrate` is an admin.
            names = getattr(command, "__globals__", {})
            read_settings = names.get("load_settings", load_settings)
            settings = read_settings()
            act = self._act(arguments, reason)
            with recorded_act(settings, act):
                return command(**passed)

        # Tests of the pages ask it which commands need a reason.
        run.recorded = self  # type: ignore[attr-defined]
        run.__signature__ = extended  # type: ignore[attr-defined]
        # Typer also reads the hints, which name what the command's own module imports.
        run.__annotations__ = {part.name: part.annotation for part in parameters}
        return run

    def _only_looks(self, arguments: Arguments) -> bool:
        return bool(self.unless) and bool(arguments[self.unless])

    def is_reason_needed(self, arguments: Arguments) -> bool:
        """Return whether the act with these arguments is refused without a reason.

        Args:
            arguments: The command's arguments by name, as Typer passes them.
        """
        return not self._only_looks(arguments) and _holds(self.needs_reason, arguments)

    def _ask_for(self, reason: str, arguments: Arguments) -> str:
        """Return the reason; ask for a missing one where a person can answer."""
        is_missing = self.is_reason_needed(arguments) and not reason.strip()
        if is_missing and sys.stdin.isatty():
            return str(typer.prompt("Reason (kept with your name)"))
        return reason

    def _act(
        self,
        arguments: Arguments,
        reason: str,
    ) -> Act:
        """Return the act, with all that is recorded of it.

        A person at a terminal is named as the ledger names whoever runs a command, so that an act
        and the loads that came of it can be found together.
        """
        from nightshift.warehouse.control_tables.acts import Act

        return Act(
            self.name,
            "cli",
            actor(),
            reason,
            arguments,
            frozenset(self.private),
            needs_reason=self.is_reason_needed(arguments),
            must_be_recorded=_holds(self.must_be_recorded, arguments),
        )


def _holds(condition: Condition, arguments: Arguments) -> bool:
    if callable(condition):
        return condition(arguments)
    return condition


def _reason_option() -> inspect.Parameter:
    return inspect.Parameter(
        "reason",
        inspect.Parameter.KEYWORD_ONLY,
        default="",
        annotation=Reason,
    )
