"""A small client of Airflow's REST API: start runs, follow them, read their logs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import ServiceError
from nightshift_local.credentials import Credentials
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.servers.airflow_parts import API_SERVER
from nightshift_local.servers.airflow_settings import USER

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 20.0
QUICK_SECONDS = 4.0
"""Timeout of a client that is asked each minute, or by a person who waits."""
PAGE_ENTRIES = 100
"""Airflow's upper limit of a page; it silently cuts a larger request."""


@dataclass(frozen=True)
class DagRun:
    """One run of one DAG.

    Attributes:
        dag_id: The DAG.
        run_id: Airflow's name of the run.
        partition_key: Its partition, None for a run without one.
        state: ``queued``, ``running``, ``success`` or ``failed``.
        started_at: ISO time, None while queued.
        ended_at: ISO time, None before the end.
    """

    dag_id: str
    run_id: str
    partition_key: str | None
    state: str
    started_at: str | None
    ended_at: str | None


class AirflowApi:
    """Talk to one Airflow API server.

    Args:
        url: Base URL.
        user: User of the auth manager.
        password: Its password.
        timeout_seconds: Limit of one request.
    """

    def __init__(
        self, url: str, user: str, password: str, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._login = {"username": user, "password": password}
        self._client: httpx.Client | None = None

    @classmethod
    def local(cls, home: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> AirflowApi:
        """Return the client of the home's own Airflow."""
        port = Ports(home).remembered().get(API_SERVER, 0)
        password = Credentials(home).get("airflow-admin")
        return cls(f"http://{LOOPBACK}:{port}", USER, password, timeout_seconds)

    @classmethod
    def find(cls, home: Path) -> AirflowApi | None:
        """Return a quick client of the home's own Airflow; None if it was never started."""
        if API_SERVER not in Ports(home).remembered():
            return None
        return cls.local(home, QUICK_SECONDS)

    def dag_ids(self) -> set[str]:
        """Return the DAGs that the DAG processor has read."""
        return {dag["dag_id"] for dag in self._all("/dags", "dags", order_by="dag_id")}

    def import_errors(self) -> list[str]:
        """Return the files that do not load, with the last line of their traceback."""
        page = self.call("GET", "/importErrors", params={"limit": 50})
        lines = []
        for error in page["import_errors"]:
            stack = error["stack_trace"].strip().splitlines()
            lines.append(f"{error['filename']}: {stack[-1]}")
        return lines

    def paused_dags(self) -> set[str]:
        """Return the DAGs that a person has paused."""
        dags = self._all("/dags", "dags", order_by="dag_id", paused="true")
        return {dag["dag_id"] for dag in dags}

    def heartbeats(self) -> dict[str, dt.datetime]:
        """Return when each part that has ever run was last heard of, UTC."""
        heartbeats = {}
        for part, state in self.call("GET", "/monitor/health").items():
            heard_at = (state or {}).get(f"latest_{part}_heartbeat")
            if heard_at is not None:
                heartbeats[part] = dt.datetime.fromisoformat(heard_at)
        return heartbeats

    def failed_tasks(self, since: dt.datetime) -> list[dict[str, Any]]:
        """Return the task instances that failed since then, each with its ``partition_key``."""
        tasks = self._all(
            "/dags/~/dagRuns/~/taskInstances",
            "task_instances",
            state="failed",
            end_date_gte=since.isoformat(),
            order_by="id",
        )
        # A week has hundreds of good runs, and a hundred of them take Airflow a tenth of a second.
        runs = self._all(
            "/dags/~/dagRuns",
            "dag_runs",
            state="failed",
            end_date_gte=since.isoformat(),
        )
        by_key = {_run_key(run): run for run in runs}
        # A run may go on, and run its task again, or succeed without it.
        for dag_id, run_id in set(map(_run_key, tasks)) - by_key.keys():
            other = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
            if other["end_date"] is not None:
                by_key[dag_id, run_id] = other
        failed = []
        for task in tasks:
            run = by_key.get(_run_key(task))
            if run is not None:
                failed.append({**task, "partition_key": run.get("partition_key")})
        # Airflow skips what has not ended when a run reaches its limit: no task of it has failed.
        with_tasks = set(map(_run_key, tasks))
        for key, run in by_key.items():
            if run["state"] == "failed" and key not in with_tasks:
                failed.append({**run, "task_id": ""})
        return failed

    def active_runs(self) -> list[DagRun]:
        """Return the queued and running runs of all DAGs, the oldest first."""
        runs: list[DagRun] = []
        for state in ("running", "queued"):
            rows = self._all("/dags/~/dagRuns", "dag_runs", state=state, order_by="id")
            runs += map(_dag_run, rows)
        return runs

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools: ``name``, ``slots``, ``open_slots``, ``queued_slots``, …."""
        return self._all("/pools", "pools")

    def longest_run(self, dag_id: str) -> dt.timedelta | None:
        """Return after how long Airflow ends a run of the DAG; None if it never does."""
        from pydantic import TypeAdapter

        # As a duration of ISO 8601.
        text = self.call("GET", f"/dags/{dag_id}/details")["dag_run_timeout"]
        return TypeAdapter(dt.timedelta | None).validate_python(text)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler start runs of the DAG."""
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, partition_key: str | None, **form: object) -> str:
        """Start a run, of one partition or with the answers to a form, and return its run id."""
        run = self.call(
            "POST",
            f"/dags/{dag_id}/dagRuns",
            json={"logical_date": None, "partition_key": partition_key, "conf": form},
        )
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return one run."""
        return _dag_run(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def runs(self, partition_key: str) -> list[DagRun]:
        """Return all runs of all DAGs for one partition, the oldest first."""
        rows = self._all(
            "/dags/~/dagRuns",
            "dag_runs",
            partition_key_pattern=partition_key,
            order_by="id",
        )
        runs = map(_dag_run, rows)
        # The pattern also matches longer keys.
        return [run for run in runs if run.partition_key == partition_key]

    def tasks(self, run: DagRun) -> list[dict[str, Any]]:
        """Return the task instances of one run as Airflow describes them.

        Among their fields: ``task_id``, ``map_index``, ``state``, ``try_number`` and ``duration``
        in seconds.
        """
        return self._all(f"{_path(run)}/taskInstances", "task_instances", order_by="id")

    def log(
        self, run: DagRun, task_id: str, attempt: int, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """Return the log lines of one attempt: ``timestamp``, ``event``, the logger's fields."""
        log = self.call(
            "GET",
            f"{_path(run)}/taskInstances/{task_id}/logs/{attempt}",
            params={"full_content": "true", "map_index": map_index},
            headers={"Accept": "application/json"},
        )
        return [line for line in log["content"] if isinstance(line, dict)]

    def clear(self, run: DagRun, task_ids: list[str] | None = None) -> int:
        """Clear tasks of one run so that they run again; return the number of task instances."""
        body = {
            "dag_run_id": run.run_id,
            "dry_run": False,
            "only_failed": False,
            "reset_dag_runs": True,
            "task_ids": task_ids,
        }
        cleared = self.call("POST", f"/dags/{run.dag_id}/clearTaskInstances", json=body)
        return len(cleared["task_instances"])

    def fail(self, run: DagRun) -> None:
        """Mark a run as failed; its tasks end, and the runs that wait for it start."""
        self.call("PATCH", _path(run), json={"state": "failed"})

    def _all(self, path: str, name: str, **query: str) -> list[dict[str, Any]]:
        """Return all entries of a listing, page by page."""
        entries: list[dict[str, Any]] = []
        while True:
            parameters = {**query, "limit": PAGE_ENTRIES, "offset": len(entries)}
            page = self.call("GET", path, params=parameters)
            entries += page[name]
            if not page[name] or len(entries) >= page["total_entries"]:
                return entries

    # The content is passed on to httpx.
    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401
        """Send one request; a token that has expired is renewed once.

        Raises:
            ServiceError: Airflow cannot be reached or refuses.
        """
        import httpx

        try:
            response = self._send(method, path, content)
            # The token has expired: log in again, once.
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._client = None
                response = self._send(method, path, content)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"Airflow at {self.url} does not answer {method} {path}.",
                got=repr(error),
                todo="Run `nightshift status`.",
            ) from None
        if response.is_error:
            raise ServiceError(
                f"Airflow refused {method} {path}.",
                got=f"{response.status_code} {response.text[:500]}",
                todo="Run `nightshift doctor`.",
            )
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, content: dict[str, Any]) -> httpx.Response:
        """Send one request with a token; the first one logs in."""
        import httpx

        if self._client is None:
            # A proxy of the environment must not see requests to loopback.
            client = httpx.Client(base_url=self.url, timeout=self._timeout_seconds, trust_env=False)
            answer = client.post("/auth/token", json=self._login)
            token = answer.raise_for_status().json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            self._client = client
        return self._client.request(method, f"/api/v2{path}", **content)


def _run_key(entry: dict[str, Any]) -> tuple[str, str]:
    """Return what names the run of a task instance, or a run itself, in Airflow."""
    return entry["dag_id"], entry["dag_run_id"]


def _path(run: DagRun) -> str:
    return f"/dags/{run.dag_id}/dagRuns/{run.run_id}"


def _dag_run(run: dict[str, Any]) -> DagRun:
    return DagRun(
        run["dag_id"],
        run["dag_run_id"],
        run.get("partition_key"),
        run["state"],
        run["start_date"],
        run["end_date"],
    )
