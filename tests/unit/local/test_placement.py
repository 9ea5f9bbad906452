"""Servers of root run as an ordinary user in folders that this user can reach."""

import os
import stat

import pytest

from nightshift_local import placement
from nightshift_local.placement import place_servers, prepare_home, remove_placed_files

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")


@pytest.fixture
def closed_home(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "SYSTEM_STATE_DIR", tmp_path / "state")
    (tmp_path / "closed").mkdir(mode=0o700)
    return prepare_home(tmp_path / "closed" / "home")


@pytest.mark.skipif(os.geteuid() == 0, reason="an ordinary user keeps its servers in the home")
def test_servers_stay_in_home_when_user_is_ordinary(closed_home):
    assert place_servers(closed_home) == placement.Placement(closed_home)


@as_root
def test_servers_move_out_when_home_cannot_be_reached(closed_home):
    old_umask = os.umask(0o077)
    try:
        placed = place_servers(closed_home)
    finally:
        os.umask(old_umask)
    assert placed.root.parent == placement.SYSTEM_STATE_DIR
    assert stat.S_IMODE(placed.root.stat().st_mode) == 0o711
    assert place_servers(closed_home) == placed
    assert placed.own_dir("postgres").stat().st_uid == placed.uid


@as_root
def test_program_is_copied_whole_when_servers_cannot_reach_it(closed_home):
    tree = closed_home / "pg" / "bin"
    tree.mkdir(parents=True)
    (tree / "postgres").write_text("program")
    copy = place_servers(closed_home).reachable(closed_home / "pg")
    assert copy != closed_home / "pg"
    assert (copy / "bin" / "postgres").read_text() == "program"
    assert place_servers(closed_home).reachable(closed_home / "pg") == copy


@as_root
def test_moved_files_go_when_home_is_deleted(closed_home):
    root = place_servers(closed_home).root
    remove_placed_files(closed_home)
    assert not root.exists()


def test_folders_are_closed_when_home_is_prepared(closed_home):
    assert all(
        stat.S_IMODE((closed_home / name).stat().st_mode) == 0o700
        for name in ("run", "logs", "secrets")
    )
