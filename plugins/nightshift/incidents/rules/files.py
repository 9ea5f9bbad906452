"""Rules about files of the project: specs, contracts, expectation suites, the SQL of dbt's models.

Where the folder is under version control, the command brings the last good file back.
"""

from __future__ import annotations

import datetime as dt
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.errors import ServiceError, SpecError
from nightshift.incidents.context import file_state
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.incidents.rules.runs import failed_for_good
from nightshift.quality.gate_errors import SuiteError
from nightshift.quality.suites.suite import read_suite

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext, FileState

# After four weeks without a publication people have decided that the model ends.
HORIZON = dt.timedelta(days=28)
WEEK = dt.timedelta(days=7)
GIT_SECONDS = 2.0
BROKEN_SQL = "NS-DBT-001"
# What dbt builds the models of; its logs and compiled files are no source.
SQL_FOLDERS = ("models", "macros")
MAX_SHOWN_FILES = 4


def wrong_files(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the spec and contract files that cannot be used."""
    for file, error in context.spec_files.problems.items():
        model = file.rpartition(".")[0]
        is_known = model in context.specs
        consequence = "Its rescue runs on the last good spec; it is neither scored nor trained."
        if not is_known:
            consequence = "The model does not run; all others do."
        yield _wrong_file(
            context,
            f"models/{file}",
            error,
            consequence,
            models=(model,) if is_known else (),
        )
    for file, error in context.contract_files.problems.items():
        dataset = f"raw/{file.rpartition('.')[0]}"
        consequence = "The dataset is not ingested; features that read it are not built."
        yield _wrong_file(context, f"datasets/{file}", error, consequence, tables=(dataset,))


def _wrong_file(
    context: EvaluationContext,
    file: str,
    error: SpecError,
    consequence: str,
    *,
    tables: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
) -> Fact:
    return Fact(
        code=error.code,
        severity="warning",
        health="degraded",
        subject_type="file",
        subject=f"dags/{file}",
        what=error.what,
        consequence=consequence,
        command=restore_command(context.settings.dags_dir, file),
        owner=context.owner_of(models[0]) if models else "",
        tables=tables,
        models=models,
    )


def wrong_suites(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the expectation suites without which a gate gives no verdict: the night would fail."""
    folder = context.settings.expectations_dir
    for dataset, models in _gated_datasets(context).items():
        file = f"{dataset}.json"
        state = file_state(folder / file)
        error = _suite_error(folder, dataset, state)
        if error is None:
            continue
        command = restore_command(folder, file)
        # A dataset that no night has published yet, and of which no commit had a suite, may still
        # get its first one.
        is_known = dataset in context.nightly_datasets or command.startswith("git ")
        if state is None and not is_known:
            continue
        yield Fact(
            code=error.code,
            severity="warning",
            health="degraded",
            subject_type="file",
            subject=f"expectations/{file}",
            what=error.what if state else f"The expectation suite of {dataset} is missing.",
            consequence=f"Nothing of {dataset} is published: readers keep what they have.",
            command=command,
            tables=(dataset,),
            models=tuple(models),
            size=1,
        )


def _gated_datasets(context: EvaluationContext) -> dict[str, list[str]]:
    """Return the datasets that a gate judges, with the models that they are of."""
    models: dict[str, list[str]] = defaultdict(list)
    for contract in context.contract_files.documents.values():
        models[contract.dataset] = []
    for spec in context.specs.values():
        models[spec.features_dataset].append(spec.name)
        models[spec.predictions_dataset].append(spec.name)
    return models


@lru_cache(maxsize=1024)
def _suite_error(folder: Path, dataset: str, _: FileState | None) -> SuiteError | None:
    """Return why a suite cannot be used; files that have not changed are not read again."""
    try:
        read_suite(folder, dataset)
    except SuiteError as error:
        return error
    return None


def broken_sql(context: EvaluationContext) -> Iterator[Fact]:
    """Yield that a build failed with SQL that differs from that of the last good build."""
    failed = [task for task in failed_for_good(context) if task.code == BROKEN_SQL]
    if not failed:
        return
    folder = context.settings.dbt_project_dir
    revision = _good_revision(context, folder, failed[0].ended_at)
    if not revision:
        return
    changed = _git(
        folder,
        "diff",
        "--name-only",
        "--relative",
        revision,
        "--",
        *SQL_FOLDERS,
    )
    # As soon as they are as they were, a rerun of the build is all that is left.
    files = changed.splitlines()
    if files:
        yield _broken_sql(context, folder, revision, files)


def _good_revision(context: EvaluationContext, folder: Path, failed_at: dt.datetime) -> str:
    """Return the commit that was the newest one at the last good build; empty without one."""
    views = list(context.models_of_view)
    row = context.conn.execute(_LAST_GOOD_BUILD, [views, failed_at]).fetchone()
    built_at = row[0] if row else None
    if built_at is None:
        return ""
    before = f"--before={built_at.isoformat()}"
    return _git(
        folder,
        "rev-list",
        "-1",
        "--abbrev-commit",
        before,
        "HEAD",
    )


def _broken_sql(
    context: EvaluationContext,
    folder: Path,
    revision: str,
    files: list[str],
) -> Fact:
    """Return the fact about SQL that has changed since a build worked.

    Args:
        context: The evaluation.
        folder: The dbt project.
        revision: The commit of the last good build.
        files: What differs from it, relative to the folder; at least one.
    """
    shown = ", ".join(files[:MAX_SHOWN_FILES])
    models: set[str] = set()
    for names in context.models_of_view.values():
        models.update(names)
    return Fact(
        code=BROKEN_SQL,
        severity="warning",
        health="degraded",
        subject_type="file",
        subject=f"dbt_project/{files[0]}",
        what=f"The build fails since {shown} of dbt_project changed.",
        consequence="No features are built: readers get the last scores or the rule.",
        command=_restore(folder, revision, files),
        key="dbt_project",
        tables=tuple(context.models_of_view),
        models=tuple(sorted(models)),
        size=len(files),
        facts={"files": files},
    )


_LAST_GOOD_BUILD = """
select max(published_at) from ops.loads
where dataset = any(%s) and state = 'published' and published_at < %s
"""


def removed_specs(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose file is gone while analysts still read what nobody renews.

    Its DAGs and all other rules have gone with the file. A model that ends has its views dropped.
    """
    # A file that is there and wrong is another rule's; its last good spec is known.
    known = {*context.specs, *context.spec_files.broken}
    rows = context.conn.execute(_REMOVED, {"known": list(known), "horizon": HORIZON})
    for model, owner, newest, published_at in rows:
        file = f"models/{model}.yaml"
        yield Fact(
            code="NS-SPEC-007",
            severity="warning",
            health="degraded",
            subject_type="file",
            subject=f"dags/{file}",
            what=f"The spec of {model} is gone; analysts still read its predictions of {newest}.",
            consequence="It is neither scored nor watched: its predictions grow old.",
            command=restore_command(context.settings.dags_dir, file),
            owner=owner or "",
            tables=(f"predictions/{model}",),
            models=(model,),
            size=1,
            seen_until=published_at + HORIZON,
            facts={"newest": newest},
        )


_REMOVED = """
select k.model, k.spec::jsonb ->> 'owner', newest.partition_date, newest.published_at
from ops.last_good_specs k
cross join lateral (
    select partition_date, published_at from ops.published p
    where p.dataset = 'predictions/' || k.model order by partition_date desc limit 1
) newest
where k.model <> all(%(known)s)
    and newest.published_at > clock_timestamp() - %(horizon)s::interval
    and to_regclass(format('analytics.%%I', k.model || '_current')) is not null
order by 1
"""


def missing_dags(context: EvaluationContext) -> Findings:
    """Yield that Airflow does not have DAGs any more that have run within the week."""
    if context.airflow is None:
        return
    try:
        known = context.airflow.dag_ids()
    except ServiceError:
        # `airflow away` reports that.
        yield from map(Unchecked, context.open_keys("missing DAGs"))
        return
    rows = context.conn.execute(_DAGS_THAT_RAN, [WEEK])
    ran = [dag_id for (dag_id,) in rows if _should_exist(context, dag_id)]
    missing = [dag_id for dag_id in ran if dag_id not in known]
    if not missing:
        return
    names = ", ".join(missing[:MAX_SHOWN_FILES])
    more = f" and {len(missing) - MAX_SHOWN_FILES} more" if len(missing) > MAX_SHOWN_FILES else ""
    yield Fact(
        code="NS-SERVICE-012",
        severity="warning",
        health="degraded",
        subject_type="service",
        subject="airflow DAGs",
        what=f"Airflow does not have {names}{more} any more: the file of the DAGs is gone.",
        consequence="Their runs do not begin; cron's rescue publishes before the deadline if it is"
        " set up.",
        command=_deleted_dags_command(context.settings.dags_dir),
        models=tuple(context.specs),
        size=len(missing),
        facts={"dags": missing},
    )


_DAGS_THAT_RAN = """
select distinct dag_id from ops.task_tries
where started_at > clock_timestamp() - %s::interval order by dag_id
"""


def _should_exist(context: EvaluationContext, dag_id: str) -> bool:
    """Return whether nobody has taken a DAG away with its spec, which has its own incident."""
    model = dag_id.partition("__")[2]
    return not model or model in context.spec_files.documents


def _deleted_dags_command(folder: Path) -> str:
    """Return the command that brings back the DAG file that was deleted last."""
    deleted = _git(folder, "ls-files", "--deleted", "--", "*.py").splitlines()
    if deleted:
        return _checkout(folder, "HEAD", deleted[:1])
    last = _git(
        folder,
        "log",
        "-1",
        "--diff-filter=D",
        "--relative",
        "--name-only",
        "--format=%h",
        "--",
        "*.py",
    )
    revision, _, file = last.partition("\n\n")
    if not file:
        return "nightshift airflow dags list-import-errors"
    return _checkout(folder, f"{revision}~1", file.splitlines()[:1])


def restore_command(folder: Path, file: str) -> str:
    """Return the command that brings back a file of a folder as it was before its last change."""
    last_change = _git(
        folder,
        "log",
        "-1",
        "--format=%h",
        "--",
        file,
    )
    if not last_change:
        # Not under version control here: the deployment has the file.
        return "nightshift status"
    return _restore(folder, f"{last_change}~1", [file])


def _restore(folder: Path, revision: str, files: list[str]) -> str:
    """Return the command that brings files back as they were in a commit, and loses no work.

    Files that were edited and not committed are put aside first: the last commit had good ones, or
    the next evaluation names an earlier commit.
    """
    if _git(folder, "status", "--porcelain", "--", *files):
        return _command(folder, "stash", "push", "--", *files)
    return _checkout(folder, revision, files)


def _checkout(folder: Path, revision: str, files: list[str]) -> str:
    return _command(folder, "checkout", revision, "--", *files)


def _command(folder: Path, *arguments: str) -> str:
    """Return a command of git as a shell reads it, also in a folder with a space."""
    return shlex.join(["git", "-C", str(folder), *arguments])


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints; empty if it cannot answer."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
