"""What a canary costs a night: scoring without and with one, and the shadow alongside both.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.canary [--rows 200000] [--trees 300]
    [--leaves 63] [--share 0.05] [--repeats 3]

Ways, A B C D A B C D … after a round that does not count, each from the plan to the publication:

- ``scoring``: a champion alone, ``promotion.canary.share`` 0.
- ``scoring, canary``: a challenger of the same size scores its share.
- ``shadow``: the challenger scores every row where nobody reads it.
- ``shadow, canary``: the champion scores the canary's rows too.

Processor seconds are those of this process, PostgreSQL's are not among them. On a machine with
other work, processor seconds say more than wall seconds; both are shown, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import Limited, Result
from benchmarks.scoring.made_up import DAY, fit, make_features, make_spec
from benchmarks.shape import SHAPE
from pydantic import SecretStr

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.scoring.pipeline import score
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.shadow.shadow_scores import score_shadows
from nightshift.settings import Settings, load_settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate
from nightshift_local.local_env import LocalServers

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.warehouse.connection import Connection

RUN = RunContext("bench/canary", 1, "bench")
NIGHT = DAY.first
SHADOW_LIMIT = 0.6
"""What the shadow may cost of the scoring. Source: docs/adr/0055-canary.md."""


@dataclass(frozen=True)
class Way:
    """What is measured, and what stands before it."""

    name: str
    run: Callable[[], object]
    has_canary: bool
    is_shadow: bool = False


def main() -> int:
    """Measure and print; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with LocalServers(home / "home") as servers:
            os.environ.update(servers.env)
            settings = prepare(home, given)
            measured = measure(settings, given)
    return result_of(measured, given).tell(given.json)


def prepare(home: Path, given: argparse.Namespace) -> Settings:
    """Publish features, and store a champion and a challenger of the same size."""
    suite = {
        "name": "predictions/bench",
        "expectations": [
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "probability", "min_value": 0, "max_value": 1},
                "severity": "critical",
            }
        ],
    }
    folder = home / "expectations" / "predictions"
    folder.mkdir(parents=True)
    (folder / "bench.json").write_text(json.dumps(suite), encoding="utf-8")
    settings = load_settings().model_copy(
        update={"expectations_dir": folder.parent, "mlflow_tracking_uri": SecretStr("")}
    )
    spec = spec_of(given, share=0.0)
    trained, _ = fit(spec)
    with connect(settings, "bench") as conn:
        migrate(conn, {})
        make_features(conn, given.rows)
        ensure_prediction_relations(conn, spec)
        for version, verdict in ((1, "promoted"), (2, "shadowed")):
            store_version(settings, conn, trained, spec, version)
            decide(conn, version, verdict, {})
    return settings


def spec_of(given: argparse.Namespace, share: float) -> ModelSpec:
    """Return the spec of a size, with three reasons."""
    spec = make_spec("auto", 3, trees=given.trees, leaves=given.leaves)
    canary = spec.promotion.canary.model_copy(update={"share": share, "maximum_seconds": 600.0})
    promotion = spec.promotion.model_copy(update={"canary": canary})
    return spec.model_copy(update={"promotion": promotion})


def store_version(
    settings: Settings, conn: Connection, trained: TrainedModel, spec: ModelSpec, version: int
) -> None:
    """Store and register a version; its training set gives it a digest of its own."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.model_versions import register
    from nightshift.training.candidate import Provenance, store_candidate

    trained_on = Partition(NIGHT.shift(version - 30).day)
    # Other edges make it another version of the same size.
    edges = tuple(edge + version / 1e6 for edge in trained.decile_edges)
    trained = replace(trained, decile_edges=edges)
    name = f"bench {version}"
    conn.execute(
        "insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,"
        " last_day, n_rows, sha256, spec_digest, code_version, manifest, run_id)"
        " values (%s, 'bench', %s, now(), %s, %s, 1, '', '', '', '{}', 'r')",
        [name, *[trained_on.day] * 3],
    )
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    origin = Provenance(name, trained_on, trained_on.day, spec.digest, "bench")
    register(settings, store_candidate(store, trained, origin, [], {}), RUN)


def decide(conn: Connection, version: int, verdict: str, numbers: dict[str, Any]) -> None:
    """Put a decision on record."""
    conn.execute(
        "insert into ml.promotions (model, version, verdict, champion_version, partition_date,"
        " effective_partition, reasons, numbers, run_id, actor)"
        " values ('bench', %s, %s, 1, %s, %s, '{}', %s, 'r', 'bench')",
        [version, verdict, NIGHT.shift(-1).day, NIGHT.day, json.dumps(numbers)],
    )


def measure(settings: Settings, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return processor and wall seconds of each way, medians."""
    off, on = spec_of(given, share=0.0), spec_of(given, share=given.share)
    with connect(settings, "bench") as conn:
        decide(conn, 2, "canary", {"share": given.share})
    ways = [
        Way("scoring", lambda: score(settings, off, DAY, RUN), has_canary=False),
        Way("shadow", lambda: score_shadows(settings, off, NIGHT, RUN), False, is_shadow=True),
        Way("scoring, canary", lambda: score(settings, on, DAY, RUN), has_canary=True),
        Way("shadow, canary", lambda: score_shadows(settings, on, NIGHT, RUN), True, True),
    ]
    seconds: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for n in range(given.repeats + 1):
        for way in ways:
            clear(settings, way)
            cpu, wall = time.process_time(), time.perf_counter()
            way.run()
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            require(settings, way, given)
            # The first round compiles loops and fills caches.
            if n:
                seconds[way.name].append(spent)
    medians = {}
    for name, spent_by_round in seconds.items():
        cpus, walls = zip(*spent_by_round, strict=True)
        medians[name] = (statistics.median(cpus), statistics.median(walls))
    return medians


def clear(settings: Settings, way: Way) -> None:
    """Forget what the way publishes: each round is a first night."""
    schema = "shadow" if way.is_shadow else "predictions"
    with connect(settings, "bench") as conn:
        conn.execute("delete from ops.published where dataset = %s", [f"{schema}/bench"])
        conn.execute(f"drop table if exists {schema}.bench cascade".encode())
        if not way.is_shadow:
            ensure_prediction_relations(conn, make_spec("auto", 3))


def require(settings: Settings, way: Way, given: argparse.Namespace) -> None:
    """Refuse figures of a night that is not what it is called."""
    schema = "shadow" if way.is_shadow else "predictions"
    condition = "stream = 'champion'" if way.is_shadow else "score_source = 'canary'"
    with connect(settings, "bench") as conn:
        query = f"select count(*), count(*) filter (where {condition}) from {schema}.bench"
        n_rows, n_canary = conn.execute(query.encode()).fetchone() or (0, 0)
    n_others = n_rows - n_canary if way.is_shadow else n_rows
    if n_others != given.rows or bool(n_canary) != way.has_canary:
        raise SystemExit(f"{way.name}: {n_rows} rows, {n_canary} of the canary")


def result_of(measured: dict[str, tuple[float, float]], given: argparse.Namespace) -> Result:
    """Return the seconds of each way, and the share of scoring that a shadow takes."""
    size = f"{SHAPE}, {given.trees} trees of {given.leaves} leaves, share {given.share}"
    result = Result("canary", f"{given.rows:,} rows, {size}")
    for name, (cpu, wall) in measured.items():
        result.figures[f"{name}, processor seconds"] = cpu
        result.figures[f"{name}, wall seconds"] = wall
    base = measured["scoring"][0]
    for name in ("shadow", "shadow, canary"):
        share = measured[name][0] / base
        result.limited[f"{name}, of scoring"] = Limited(share, "at most", SHADOW_LIMIT)
    return result


if __name__ == "__main__":
    sys.exit(main())
