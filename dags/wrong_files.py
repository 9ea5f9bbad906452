"""Reports every invalid spec and contract as an import error of Airflow; it has no DAG of its own.

Each file of `dags/models` or `dags/datasets` is read on its own: an invalid one removes the DAGs of
its model, or the loading of its dataset, and nothing else. Only this file raises for all invalid
files, so that `nightshift airflow dags list-import-errors` and Airflow's page show them.
Source: docs/adr/0039-one-wrong-file.md.
"""

from __future__ import annotations

from pathlib import Path

from nightshift.contracts.datasets import read_contracts
from nightshift.contracts.document_folder import combined_error
from nightshift.contracts.model_spec import read_specs

_HERE = Path(__file__).parent
_PROBLEMS = [
    *read_specs(_HERE / "models").problems.values(),
    *read_contracts(_HERE / "datasets").problems.values(),
]
if _PROBLEMS:
    raise combined_error(_PROBLEMS)
