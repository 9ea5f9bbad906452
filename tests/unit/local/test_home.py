"""Only a folder that nightshift created is closed, filled or deleted."""

import os
import stat

import pytest
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.cli.operations import metrics
from nightshift.errors import ServiceError
from nightshift.notices import outage
from nightshift_local import placement
from nightshift_local.home import MARKER, check_deletable, is_home
from nightshift_local.placement import prepare_home, remove_placed_files


def _down(home, *options, answer=""):
    return CliRunner().invoke(
        app, ["down", "--delete-data", *options], input=answer, env={"NIGHTSHIFT_HOME": str(home)}
    )


@pytest.fixture
def foreign(tmp_path):
    """Return a folder with a person's file, open to the group."""
    folder = tmp_path / "photos"
    folder.mkdir()
    folder.chmod(0o750)
    (folder / "holiday.jpg").write_text("a picture")
    return folder


def test_foreign_folder_is_left_as_it_is_when_it_is_given_as_a_home(foreign):
    with pytest.raises(ServiceError, match="NS-SERVICE-013"):
        prepare_home(foreign)
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o750
    assert [path.name for path in foreign.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_foreign_folder_is_kept_when_data_is_to_be_deleted(foreign, options):
    done = _down(foreign, *options, answer="y\n")
    assert isinstance(done.exception, ServiceError)
    assert done.exception.code == "NS-SERVICE-013"
    assert (foreign / "holiday.jpg").read_text() == "a picture"


def test_home_of_an_older_version_is_adopted_when_it_holds_nothing_else(tmp_path):
    for name in ("run", "logs", "secrets", "postgres"):
        (tmp_path / name).mkdir()
    (tmp_path / "env").touch()
    assert is_home(prepare_home(tmp_path))


def test_home_of_a_worker_is_adopted_with_what_its_commands_have_written(tmp_path):
    """Without it `nightshift status` and `page` would refuse to run on that machine."""
    for name in ("binned_rows", "checkpoints", "dbt", "drops", "kernels", "logs", outage.FOLDER):
        (tmp_path / name).mkdir()
    (tmp_path / metrics.TOKEN_FILE).touch()
    assert is_home(prepare_home(tmp_path))


def test_home_is_kept_when_the_question_is_not_answered_with_yes(tmp_path):
    home = prepare_home(tmp_path / "home")
    assert _down(home, answer="n\n").exit_code == 1
    assert _down(home).exit_code == 1
    assert (home / MARKER).exists()


@pytest.mark.parametrize(("options", "answer"), [(["--yes"], ""), ([], "y\n")])
def test_home_is_deleted_when_the_person_agrees(tmp_path, options, answer):
    home = prepare_home(tmp_path / "home")
    assert _down(home, *options, answer=answer).exit_code == 0
    assert not home.exists()


def test_target_is_kept_when_the_home_is_a_link(tmp_path):
    home = prepare_home(tmp_path / "home")
    (tmp_path / "link").symlink_to(home)
    done = _down(tmp_path / "link", "--yes")
    assert isinstance(done.exception, ServiceError)
    assert done.exception.got == "a symbolic link"
    assert home.is_dir()


def test_targets_of_links_in_the_home_are_kept_when_it_is_deleted(tmp_path, foreign):
    home = prepare_home(tmp_path / "home")
    (home / "logs" / "link").symlink_to(foreign)
    assert _down(home, "--yes").exit_code == 0
    assert (foreign / "holiday.jpg").exists()


def test_marker_does_not_count_when_it_is_a_link(tmp_path):
    (tmp_path / "marker").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / MARKER).symlink_to(tmp_path / "marker")
    with pytest.raises(ServiceError, match="NS-SERVICE-013"):
        check_deletable(tmp_path / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused_when_it_is_given_as_a_home(tmp_path):
    os.chown(tmp_path, 1, 1)
    with pytest.raises(ServiceError, match="another user"):
        prepare_home(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user keeps its servers in the home")
def test_foreign_folder_is_kept_when_the_pointer_outside_names_it(tmp_path, foreign, monkeypatch):
    monkeypatch.setattr(placement, "SYSTEM_STATE_DIR", tmp_path / "state")
    (tmp_path / "closed").mkdir(mode=0o700)
    home = prepare_home(tmp_path / "closed" / "home")
    (home / "private-root").write_text(str(foreign))
    remove_placed_files(home)
    assert (foreign / "holiday.jpg").exists()
