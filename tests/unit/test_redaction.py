"""No message of a database brings a row's value into a log, and what a person needs stays."""

from __future__ import annotations

import traceback

import psycopg
import pytest

from nightshift.redaction import without_values
from nightshift.resource_errors import translate_resource_errors

SECRET = "Anna Muster"


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (
            (
                'duplicate key value violates unique constraint "people_pkey"\n'
                "DETAIL:  Key (name)=(Anna Muster) already exists."
            ),
            'duplicate key value violates unique constraint "people_pkey"',
        ),
        (
            (
                'null value in column "id" violates not-null constraint\n'
                "DETAIL:  Failing row contains (null, Anna Muster)."
            ),
            'null value in column "id" violates not-null constraint',
        ),
        (
            (
                'invalid input syntax for type integer: "Anna Muster"\n'
                'CONTEXT:  COPY people, line 3, column id: "Anna Muster"'
            ),
            "invalid input syntax for type integer: …\nCONTEXT:  COPY people, line 3, column id",
        ),
        (
            'extra data after last column\nCONTEXT:  COPY people, line 1: "1,Anna Muster"',
            "extra data after last column\nCONTEXT:  COPY people, line 1",
        ),
        (
            'date/time field value out of range: "Anna Muster"',
            "date/time field value out of range: …",
        ),
        (
            'value "Anna Muster" is out of range for type integer',
            "a value is out of range for type integer",
        ),
        ('malformed array literal: "Anna Muster"', "malformed array literal: …"),
        (
            (
                "Database Error in model stg_people\n  invalid input syntax for type date:"
                ' "Anna Muster"\n  DETAIL:  Key (a)=(Anna Muster)'
            ),
            "Database Error in model stg_people\n  invalid input syntax for type date: …",
        ),
        ('relation "raw.people" does not exist', 'relation "raw.people" does not exist'),
    ],
)
def test_only_values_are_taken_out_of_a_message(message, left):
    assert without_values(message) == left
    assert SECRET not in left


def test_the_cause_of_an_error_is_redacted_too():
    cause = psycopg.errors.UniqueViolation(
        "duplicate key\nDETAIL:  Key (name)=(Anna Muster) already exists."
    )
    with pytest.raises(RuntimeError) as caught, translate_resource_errors():
        raise RuntimeError("it failed") from cause
    assert SECRET not in "".join(traceback.format_exception(caught.value))
