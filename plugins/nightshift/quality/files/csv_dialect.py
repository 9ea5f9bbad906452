"""Check the CSV dialect of a drop before Arrow parses it: RFC 4180, LF or CRLF, UTF-8.

Arrow accepts misplaced quotes: it reads ``"x"y`` as ``xy``, and a quote that is never closed
swallows rows. So each line that does not follow the dialect is replaced by one malformed row, and
every line is counted without a parser. Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Positions = npt.NDArray[np.int64]

MAXIMUM_LINE_BYTES = 16 * 1024**2
"""A line is held in memory until its end has come."""
MAXIMUM_RECORD_BYTES = 512 * 1024
"""A quoted field that is still open after so many bytes was opened by a stray quote. Below Arrow's
block of 1 MiB.
"""
CHUNK_BYTES = 128 * 1024
_ENCODING_BYTES = 4096
_QUOTE, _COMMA, _LF, _CR = b'",\n\r'
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_RECORD = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+(?:\r?\n|\Z)")
_OPEN_RECORD = re.compile(rb"(?:" + _FIELD + rb',)*+"[^"]*+(?:""[^"]*+)*+\Z')
"""A record that may be completed by the next bytes."""
_FIELD_END = re.compile(_FIELD + rb"(,|\r?\n|\Z)")
_BLANK = (b"\n", b"\r\n")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class DialectError(ValueError):
    """A header or a file does not follow the dialect."""


def split_header(head: bytes) -> list[str]:
    """Return the names in the first line of a file; none of an empty file.

    Args:
        head: The beginning of the file, its first line in full.

    Raises:
        DialectError: It is not text in UTF-8, or no record of the dialect that ends with its line.
    """
    encoding = _detect_other_encoding(head)
    if encoding:
        raise DialectError(f"it is {encoding}, not UTF-8")
    line = head[: head.find(b"\n") + 1 or len(head)]
    # What a program writes that has CRLF written in the text mode of Windows.
    if line.endswith(b"\r\r\n"):
        raise DialectError("a line of it ends with CR CR LF, not with LF or CRLF")
    if _has_lone_cr(line):
        raise DialectError("a line of it ends with CR, not with LF or CRLF")
    if line.removeprefix(codecs.BOM_UTF8) in _BLANK:
        raise DialectError("its first line is blank, and not the names of its columns")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DialectError("its header is not UTF-8") from None
    if not _RECORD.fullmatch(text.encode()):
        raise DialectError(
            "a quote of its header is not where RFC 4180 has it, or the header has more than one"
            " line"
        )
    if any(character < " " and character != "\t" for character in text.rstrip("\r\n")):
        raise DialectError("its header has a control character")
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise DialectError(f"its header is no line of CSV: {error}") from None


def _detect_other_encoding(head: bytes) -> str:
    """Return the encoding that a mark or NUL bytes show; empty for UTF-8 and its relatives."""
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name
    start = head[:_ENCODING_BYTES]
    if start.count(b"\0") * 4 <= len(start):
        return ""
    is_little_endian = start[1::2].count(b"\0") > start[::2].count(b"\0")
    return "UTF-16-LE" if is_little_endian else "UTF-16-BE"


class CheckedLines:
    """A file to be read once: the bytes of a CSV file, with lines outside of the dialect replaced.

    A line is outside of the dialect when a quote stands in a field that does not begin with one,
    when something other than a comma follows a closing quote, or when it has a CR without LF
    outside of quotes. So is a line whose quoted field spans lines that look like rows themselves,
    because they have as many commas as a row, or whose record has another number of fields once it
    is complete.

    Args:
        stream: The uncompressed bytes.
        n_columns: Fields of a row.

    Attributes:
        n_lines: Lines outside of quotes that are not blank, the header too; complete at the end.
    """

    def __init__(self, stream: pa.NativeFile, n_columns: int) -> None:
        self._stream, self._n_columns = stream, n_columns
        self._chunks = self._checked()
        self._unread = memoryview(b"")
        self._replaced: dict[str, str] = {}
        self._n_replaced = 0
        self._error: Exception | None = None
        self.n_lines = 0
        self.closed = False

    def readable(self) -> bool:
        """Return true, as Arrow expects of a file."""
        return True

    def close(self) -> None:
        """End the reading."""
        self.closed = True

    def read(self, n_bytes: int = -1) -> memoryview:
        """Return at most that many bytes, but at least one; none at the end or after an error."""
        if not self._unread:
            try:
                self._unread = memoryview(next(self._chunks, b""))
            except Exception as error:  # noqa: BLE001  (raised by `raise_error`)
                # Arrow would keep an error, whose frames keep the parser, which keeps what it has
                # read in advance: a circle through C++ that nobody frees, of up to 32 MiB a file.
                self._error = error
        chunk = self._unread if n_bytes < 0 else self._unread[:n_bytes]
        self._unread = self._unread[len(chunk) :]
        return chunk

    def raise_error(self) -> None:
        """Raise what ended the bytes early; to be called before anything is made of them."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def original(self, text: str) -> str:
        """Return the line that a malformed row replaces, or the row itself."""
        return self._replaced.pop(text, text)

    def _checked(self) -> Iterator[bytes]:
        """Yield complete records."""
        incomplete = b""
        while True:
            chunk = self._stream.read(CHUNK_BYTES)
            is_end = not chunk
            complete, incomplete = self._split(incomplete + chunk, is_end)
            if len(incomplete) > MAXIMUM_LINE_BYTES:
                raise DialectError(f"a line is longer than {MAXIMUM_LINE_BYTES:,} bytes")
            if complete:
                yield complete
            if is_end:
                return

    def _split(self, data: bytes, is_end: bool) -> tuple[bytes, bytes]:
        """Return the complete records, and the rest that needs more bytes."""
        if not data:
            return b"", b""
        end = len(data) if is_end else _end_of_lines(data)
        if end and self._is_plain(data[:end]):
            return data[:end], data[end:]
        if not end and len(data) < MAXIMUM_RECORD_BYTES:
            return b"", data
        return self._with_replaced_lines(data, is_end)

    def _is_plain(self, data: bytes) -> bool:
        """Count complete records if all of them follow the dialect, as in nearly all files."""
        bytes_ = np.frombuffer(data, np.uint8)
        if _has_lone_cr(data):
            return False
        is_end = bytes_ == _LF
        if _QUOTE in data:
            quotes = np.flatnonzero(bytes_ == _QUOTE)
            if not _are_quotes_at_edges(bytes_, quotes):
                return False
            lines = np.flatnonzero(is_end)
            if self._may_hide_rows(bytes_, quotes, lines):
                return False
            is_end[lines[np.searchsorted(quotes, lines) % 2 == 1]] = False
        n_ends = int(np.count_nonzero(is_end)) + (not data.endswith(b"\n"))
        self.n_lines += n_ends - _count_blank(bytes_, is_end, has_cr=_CR in data)
        return True

    def _may_hide_rows(
        self, bytes_: npt.NDArray[np.uint8], quotes: Positions, lines: Positions
    ) -> bool:
        """Return whether a record that spans lines is no row, or has lines that look like rows.

        Args:
            bytes_: The records.
            quotes: Where their quotes are.
            lines: Where their lines end.
        """
        is_inside = np.searchsorted(quotes, lines) % 2 == 1
        if not is_inside.any():
            return False
        # The lines of such a record: its first one, those between, and its last one.
        continues = np.concatenate([[False], is_inside[:-1]])
        first, between, last = is_inside & ~continues, is_inside & continues, ~is_inside & continues
        if first.sum() != last.sum():  # the last record has no line's end
            return True
        commas = np.flatnonzero(bytes_ == _COMMA)
        is_full = np.diff(np.searchsorted(commas, lines), prepend=0) >= self._n_columns - 1
        outside = commas[np.searchsorted(quotes, commas) % 2 == 0]
        # A record starts after the line before its first one.
        starts = np.concatenate([[0], lines[:-1]])[first]
        n_fields = np.searchsorted(outside, lines[last]) - np.searchsorted(outside, starts) + 1
        are_ends_full = is_full[first] & is_full[last]
        are_no_rows = n_fields != self._n_columns
        return bool((is_full & between).any() or are_ends_full.any() or are_no_rows.any())

    def _with_replaced_lines(self, data: bytes, is_end: bool) -> tuple[bytes, bytes]:
        """Return the records, bad lines replaced, and the rest that needs more bytes."""
        parts: list[bytes] = []
        # The rest is checked once its line's end has come.
        start, stop = 0, len(data) if is_end else data.rfind(b"\n") + 1
        while start < stop:
            record = _RECORD.match(data, start, stop)
            may_continue = not is_end and stop - start < MAXIMUM_RECORD_BYTES
            if record is None and may_continue and _OPEN_RECORD.match(data, start, stop):
                break
            if record and not self._hides_rows(record[0]):
                end = record.end()
                parts.append(record[0])
            else:
                end = data.find(b"\n", start, stop) + 1 or stop
                parts.append(self._replace(data[start:end]))
            self.n_lines += data[start:end] not in _BLANK
            start = end
        return b"".join(parts), data[start:]

    def _hides_rows(self, record: bytes) -> bool:
        """Return whether a record that spans lines is no row, too long, or has lines like rows."""
        lines = record.rstrip(b"\r\n").split(b"\n")
        if len(lines) == 1:
            return False
        are_ends_full = min(lines[0].count(b","), lines[-1].count(b",")) >= self._n_columns - 1
        # A line of CRLF keeps its CR here, which no field outside of quotes may have.
        between = [line.removesuffix(b"\r") for line in lines[1:-1]]
        is_between = any(_count_fields(line) == self._n_columns for line in between if line)
        return (
            are_ends_full
            or is_between
            or _count_fields(record) != self._n_columns
            or len(record) > MAXIMUM_RECORD_BYTES
        )

    def _replace(self, line: bytes) -> bytes:
        """Return a row that Arrow calls malformed, and remember the line that it replaces."""
        self._n_replaced += 1
        # A malformed row has one field more or less than the header.
        name = f"\x00{self._n_replaced}" + ("," if self._n_columns == 1 else "")
        self._replaced[name] = line.rstrip(b"\r\n").decode("utf-8", "replace")
        return name.encode() + b"\n"


def _count_fields(record: bytes) -> int:
    """Return how many fields a record has, 0 for a text that is none."""
    if not _RECORD.fullmatch(record):
        return 0
    return 1 + sum(bool(match[1] == b",") for match in _FIELD_END.finditer(record))


def _count_blank(
    bytes_: npt.NDArray[np.uint8], is_end: npt.NDArray[np.bool_], *, has_cr: bool
) -> int:
    """Return how many lines are blank; a line has ended before the first one.

    Args:
        bytes_: Lines.
        is_end: Where a line ends that is outside of quotes.
        has_cr: Whether they have a CR at all.
    """
    n_blank = int(is_end[0]) + int(np.count_nonzero(is_end[1:] & is_end[:-1]))
    if not has_cr:
        return n_blank
    is_cr = bytes_[:-1] == _CR
    begins = np.concatenate([[True], is_end[:-2]])
    return n_blank + int(np.count_nonzero(begins & is_cr & is_end[1:]))


def _end_of_lines(data: bytes) -> int:
    """Return the end of the last line outside of quotes, if all quotes are valid; 0 for none."""
    end = data.rfind(b"\n") + 1
    if not end or _QUOTE not in data[:end]:
        return end
    bytes_ = np.frombuffer(data, np.uint8)
    quotes, lines = np.flatnonzero(bytes_ == _QUOTE), np.flatnonzero(bytes_ == _LF)
    outside = lines[np.searchsorted(quotes, lines) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _has_lone_cr(data: bytes) -> bool:
    """Return whether a CR is not followed by LF; within quotes it is checked again, and kept."""
    return _CR in data and data.count(b"\r") != data.count(b"\r\n")


def _are_quotes_at_edges(bytes_: npt.NDArray[np.uint8], quotes: Positions) -> bool:
    """Return whether each opening quote begins a field, and each closing one ends it.

    A doubled quote within quotes counts as one that closes and one that opens.
    """
    if len(quotes) % 2:
        return False
    edged = np.concatenate([[_LF], bytes_, [_LF]]).astype(np.uint8)
    before, after = edged[quotes[::2]], edged[quotes[1::2] + 2]
    opens = (before == _COMMA) | (before == _LF) | (before == _QUOTE)
    # _has_lone_cr refuses a CR without LF.
    closes = (after == _COMMA) | (after == _LF) | (after == _CR) | (after == _QUOTE)
    return bool(opens.all() and closes.all())
