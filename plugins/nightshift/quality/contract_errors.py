"""Refusals of a delivered file: what its contract expects, what came, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.datasets import ColumnType
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.files.decompression import OverLimitError


class ContractError(NightshiftError):
    """A delivered file does not keep its contract; none of its rows is visible."""

    code = "NS-CONTRACT-001"


class DigestError(ContractError):
    """The file is not the one that the manifest describes."""

    code = "NS-CONTRACT-002"


class RowCountError(ContractError):
    """The file has another number of rows than its manifest says."""

    code = "NS-CONTRACT-003"


class ColumnsError(ContractError):
    """Columns are missing, renamed or delivered twice."""

    code = "NS-CONTRACT-004"


class TypeChangedError(ContractError):
    """Most values of a column have another type than the contract says."""

    code = "NS-CONTRACT-005"


class RefusedRatioError(ContractError):
    """More rows were refused than the contract allows, or fewer were good than it demands."""

    code = "NS-CONTRACT-006"


class UnreadableError(ContractError):
    """The file is no text in UTF-8, or follows a schema version that the contract does not know."""

    code = "NS-CONTRACT-007"


class ReaderFailedError(ContractError):
    """The file made its reader, or the warehouse that stores its values, fail unexpectedly."""

    code = "NS-CONTRACT-008"


class LimitError(ContractError):
    """The file exceeds a limit of its contract."""

    code = "NS-CONTRACT-009"


class BackdatedError(ContractError):
    """The manifest is dated long before we received it, and its partition was known already."""

    code = "NS-CONTRACT-010"


def describe_file(drop: DropManifest) -> str:
    """Return dataset, partition and key of a file, the subject of each refusal."""
    return f"{drop.dataset} of {drop.partition} ({drop.data_key})"


def schema_todo(drop: DropManifest) -> str:
    """Return what a person may do about a file whose schema is not the contract's."""
    dataset, day = drop.dataset, drop.partition
    return (
        "Nothing was written. By mistake: ask upstream to deliver it again, the next run takes the"
        " newer file. On purpose:"
        f"\n      nightshift contract diff {dataset} {day}"
        "    # prints the difference and what to edit in the contract"
        "\n      nightshift migrate                                # after the edit"
        f'\n      nightshift redo --dataset {dataset} --from {day} --reason "…"'
    )


def digest_error(drop: DropManifest, got: str) -> DigestError:
    """Return the refusal of a file that is not the one of its manifest."""
    return DigestError(
        f"{describe_file(drop)} is not the file that its manifest describes: it is corrupt or"
        " truncated.",
        expected=f"sha256 {drop.sha256}, {drop.n_rows} rows",
        got=got,
        todo="Ask upstream to deliver it again.",
    )


def row_count_error(drop: DropManifest, got: str) -> RowCountError:
    """Return the refusal of a file with another number of rows than its manifest says."""
    return RowCountError(
        f"{describe_file(drop)} has another number of rows than its manifest says.",
        expected=f"{drop.n_rows} rows",
        got=f"{got} rows",
        todo="Ask upstream to deliver it again; a truncated file is never used.",
    )


def unreadable_error(drop: DropManifest, reason: str) -> UnreadableError:
    """Return the refusal of a file that no reader understands."""
    return UnreadableError(
        f"{describe_file(drop)} cannot be read.",
        expected="CSV text in UTF-8 with a header, plain or compressed, or Parquet",
        got=reason,
        todo="Ask upstream to deliver it again.",
    )


def over_limit(drop: DropManifest, error: OverLimitError) -> LimitError:
    """Return the refusal of a file that is larger than its contract allows."""
    return LimitError(
        f"{describe_file(drop)} is larger than its contract allows.",
        expected=f"at most {error.maximum:g} by limits.{error.limit}",
        got=error.got,
        todo="Nothing was written. Ask upstream whether the file is right; if it is, raise the"
        " limit in the contract, then:"
        f'\n      nightshift redo --dataset {drop.dataset} --from {drop.partition} --reason "…"',
    )


def accepted_form(column_type: ColumnType) -> str:
    """Return in words how a value of a type is written; docs/values.md has every form."""
    return _ACCEPTED_FORMS[column_type]


_TIMESTAMP_FORM = "YYYY-MM-DD HH:MM[:SS[.ffffff]] {}, or with an offset like +02:00"
_ACCEPTED_FORMS = {
    ColumnType.TEXT: "text in UTF-8 without NUL characters",
    ColumnType.INTEGER: "whole numbers of 64 bits, like 1200 or 12.0, without thousands separators",
    ColumnType.NUMBER: "numbers with a decimal point, like 12.5 or 1e-3, without thousands"
    " separators",
    ColumnType.BOOLEAN: "true or false, t or f, yes or no, 1 or 0",
    ColumnType.DATE: "YYYY-MM-DD",
    ColumnType.UTC_TIMESTAMP: _TIMESTAMP_FORM.format("in UTC"),
    ColumnType.LOCAL_TIMESTAMP: _TIMESTAMP_FORM.format("on the zone's clock"),
}
