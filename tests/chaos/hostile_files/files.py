"""Seeded hostile files: what a careless exporter, a broken disk or an attacker could deliver."""

from __future__ import annotations

import bz2
import gzip
import io
import random
from collections.abc import Callable

import pyarrow as pa
from pyarrow import parquet

HEADER = b"shop,hour_at,visitors,valid_to\n"
File = tuple[bytes, int, str]
"""Bytes, the number of rows that its manifest claims, and how its name ends."""


def _rows(chance: random.Random, day: str, n: int) -> list[bytes]:
    return [
        f"hill{chance.randrange(99)},{day} {n % 24:02d}:{n % 60:02d},{n},".encode()
        for n in range(n)
    ]


def _packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".csv.gz":
        return gzip.compress(data, 6)
    if suffix == ".csv.bz2":
        return bz2.compress(data)
    return pa.compress(data, codec="zstd", asbytes=True) if suffix == ".csv.zst" else data


def _table(columns: dict[str, object], **options: object) -> bytes:
    columns = columns | {"valid_to": pa.nulls(len(columns["shop"]), pa.string())}
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def _suffix(chance: random.Random) -> str:
    return chance.choice([".csv", ".csv.gz", ".csv.bz2", ".csv.zst", ".parquet"])


def noise(chance: random.Random, day: str) -> File:
    return chance.randbytes(chance.randrange(1, 200_000)), chance.randrange(10), _suffix(chance)


def flipped(chance: random.Random, day: str) -> File:
    suffix = chance.choice([".csv", ".csv.gz", ".csv.bz2", ".csv.zst"])
    data = bytearray(_packed(HEADER + b"\n".join(_rows(chance, day, 500)), suffix))
    for _ in range(chance.randrange(1, 30)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data), 500, suffix


def cut(chance: random.Random, day: str) -> File:
    suffix = _suffix(chance)
    rows = _rows(chance, day, 300)
    whole = (
        _table({"shop": ["a"] * 300, "hour_at": [day] * 300, "visitors": list(range(300))})
        if suffix == ".parquet"
        else _packed(HEADER + b"\n".join(rows), suffix)
    )
    return whole[: chance.randrange(len(whole))], 300, suffix


def bomb(chance: random.Random, day: str) -> File:
    suffix = chance.choice([".csv.gz", ".csv.bz2", ".csv.zst"])
    line = chance.choice([b"hill,x,1,\n", b"x\n", b'"', b"\n", b"0" * 900_000 + b",x,1,\n", b"\0"])
    n_bytes = (20 if suffix == ".csv.bz2" else chance.choice([20, 40, 60])) * 1024**2
    return (
        _packed(HEADER + line * (n_bytes // len(line)), suffix),
        chance.choice([1, 1500, 499_999, 10**9]),
        suffix,
    )


def long_values(chance: random.Random, day: str) -> File:
    n, size = chance.randrange(1, 40), chance.choice([60_000, 70_000, 900_000, 3_000_000])
    return (
        HEADER + b"".join(b"h" * size + f",{day} 10:{i:02d},1,\n".encode() for i in range(n)),
        n,
        ".csv",
    )


def wide(chance: random.Random, day: str) -> File:
    n = chance.choice([999, 5_000, 200_000])
    return (
        HEADER[:-1] + b"," + b",".join(b"c%d" % i for i in range(n)) + b"\n" + b"," * n + b"\n",
        1,
        ".csv",
    )


def odd_quotes(chance: random.Random, day: str) -> File:
    soup = b"".join(
        chance.choice([b'"', b",", b"\n", b"\r", b"a", b'""', b"\\", b"\0", b"'"])
        for _ in range(20_000)
    )
    return HEADER + soup, chance.randrange(5_000), ".csv"


def odd_values(chance: random.Random, day: str) -> File:
    values = [
        "9999-12-31 23:59:59", "0001-01-01 00:00", "-1", "1e308", "9" * 400, "\u202e", "NaN",
        "inf", "2013-02-30 10:00",
        "\ud83d\udca3".encode("utf-16", "surrogatepass").decode("utf-16"), "\0", "x" * 5000,
        "2013-03-10 02:30",
    ]  # fmt: skip
    rows = [
        ",".join(chance.choice([*values, f"{day} 10:00", "3"]) for _ in range(4))
        for _ in range(3000)
    ]
    return HEADER + "\n".join(rows).encode("utf-8", "replace"), 3000, ".csv"


def encodings(chance: random.Random, day: str) -> File:
    text = (HEADER + b"\n".join(_rows(chance, day, 50))).decode()
    return (
        text.encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "utf-7", "cp500", "latin-1"])),
        50,
        ".csv",
    )


def refused_rows(chance: random.Random, day: str) -> File:
    n = 400_000
    return HEADER + b"".join(b"%d,x,%d,\n" % (i, i) for i in range(n)), n, ".csv"


def parquet_runs(chance: random.Random, day: str) -> File:
    n = chance.choice([100_000, 600_000])
    value = "x" * chance.choice([10, 50_000, 200_000])
    once = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), [value])
    return (
        _table({"shop": once, "hour_at": once, "visitors": once}),
        chance.choice([1, n]),
        ".parquet",
    )


def parquet_page(chance: random.Random, day: str) -> File:
    n = 1_000
    column = ["0" * 50_000] * n
    options = {
        "use_dictionary": False,
        "compression": chance.choice(["zstd", "gzip", "snappy"]),
        "data_page_size": 2**30,
    }
    return (
        _table({"shop": column, "hour_at": ["x"] * n, "visitors": [1] * n}, **options),
        n,
        ".parquet",
    )


def parquet_damaged(chance: random.Random, day: str) -> File:
    n = 2000
    columns = {"shop": ["hill"] * n, "hour_at": [f"{day} 10:00"] * n, "visitors": list(range(n))}
    data = bytearray(_table(columns, compression=chance.choice(["none", "zstd"])))
    where = range(len(data)) if chance.random() < 0.5 else range(len(data) - 900, len(data))
    for _ in range(chance.randrange(1, 12)):
        data[chance.choice(where)] = chance.randrange(256)
    return bytes(data), n, ".parquet"


def parquet_nested(chance: random.Random, day: str) -> File:
    deep: object = "x"
    for _ in range(chance.choice([1, 20])):
        deep = [deep]
    return _table({"shop": [deep], "hour_at": ["x"], "visitors": [{"a": 1}]}), 1, ".parquet"


def allowed_refusals(n: int, day: str) -> bytes:
    """Return distinct rows of which all but the first are refused."""
    first = f"hill,{day} 10:00,1,\n".encode()
    # Another day: a time that is none would change the type of the column.
    return (
        HEADER + first + b"".join(b"hill%d,1999-01-01 10:00,%d,\n" % (i, i) for i in range(n - 1))
    )


def one_row_repeated(n: int, day: str) -> bytes:
    return HEADER + f"hill,{day} 10:00,1,\n".encode() * n


def every_key_twice(n: int, day: str) -> bytes:
    """Return rows that are there twice, far from each other."""
    half = b"".join(f"hill{i},{day} 10:00:{i % 60:02d},{i},\n".encode() for i in range(n // 2))
    return HEADER + half * 2


KINDS: list[Callable[[random.Random, str], File]] = [
    noise, flipped, cut, bomb, bomb, long_values, wide, odd_quotes, odd_values, encodings,
    refused_rows, parquet_runs, parquet_page,
    parquet_damaged, parquet_damaged, parquet_nested,
]  # fmt: skip


def hostile_file(seed: int, day: str) -> tuple[str, File]:
    """Return the kind and the file of a seed."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    kind = KINDS[seed % len(KINDS)]
    return kind.__name__, kind(chance, day)
