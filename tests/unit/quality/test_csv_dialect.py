"""The CSV dialect: odd quotes cost a line and never merge rows, whatever the chunk size."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightshift.quality.files import csv_dialect
from nightshift.quality.files.file_blocks import UnreadableFileError, count_rows, read_cells


def read(text: str | bytes, chunk_bytes: int = 1 << 20):
    """Return header and rows; a malformed row is its line."""
    data = text.encode() if isinstance(text, str) else text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_dialect, "CHUNK_BYTES", chunk_bytes)
        return read_cells(data, "a.csv")


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (
            '1,x\n2,"open\n3,n\n4,n\n5,close"\n6,z\n',
            [["1", "x"], '2,"open', ["3", "n"], ["4", "n"], '5,close"', ["6", "z"]],
        ),
        ('1,"never\n2,x\n', ['1,"never', ["2", "x"]]),
        ('1,"a \\"b\\" c"\n2,x\n', ['1,"a \\"b\\" c"', ["2", "x"]]),
        ('1,"x"y\n2,x\n', ['1,"x"y', ["2", "x"]]),
        ('1,5" pipe\n2,x\n', ['1,5" pipe', ["2", "x"]]),
        ('1,"a\nb"\n2,x\n', [["1", "a\nb"], ["2", "x"]]),
        ('1,"a\r\n\r\nb"\r\n2,"a\rb"\r\n', [["1", "a\r\n\r\nb"], ["2", "a\rb"]]),
        ('1,"say ""x"", y"\n2,""\n3,""""\n', [["1", 'say "x", y'], ["2", ""], ["3", '"']]),
        ('1,"open\n2,"x",y\n3,z\n', ['1,"open', '2,"x",y', ["3", "z"]]),
        ('1,"open\n2,","\n3,z",4\n5,w\n', ['1,"open', ["2", ","], '3,z",4', ["5", "w"]]),
        ("1,x\r2,y\n3,z\r\n", ["1,x\r2,y", ["3", "z"]]),
        ("1,x\r\n2,y\n\n3,z", [["1", "x"], ["2", "y"], ["3", "z"]]),
        ("\n\r\n1,x\n\n\r\n2,y,z\n\n\n", [["1", "x"], "2,y,z"]),
        ("", []),
    ],
)
def test_lines_outside_of_the_dialect_are_malformed_and_others_are_read(lines, rows, chunk_bytes):
    data = ("id,note\n" + lines).encode()

    assert read(data, chunk_bytes) == (["id", "note"], rows)
    assert count_rows(data, "a.csv") == len(rows)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_between_two_odd_quotes_are_kept_whatever_ends_a_line(end):
    """Neither end of the span has as many commas as a row: only the lines between show it."""
    lines = ["x,y,z", '1,"open', "2,b,c", "", "3,d,e", 'close",f', "4,g,h"]

    assert read("".join(line + end for line in lines))[1] == [
        '1,"open',
        ["2", "b", "c"],
        ["3", "d", "e"],
        'close",f',
        ["4", "g", "h"],
    ]


def test_a_single_column_has_malformed_lines_and_empty_values_too():
    assert read('a\n""\n\nx\n1,2\n"q"w\n')[1] == [[""], ["x"], "1,2", '"q"w']


def test_a_quote_that_is_never_closed_costs_one_row_of_a_large_file():
    lines = "".join(f"{i},plain\n" for i in range(150_000))

    rows = read(f'id,note\n0,"open\n{lines}')[1]

    assert [row for row in rows if isinstance(row, str)] == ['0,"open']
    assert len(rows) == 150_001


TEXT = "id,note\r\n1,caf\u00e9\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16-LE"),
        (TEXT.encode("utf-16-be"), "UTF-16-BE"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (TEXT.encode("latin-1"), "row 2 is not text in UTF-8"),
        (b"id,note\n1,x\xe9,y\n", "row 2 is not text in UTF-8"),
        (b"id,n\xe9te\n1,x\n", "header is not UTF-8"),
        (b"id,note\r1,x\r", "ends with CR, "),
        (b"id,note\r\r\n1,x\r\r\n", "ends with CR CR LF"),
        (b"\nid,note\n1,x\n", "first line is blank"),
        (b"\r\nid,note\r\n1,x\r\n", "first line is blank"),
        (b"\xef\xbb\xbf\nid,note\n1,x\n", "first line is blank"),
        (b"id,no\0te\n1,x\n", "control character"),
        (b'id,"no\nte"\n1,x\n', "header"),
        (b'id,no"te\n1,x\n', "header"),
    ],
)
def test_a_file_of_another_encoding_or_form_is_refused_by_name(data, says):
    with pytest.raises(UnreadableFileError, match=says) as caught:
        read(data)
    assert "x" not in str(caught.value).replace("not text", "").replace(
        "UTF", ""
    )  # no value of a row


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(csv_dialect, "MAXIMUM_LINE_BYTES", 3_000_000)

    with pytest.raises(UnreadableFileError, match="longer than 3,000,000 bytes"):
        read(b"id,note\n1," + b"n" * 5_000_000)
    assert len(read(b"id,note\n1," + b"n" * 200_000 + b"\n")[1][0][1]) == 200_000


def test_a_file_is_refused_when_the_parser_made_another_number_of_rows(monkeypatch):
    monkeypatch.setattr(csv_dialect.CheckedLines, "_is_plain", lambda *_: True)

    with pytest.raises(UnreadableFileError, match="was parsed as"):
        read('id,note\n1,"open\n2,x\n')


ODD = st.text(st.sampled_from('a,"\n\r;'), max_size=40)


@settings(deadline=None)  # a busy machine is no fault
@given(ODD, st.integers(1, 9))
def test_the_size_of_a_chunk_means_nothing(text, chunk_bytes):
    assert read("x,y\n" + text, chunk_bytes) == read("x,y\n" + text)


@settings(deadline=None)  # a busy machine is no fault
@given(
    st.lists(
        st.lists(st.text(st.sampled_from('a"\n\r ;'), max_size=6), min_size=3, max_size=3),
        max_size=6,
    )
)
def test_what_a_strict_writer_wrote_comes_back(rows):
    """Texts without commas cannot look like rows of three fields, so every line break is text."""
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["x", "y", "z"], *rows])

    assert read(sink.getvalue()) == (["x", "y", "z"], rows)


@settings(deadline=None)  # a busy machine is no fault
@given(ODD)
def test_every_line_that_no_quote_spans_is_one_row(text):
    plain = text.replace('"', "")
    *ended, last = plain.split("\n")
    lines = [line for line in ended if line not in ("", "\r")] + [last] * bool(last)

    assert len(read("x,y\n" + plain)[1]) == len(lines)
