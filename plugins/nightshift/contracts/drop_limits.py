"""How large a delivered file may be, before and after it is unpacked.

Manifests and files are written by others. A reader that believes them can be made to fill the
memory by a megabyte, so every size is bounded before it is used. Source: ADR 0040.
"""

from __future__ import annotations

from pydantic import Field

from nightshift.contracts.yaml_document import Frozen

MIB = 1024**2


class DropLimits(Frozen):
    """Upper limits of a delivered file; a file beyond one is refused as soon as that is known.

    Attributes:
        bytes: Size of the file as it is stored in the lake.
        decompressed_bytes: Size of a compressed file's text, or of a Parquet file's columns.
        decompression_ratio: Decompressed size divided by the file's size; counts from 16 MiB on.
            The text of a Parquet file, in which a repeated value is stored once, may be ten times
            as much; that counts from 128 MiB on.
        cell_characters: Length of one value, in bytes of UTF-8.
        columns: Columns of the file, also those that the contract does not know.
        malformed_rows: Rows with another number of fields than the header.
    """

    bytes: int = Field(default=2048 * MIB, ge=1)
    decompressed_bytes: int = Field(default=4096 * MIB, ge=1)
    decompression_ratio: float = Field(default=100, ge=1)
    cell_characters: int = Field(default=65_536, ge=1, le=MIB // 2)
    columns: int = Field(default=1_000, ge=1)
    malformed_rows: int = Field(default=10_000, ge=0)
