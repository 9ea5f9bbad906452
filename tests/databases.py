"""Databases of tests: each is a copy of a template, and is dropped at the end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import Settings


@contextmanager
def own_database(settings: Settings, template: str = "", name: str = "") -> Iterator[Settings]:
    """Create a database, yield its settings, and drop it at the end; see ``create_database``."""
    own = create_database(settings, template, name)
    try:
        yield own
    finally:
        drop_database(own)


@contextmanager
def copied(state: Settings) -> Iterator[Settings]:
    """Yield settings of a copy of a database and its bucket; nobody may be connected to it."""
    with own_database(state, state.warehouse_database) as own:
        copy_bucket(state, own)
        yield own


def copy_bucket(source: Settings, target: Settings) -> None:
    """Make the target's bucket with all objects of the source's, if that exists."""
    store, copy = ObjectStore.open(source), ObjectStore.open(target)
    try:
        keys = list(store.list(""))
    except NightshiftError:
        return
    copy.ensure_bucket()
    for key in keys:
        copy.put(key, store.get(key))


def create_database(settings: Settings, template: str = "", name: str = "") -> Settings:
    """Create a database; return its settings, with a bucket that does not exist yet.

    Args:
        settings: Of the server.
        template: The database to copy, to which nobody may be connected; none gives an empty one.
        name: Name of the database; without one it gets a new name.
    """
    name = name or new_name()
    # Files are copied: page by page through the log takes the server a quarter more time, in
    # creating and in dropping.
    copy = f" template {template} strategy file_copy" if template else ""
    run_as_admin(settings, f"create database {name}{copy} owner {settings.warehouse_user}")
    bucket = new_name().replace("_", "-")
    return settings.model_copy(update={"warehouse_database": name, "s3_bucket": bucket})


def drop_database(settings: Settings) -> None:
    """Drop the database of these settings; sessions in it are ended."""
    run_as_admin(settings, f"drop database {settings.warehouse_database} with (force)")


def new_name() -> str:
    """Return a name that no other database of the server has."""
    return f"test_{uuid.uuid4().hex[:12]}"


def run_as_admin(settings: Settings, statement: str) -> None:
    """Run one statement in the maintenance database as a role that may create databases."""
    user = settings.warehouse_admin_user or settings.warehouse_user
    password = (
        settings.warehouse_admin_password
        if settings.warehouse_admin_user
        else settings.warehouse_password
    )
    with psycopg.connect(
        host=settings.warehouse_host,
        port=settings.warehouse_port,
        dbname="postgres",
        user=user,
        password=password.get_secret_value(),
        autocommit=True,
    ) as conn:
        conn.execute(statement.encode())
