"""``nightshift page``: serve the page for people on loopback, without Airflow."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from nightshift.settings import default_home, load_settings

NAME = "page"
PASSWORD_FILE = "page-password"  # noqa: S105 - the name of the file
GRACE_SECONDS = 5


def page(
    port: Annotated[
        int,
        typer.Option(help="Port on loopback; default: a free one, the same at each start."),
    ] = 0,
) -> None:
    """Serve what is broken, models, drift, nights, data and people's acts; until Ctrl+C."""
    import uvicorn

    from nightshift.page.application import create_app
    from nightshift.page.gates import PasswordGate
    from nightshift_local.credentials import Credentials
    from nightshift_local.placement import prepare_home
    from nightshift_local.ports import LOOPBACK, Ports

    # The only record of a wrong login; addresses are not logged.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings()
    home = prepare_home(default_home())
    credentials = Credentials(home)
    password = credentials.get(PASSWORD_FILE)
    port = port or Ports(home).usable(NAME)
    hosts = frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})
    # The command and not the password: a terminal's history outlives the session.
    typer.echo(f"http://{LOOPBACK}:{port}  password: cat '{credentials.path(PASSWORD_FILE)}'")
    uvicorn.run(
        create_app(settings, PasswordGate(password, hosts)),
        host=LOOPBACK,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
