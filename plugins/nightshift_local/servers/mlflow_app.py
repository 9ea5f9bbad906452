"""MLflow's pages for people: behind a login, and for reading only.

MLflow's own server takes writes, uploads, webhooks and jobs, and its assistant runs shell commands.
None of that is needed to look at runs: the pipeline writes to the tracking store directly. So only
MLflow's plain web application is served, without the routers that its server adds (assistant,
gateway, jobs, traces), and in front of it each request must have the login and be on a list of
reads.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

USER = "admin"
PASSWORD_VARIABLE = "NIGHTSHIFT_MLFLOW_PASSWORD"  # noqa: S105 - the name of the variable
HEALTH_PATH = "/health"

_API = r"/(ajax-api|api)/2\.0/mlflow"
READS = {
    "GET": re.compile(
        r"/|/version|/(static-files|build)/[\w./-]+|/get-artifact|"
        rf"{_API}/("
        r"artifacts/list|experiments/(get|get-by-name|search)|logged-models/[\w-]+|"
        r"metrics/(get-history|get-history-bulk|get-history-bulk-interval)|"
        r"model-versions/(get|search)|runs/get|"
        r"registered-models/(alias|get|get-latest-versions|search)"
        r")|/(ajax-api|api)/3\.0/mlflow/(server-info|workspaces)"
    ),
    "POST": re.compile(
        rf"/graphql|{_API}/(experiments/(search|search-datasets)|logged-models/search|"
        r"registered-models/get-latest-versions|runs/search)"
    ),
}
"""What passes: method and complete path.

GraphQL has queries only; `get-artifact` reads with a key that is limited to `mlflow/`.
"""


class ReadOnlyApp:
    """A WSGI application that lets reads of a person with the login through, and nothing else.

    Args:
        app: The application that answers.
        password: Password of ``admin``; an empty one is refused.
    """

    def __init__(self, app: WSGIApplication, password: str) -> None:
        if not password:
            raise ValueError(f"{PASSWORD_VARIABLE} is empty: MLflow is not served without a login")
        self._app = app
        self._expected = f"{USER}:{password}".encode()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        method = str(environ["REQUEST_METHOD"])
        path = str(environ.get("PATH_INFO", ""))
        # The health check has no login; the answer tells nothing else.
        if (method, path) == ("GET", HEALTH_PATH):
            return _answer(start_response, "200 OK", "OK")
        header = str(environ.get("HTTP_AUTHORIZATION", ""))
        if not self._has_login(header):
            # A browser's first request has no header; only a wrong one is a try.
            if header:
                logger.warning("MLflow: a wrong login was refused.")
            challenge = ("WWW-Authenticate", 'Basic realm="MLflow", charset="UTF-8"')
            return _answer(start_response, "401 Unauthorized", "A login is needed.", challenge)
        if method not in READS or not READS[method].fullmatch(path):
            return _answer(start_response, "403 Forbidden", "Only reading is allowed here.")
        return self._app(environ, start_response)

    def _has_login(self, header: str) -> bool:
        """Return whether a header is the Basic login; compared in constant time."""
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, self._expected)


def _answer(
    start_response: StartResponse,
    status: str,
    text: str,
    *more_headers: tuple[str, str],
) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        *more_headers,
    ]
    start_response(status, headers)
    return [body]


def create() -> Callable[..., Any]:
    """Return the application for gunicorn; its settings come from the environment only."""
    # Taken out of the environment: MLflow's code must not see it.
    password = os.environ.pop(PASSWORD_VARIABLE, "")
    # These are the variables by which MLflow's own command configures its web application.
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    os.environ.pop("_MLFLOW_SERVER_SERVE_ARTIFACTS", None)
    from mlflow.server import app

    return ReadOnlyApp(app, password)
