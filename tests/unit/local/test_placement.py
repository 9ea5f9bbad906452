"""Servers of root run as an ordinary user in folders that this user can reach."""

import grp
import os
import pwd
import stat
from pathlib import Path

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
def test_servers_have_a_user_without_an_account(closed_home):
    placed = place_servers(closed_home)
    with pytest.raises(KeyError):
        pwd.getpwuid(placed.uid)
    with pytest.raises(KeyError):
        grp.getgrgid(placed.gid)
    assert placed.uid in placement.PRIVATE_IDS


@as_root
def test_servers_of_several_homes_have_several_users(tmp_path, closed_home):
    homes = [prepare_home(tmp_path / "closed" / f"home {i}") for i in range(5)]
    assert len({place_servers(home).uid for home in homes}) > 1


@as_root
def test_a_home_keeps_the_user_that_owns_its_files(closed_home):
    nobody = pwd.getpwnam("nobody")
    os.chown(place_servers(closed_home).own_dir("s3"), nobody.pw_uid, nobody.pw_gid)
    placed = place_servers(closed_home)
    assert (placed.uid, placed.gid) == (nobody.pw_uid, nobody.pw_gid)
    assert placed.own_dir("postgres").stat().st_uid == nobody.pw_uid


@as_root
def test_a_tree_is_given_whole(closed_home):
    placed = place_servers(closed_home)
    tree = placed.own_dir("postgres") / "data"
    (tree / "base").mkdir(parents=True)
    (tree / "base" / "1").write_text("rows")
    (tree / "link").symlink_to("/etc/passwd")
    placed.give_tree(tree)
    assert {path.lstat().st_uid for path in (tree, *tree.rglob("*"))} == {placed.uid}
    assert Path("/etc/passwd").stat().st_uid == 0


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
