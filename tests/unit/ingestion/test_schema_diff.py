"""What ``contract diff`` says of any file: lines that a contract can take up, or a sentence."""

import datetime as dt
import io
import re

import pyarrow as pa
import pytest
import typer
from pyarrow import parquet
from ruamel.yaml import YAML

from nightshift.cli.data.contract import compare, delimiter_note, describe
from nightshift.contracts.datasets import DatasetContract
from nightshift.ingestion.schema_diff import adoption_obstacles, adoption_yaml, compare_schema
from nightshift.lake.drops import DropManifest
from nightshift.quality.files.file_blocks import UnreadableFileError

CONTRACT = DatasetContract(
    name="sales",
    description="Sales.",
    schema_version=1,
    delivery="daily",
    history_start="2013-01-01",
    grain="one sale",
    key=("id",),
    event_timestamp="sold_at",
    columns=(
        {"name": "id", "type": "text"},
        {"name": "sold_at", "type": "local_timestamp"},
        {"name": "amount", "type": "number", "is_nullable": True},
        {"name": "coupon", "type": "boolean", "is_nullable": True},
    ),
)
HEADER = "id,sold_at,amount,coupon"
ROWS = ("1,2013-09-05 10:00,2.5,true", "2,2013-09-05 11:00,3.5,false")


def drop_of(n_rows: int, suffix: str = ".csv") -> DropManifest:
    return DropManifest(
        dataset="sales",
        partition="2013-09-05",
        delivered_at=dt.datetime(2013, 9, 6, 4, tzinfo=dt.UTC),
        data_key=f"landing/sales/dt=2013-09-05/a{suffix}",
        sha256="0" * 64,
        n_rows=n_rows,
        schema_version=1,
    )


def compared(header: str, *rows: str | bytes, encoding: str = "utf-8"):
    data = "\n".join([header, *rows, ""]).encode(encoding)
    drop = drop_of(len(rows))
    return drop, compare_schema(CONTRACT, drop, data)


def adopted(drop, diff) -> DatasetContract:
    """Put the printed lines into the contract, as they say, and read it."""
    said = YAML(typ="safe").load("\n".join(adoption_yaml(CONTRACT, drop, diff)))
    columns = {column["name"]: column for column in CONTRACT.model_dump(mode="json")["columns"]}
    assert len({column["name"] for column in said["columns"]}) == len(said["columns"])
    columns |= {column["name"]: column for column in said["columns"]}
    document = CONTRACT.model_dump(mode="json") | said | {"columns": list(columns.values())}
    return DatasetContract.model_validate(document)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["1st_dep"], ["_1st_dep"]),
        (["Caf\u00e9 name"], ["cafe_name"]),
        (["Gate No", "gate-no"], ["gate_no", "gate_no_2"]),
        (["n" * 80, "n" * 81], ["n" * 63, "n" * 59 + "_2"]),
        (["load_id", "ctid"], ["load_id_2", "ctid_2"]),
        (["Umsatz (\u20ac)", "\u6570"], ["umsatz", "column"]),
        (["Amount", "true", "no"], ["amount_2", "true", "no"]),
    ],
)
def test_added_columns_get_names_that_a_contract_takes(more, names):
    drop, diff = compared(
        f"{HEADER},{','.join(more)}", *(f"{row},{','.join('x' for _ in more)}" for row in ROWS)
    )

    added = [
        column
        for column in adopted(drop, diff).columns
        if column.name not in {c.name for c in CONTRACT.columns}
    ]

    assert [column.name for column in added] == names
    assert [column.delivered_name for column in added] == more


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("02134", "10001"), "text"),
        (("1", "2"), "integer"),
        (("0", "-1"), "integer"),
        (("0.5", "1"), "number"),
        (("2013-09-05", "2013-09-06"), "date"),
        (("", ""), "text"),
    ],
)
def test_the_type_of_an_added_column_is_the_narrowest_that_loses_nothing(values, kind):
    _, diff = compared(
        f"{HEADER},more", *(f"{row},{value}" for row, value in zip(ROWS, values, strict=True))
    )

    assert diff.added == {"more": kind}


def test_names_that_nobody_can_adopt_are_told():
    _, diff = compared(f"{HEADER},,x,x", *(f"{row},7,8,9" for row in ROWS))

    assert diff.notes == ("column 5 has no name", "x is delivered 2 times")
    assert "! column 5 has no name" in describe(diff)


@pytest.mark.parametrize("more", ["amount,extra", "extra,extra"])
def test_a_name_that_is_there_twice_leaves_nothing_to_adopt(more):
    """Ingest refuses such a file under any contract, so no line of a contract helps."""
    _, diff = compared(f"{HEADER},{more}", *(f"{row},7,8" for row in ROWS))

    name = more.partition(",")[0] if more.startswith("amount") else "extra"
    assert adoption_obstacles(CONTRACT, diff) == [
        f"{name} is delivered more than once: nobody knows which of them is meant."
    ]


def test_parquet_may_have_a_name_twice_too():
    names = [*HEADER.split(","), "amount"]
    columns = [["1"], ["2013-09-05 10:00"], ["2.5"], ["true"], ["3"]]
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays([pa.array(one) for one in columns], names), sink)

    diff = compare_schema(CONTRACT, drop_of(1, ".parquet"), sink.getvalue())

    assert diff.repeated == ("amount",)
    assert describe(diff) == ["! amount is delivered 2 times"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_unknown_column_that_is_no_text_is_a_note_and_one_of_the_contract_is_not(suffix):
    """Ingest passes over it: asking upstream for another file would be the wrong advice."""

    def file(**odd: list[bytes | None]) -> bytes:
        times = ["2013-09-05 10:00", "2013-09-05 11:00"]
        known = {"id": ["1", "2"], "sold_at": times, "amount": [2.5, 3.5]}
        table = pa.table({**known, "coupon": ["true", "false"], "extra": ["a", "b"], **odd})
        if suffix == ".parquet":
            buffer = io.BytesIO()
            parquet.write_table(table, buffer)
            return buffer.getvalue()
        rows = zip(*table.to_pydict().values(), strict=True)
        lines = [b",".join(_as_bytes(cell) for cell in row) for row in rows]
        return b"\n".join([",".join(table.column_names).encode(), *lines, b""])

    diff = compare_schema(CONTRACT, drop_of(2, suffix), file(note=[b"caf\xe9", b"tea"]))
    (note,) = diff.notes
    assert re.match("note cannot be read: .*(UTF-8|UTF8)", note), note
    assert diff.added == {"extra": "text"}
    assert (diff.removed, diff.retyped) == ((), {})
    with pytest.raises(UnreadableFileError):
        compare_schema(CONTRACT, drop_of(2, suffix), file(id=[b"caf\xe9", b"tea"]))


def _as_bytes(cell: object) -> bytes:
    return cell if isinstance(cell, bytes) else str(cell).encode()


def test_an_unknown_column_of_lists_is_a_note_and_one_of_the_contract_is_not():
    values = {"id": ["1"], "sold_at": ["2013-09-05 10:00"], "amount": [2.5], "coupon": [True]}

    def compare_table(**more):
        sink = io.BytesIO()
        parquet.write_table(pa.table(values | more), sink)
        return compare_schema(CONTRACT, drop_of(1, ".parquet"), sink.getvalue())

    diff = compare_table(tags=[["a", "b"]])
    assert (diff.added, diff.is_only_noted) == ({}, True)
    assert diff.notes == ("tags holds lists or structures, which no contract has",)
    with pytest.raises(UnreadableFileError, match="amount holds lists or structures"):
        compare_table(amount=[["a", "b"]])


@pytest.mark.parametrize("name", ["a\u00a0b", "a\u200bb", "n" * 256])
def test_a_name_that_no_file_may_have_is_a_sentence(name):
    with pytest.raises(UnreadableFileError, match="the name of column 5"):
        compared(f"{HEADER},{name}", *(f"{row},7" for row in ROWS))


def test_a_similar_name_with_values_of_another_type_is_no_new_name():
    header = HEADER.replace("amount", "amounts")
    rows = [row.replace("2.5", "heavy").replace("3.5", "light") for row in ROWS]

    _, diff = compared(header, *rows)

    assert (diff.renamed, diff.added) == ({}, {"amounts": "text"})
    assert [column.name for column in diff.removed] == ["amount"]


def test_only_the_first_rows_of_a_large_file_are_compared():
    rows = [f"{i},2013-09-05 10:00,2.5,true" for i in range(600_000)]

    _, diff = compared(HEADER, *rows)

    assert diff.is_empty
    assert 0 < diff.n_compared < len(rows)
    assert compared(HEADER, *rows[:1_000])[1].n_compared is None


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        (HEADER, ["1;2;3"] * 20_000, "malformed_rows"),
        (",".join(f"c{i}" for i in range(2_000)), [], "columns"),
        ("", ["1,2"], "its first line is blank"),
    ],
    ids=["malformed rows", "columns", "an empty line"],
)
def test_a_file_that_cannot_be_compared_ends_with_a_sentence(header, rows, says, capsys):
    data = "\n".join([header, *rows, ""]).encode()

    with pytest.raises(typer.Exit) as caught:
        compare(CONTRACT, drop_of(len(rows)), data)

    assert caught.value.exit_code == 2
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            ('1,2013-09-05 10:00,"2,50",true', '2,2013-09-05 11:00,"3,50",true'),
            "amount seems to be number in a form that is not read",
        ),
        (
            ("1,05.09.2013 10:00,1,true", "2,05.09.2013 11:00,1,true"),
            "sold_at seems to be local_timestamp in a form",
        ),
        (
            ("1,2013-09-05 10:00,1,ja", "2,2013-09-05 11:00,1,nein"),
            "coupon seems to be boolean in a form",
        ),
        (("1,2013-09-05,1,true", "2,2013-09-06,1,true"), "sold_at identifies a row"),
    ],
)
def test_another_spelling_is_a_sentence_and_no_new_column(rows, says):
    _, diff = compared(HEADER, *rows)

    assert [line[: len(says)] for line in adoption_obstacles(CONTRACT, diff)] == [says]
    assert ", like '" in describe(diff)[0]


def test_a_missing_event_timestamp_is_a_sentence():
    _, diff = compared("id,amount,coupon", "1,2.5,true")

    assert adoption_obstacles(CONTRACT, diff) == [
        "sold_at is missing, but identifies a row: no version can be without it."
    ]


def test_a_column_of_another_kind_gets_one_of_its_own():
    drop, diff = compared(
        HEADER, *(row.replace("2.5", "heavy").replace("3.5", "light") for row in ROWS)
    )

    assert adoption_obstacles(CONTRACT, diff) == []
    assert adopted(drop, diff).columns[-1].model_dump(include={"name", "source"}) == {
        "name": "amount_text",
        "source": "amount",
    }


def test_one_odd_value_of_a_nearly_empty_column_changes_no_type():
    rows = [f"{i},2013-09-05 10:00,{'n/a' if not i else ''},true" for i in range(1_000)]

    assert compared(HEADER, *rows)[1].is_empty


def test_another_delimiter_is_named():
    _, diff = compared(HEADER.replace(",", ";"), *(row.replace(",", ";") for row in ROWS))

    assert delimiter_note(diff) == [
        "The header is one column with 3 ';': another delimiter? Only commas are read."
    ]


@pytest.mark.parametrize(
    ("rows", "encoding"), [(("1,caf\u00e9,1,true",), "latin-1"), (("1,x,1,true",), "utf-16")]
)
def test_a_file_that_cannot_be_read_is_named_as_such(rows, encoding):
    with pytest.raises(UnreadableFileError, match="UTF-"):
        compared(HEADER, *rows, encoding=encoding)


def test_long_cells_and_odd_quotes_are_no_obstacle():
    _, diff = compared(f"{HEADER},note", f"{ROWS[0]},{'n' * 200_000}", f'{ROWS[1]},"x"y')

    assert diff.added == {"note": "text"}
