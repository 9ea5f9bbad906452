"""A Parquet file that ends the process of its reader ends only a child."""

from __future__ import annotations

import pytest
from tests.chaos.hostile_files.files import hostile_file

from nightshift.contracts.drop_limits import DropLimits
from nightshift.quality.files.file_blocks import UnreadableFileError, read_header
from nightshift.quality.files.parquet_pages import BrokenPageError
from nightshift.quality.files.parquet_sandbox import read_in_sandbox

DEADLY = 46
"""Seed of a file with some damaged bytes in its footer, on which Arrow 25 calls ``terminate``."""


def test_a_deadly_file_is_refused_and_this_process_lives(tmp_path):
    kind, (data, _, suffix) = hostile_file(DEADLY, "2013-02-01")
    (tmp_path / "a.parquet").write_bytes(data)

    assert (kind, suffix) == ("parquet_damaged", ".parquet")
    with pytest.raises(UnreadableFileError, match="died of it"):
        read_header(data, "a.parquet")
    with pytest.raises(BrokenPageError, match="SIGABRT"):
        read_in_sandbox(tmp_path / "a.parquet", DropLimits())


def test_a_file_that_can_be_read_passes():
    _, (data, _, _) = hostile_file(29, "2013-02-01")
    assert read_header(data, "a.parquet") == ["shop", "hour_at", "visitors", "valid_to"]
