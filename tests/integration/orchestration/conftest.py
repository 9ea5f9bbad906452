"""Airflow makes its home when it is imported; these tests must not make one in the user's
folder."""

from __future__ import annotations

import os
import tempfile

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)
