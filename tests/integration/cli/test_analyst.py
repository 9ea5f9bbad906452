"""``nightshift analyst``: a login that can read at once, with its limits."""

from __future__ import annotations

import psycopg
import pytest
from typer.testing import CliRunner

from nightshift.cli.operations import analyst
from nightshift.cli.services.migrate import as_admin
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.connection import connect

pytestmark = pytest.mark.integration


def test_login_reads_with_the_printed_password_until_it_is_removed(settings, conn, monkeypatch):
    monkeypatch.setattr(analyst, "load_settings", lambda: settings)
    login = f"person_{settings.warehouse_database[-12:]}"
    conn.execute("create view analytics.seen as select 1 as value")
    with connect(as_admin(settings), "test") as admin:
        apply_grants(admin)

        added = CliRunner().invoke(analyst.app, ["add", login])
        password = added.output.partition("password: ")[2].strip()
        place = {"host": settings.warehouse_host, "port": settings.warehouse_port}
        place |= {"dbname": settings.warehouse_database, "user": login, "password": password}
        with psycopg.connect(**place) as reader:
            assert reader.execute("select value from seen").fetchone() == (1,)
            assert reader.execute("show temp_file_limit").fetchone() == ("10GB",)

        listed = CliRunner().invoke(analyst.app, ["list"]).output
        line = next(line for line in listed.splitlines() if line.startswith(login))
        assert line.split() == [login, "10", "none"]

        removed = CliRunner().invoke(analyst.app, ["remove", login])
        assert (added.exit_code, removed.exit_code) == (0, 0)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**place)
        admin.execute(f"drop owned by {login}; drop role {login}".encode())
