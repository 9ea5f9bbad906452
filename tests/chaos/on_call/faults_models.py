"""Faults of model files, training sets, suites and specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.chaos.on_call.fault import Fault, Seen, failed
from tests.chaos.on_call.history import (
    HOLE,
    LAST_DAY,
    MODEL,
    NIGHT,
    SCORED,
    UNTRAINED,
    promote,
)
from tests.chaos.on_call.history import train_version as train
from tests.chaos.on_call.world import SCORE, TRAIN, World
from tests.dags.conftest import read_dags

from nightshift.contracts.model_spec import ModelSpec, load_spec

PREDICTIONS = f"predictions/{MODEL}"
SUITE_FILE = f"predictions/{MODEL}.json"
CLEAR, CLEAR_SCORE = "nightshift airflow dags clear <dag>", "nightshift airflow dags clear score__"
TRAIN_AGAIN = f"nightshift airflow dags clear {TRAIN} --partition-key {LAST_DAY} --yes"
SCORE_RUN_AGAIN = f"nightshift airflow dags clear {SCORE} --partition-key {NIGHT} --yes"
SCORE_AGAIN = "nightshift score <model> <day>"


def predictions_are_right(world: World) -> bool:
    return world.has(PREDICTIONS)


def key_of(world: World, column: str) -> str:
    ((key,),) = world.admin(f"select {column} from ml.model_versions where version = 1")
    return str(key)


def flipped(data: bytes) -> bytes:
    """Return content with one other bit in its middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def restored(*columns: str) -> Callable[[World], None]:
    """Return a cure: the files of the champion come back from the backup."""

    def restore(world: World) -> None:
        for column in columns:
            key = key_of(world, column)
            world.overwrite(key, world.backup.get(key))

    return restore


def score_degraded(world: World) -> str:
    """Score the night; nothing fails, and only the state of the pipeline tells."""
    run = world.start(SCORE, NIGHT)
    assert run.is_success, run.log
    return world.status()


def take_champion(world: World) -> None:
    """Work in a bucket that holds all that makes the champion again."""
    world.take_own_bucket(training_set_key(world))


def model_is_deleted(world: World) -> str:
    take_champion(world)
    world.overwrite(key_of(world, "model_key"), None)
    return score_degraded(world)


def a_bit_of_the_model_flips(world: World) -> str:
    take_champion(world)
    key = key_of(world, "model_key")
    world.overwrite(key, flipped(world.store.get(key)))
    return score_degraded(world)


def metadata_is_emptied(world: World) -> str:
    take_champion(world)
    world.overwrite(key_of(world, "metadata_key"), b"")
    return score_degraded(world)


def secret_is_wrong_while_a_night_is_scored(world: World) -> str:
    world.change(s3_secret_access_key="wrong")
    return score_degraded(world)


def model_is_deleted_after_the_night(world: World) -> str:
    take_champion(world)
    world.overwrite(key_of(world, "model_key"), None)
    return world.start(SCORE, NIGHT).log


def training_set_key(world: World) -> str:
    ((key,),) = world.admin("select training_set from ml.training_sets")
    return str(key)


def train_on_damaged(world: World, damage: Callable[[bytes], bytes | None]) -> str:
    world.change(home=world.folder / "home")
    world.settings.home.mkdir()
    key = training_set_key(world)
    world.take_own_bucket(key)
    world.overwrite(key, damage(world.store.get(key)))
    run = world.prepare(TRAIN, LAST_DAY)
    # The task before has built it in the same run.
    run.states["build_training_set"] = "success"
    run.results["build_training_set"] = key
    run.run(world.settings)
    return run.log


def training_set_is_restored(world: World) -> None:
    key = training_set_key(world)
    world.overwrite(key, world.backup.get(key))


def model_is_trained(world: World) -> bool:
    digests = world.admin("select digest from ml.model_versions")
    return digests == [(world.history.digest,)]


def suite_is(world: World, text: str | None) -> str:
    folder = world.take_own_folder("expectations_dir")
    world.commit(folder)
    path = folder / SUITE_FILE
    path.unlink()
    if text is not None:
        path.write_text(text)
    world.commit(folder)
    return world.start(SCORE, NIGHT).log


def suite_is_restored(world: World) -> None:
    good = world.history.settings.expectations_dir / SUITE_FILE
    (world.settings.expectations_dir / SUITE_FILE).write_text(good.read_text())


def spec_is_emptied(world: World) -> str:
    folder = world.take_own_folder("dags_dir")
    world.commit(folder)
    (folder / "models" / f"{MODEL}.yaml").write_text("")
    world.commit(folder)
    return "\n".join(read_dags(folder, world.folder / "airflow")["errors"].values())


def spec_is_restored(world: World) -> None:
    name = f"models/{MODEL}.yaml"
    good = world.history.settings.dags_dir / name
    (world.settings.dags_dir / name).write_text(good.read_text())


def is_scored_with_its_spec(world: World) -> bool:
    """Return whether the file is right again and the night's run, whose event waits, works."""
    # `catch_up` emits the event again when the DAG is back.
    return world.start(SCORE, NIGHT).is_success and predictions_are_right(world)


def rollback_to_a_version_that_never_served(world: World) -> str:
    spec = load_spec(world.settings.models_dir, MODEL)
    for n_leaves in (5, 3):
        document = spec.model_dump(mode="json")
        document["training"]["params"]["num_leaves"] = n_leaves
        version = train(world.settings, ModelSpec.model_validate(document))
        if n_leaves == 5:
            promote(world.settings, version, HOLE)
    return world.nightshift("rollback", MODEL, "--to", "3", "--reason", "it broke")[1]


def first_version_serves_again(world: World) -> bool:
    """Run the rollback whose plan was accepted, and look at the champion and the predictions."""
    code, _ = world.nightshift("rollback", MODEL, "--to", "1", "--reason", "it broke")
    champions = world.admin(
        "select version from ml.succession order by effective_partition desc, promotion_id desc"
    )
    is_first = code == 0 and champions[0] == (1,)
    return is_first and world.has(PREDICTIONS) and world.has(PREDICTIONS, HOLE)


FELL_BACK = Seen(
    "NS-SCORE-007",
    MODEL,
    (NIGHT,),
    f"nightshift score {MODEL} {NIGHT}",
    "catch_up tries the champion again until the deadline",
)
LOST_FILE = Seen(
    "NS-LAKE-002",
    MODEL,
    command=f"nightshift train {MODEL} {LAST_DAY}",
    consequence="The next night is scored by the champion before it",
)
DAMAGED_FILE = replace(LOST_FILE, code="NS-LAKE-004")
STORE_REFUSES = Seen(
    "NS-LAKE-001",
    "object store",
    command="nightshift doctor",
    consequence="Nothing is ingested",
    severity="critical",
)
DEGRADED = {
    "code": "NS-SCORE-007",
    "page": "a lower step of the fallback chain was published on time",
    "advice": "Remove the cause that the reason names",
    "commands": (SCORE_AGAIN,),
    "is_right": predictions_are_right,
}
LOST_TRAINING = {
    "stage": UNTRAINED,
    "commands": (CLEAR,),
    "values": {"dag": TRAIN, "day": LAST_DAY},
    "cure": training_set_is_restored,
    "is_right": model_is_trained,
}
SUITE = {
    "code": "NS-GATE-002",
    "advice": "Restore the suite from the last good commit",
    "cure": suite_is_restored,
    "commands": (CLEAR,),
    "values": {"dag": SCORE},
    "is_right": predictions_are_right,
    "seen": (
        Seen(
            "NS-GATE-002",
            f"expectations/{SUITE_FILE}",
            command=f"git -C expectations checkout <commit>~1 -- {SUITE_FILE}",
            consequence=f"Nothing of {PREDICTIONS} is published",
        ),
        failed(SCORE, "NS-GATE-002", NIGHT),
    ),
}

FAULTS = (
    Fault(
        "model.lgb is deleted",
        model_is_deleted,
        cause="NS-LAKE-002",
        cure=restored("model_key"),
        seen=(FELL_BACK, LOST_FILE),
        **DEGRADED,
    ),
    Fault(
        "one bit of model.lgb flips",
        a_bit_of_the_model_flips,
        cause="NS-LAKE-004",
        cure=restored("model_key"),
        seen=(DAMAGED_FILE, FELL_BACK),
        **DEGRADED,
    ),
    Fault(
        "model.json is emptied",
        metadata_is_emptied,
        cause="NS-LAKE-004",
        cure=restored("metadata_key"),
        seen=(FELL_BACK, LOST_FILE),
        **DEGRADED,
    ),
    Fault(
        "the S3 secret is wrong while a night is scored",
        secret_is_wrong_while_a_night_is_scored,
        cause="NS-LAKE-001",
        cure=lambda world: world.restore("s3_secret_access_key"),
        cured_by="nightshift doctor",
        finding="NIGHTSHIFT_S3_SECRET_ACCESS_KEY",
        seen=(FELL_BACK, STORE_REFUSES),
        **DEGRADED,
    ),
    Fault(
        "model.lgb is deleted after the night was published",
        model_is_deleted_after_the_night,
        "NS-SCORE-004",
        cause="champion on 2013-01-21, as published",
        page="that model cannot be read now",
        advice="Repair that",
        cure=restored("model_key"),
        commands=(CLEAR_SCORE,),
        is_right=lambda world: world.runs[SCORE, NIGHT].is_success and world.has(PREDICTIONS),
        seen=(failed(SCORE, "NS-SCORE-004", NIGHT, command=SCORE_RUN_AGAIN), LOST_FILE),
        stage=SCORED,
    ),
    Fault(
        "one bit of the training set flips",
        lambda world: train_on_damaged(world, flipped),
        "NS-LAKE-004",
        cause="training",
        page="do not have the digest that the warehouse recorded",
        seen=(failed(TRAIN, "NS-LAKE-004", LAST_DAY, severity="info", command=TRAIN_AGAIN),),
        advice="clear the whole run, so that it is built again",
        **LOST_TRAINING,
    ),
    Fault(
        "the training set is deleted",
        lambda world: train_on_damaged(world, lambda _: None),
        "NS-LAKE-002",
        cause="training",
        page="An object that is referenced is not in the bucket",
        seen=(failed(TRAIN, "NS-LAKE-002", LAST_DAY, severity="info", command=TRAIN_AGAIN),),
        advice="restore the object from the bucket's versions or backup",
        **LOST_TRAINING,
    ),
    Fault(
        "an expectation suite is truncated",
        lambda world: suite_is(world, '{"name": "predictions/flight_delayed", "expec'),
        cause=f"{MODEL}.json",
        page="no JSON",
        **SUITE,
    ),
    Fault(
        "an expectation suite is missing",
        lambda world: suite_is(world, None),
        cause=f"{MODEL}.json",
        page="It is absent",
        **SUITE,
    ),
    Fault(
        "a spec is empty",
        spec_is_emptied,
        "NS-SPEC-001",
        cause=f"{MODEL}.yaml",
        page="Airflow shows it as an import error of `wrong_files.py`",
        advice="roll the file back",
        cure=spec_is_restored,
        seen=(
            Seen(
                "NS-SPEC-001",
                f"dags/models/{MODEL}.yaml",
                command=f"git -C dags checkout <commit>~1 -- models/{MODEL}.yaml",
                consequence="Its rescue runs on the last good spec",
            ),
        ),
        commands=(SCORE_AGAIN,),
        is_right=is_scored_with_its_spec,
    ),
    Fault(
        "a rollback to a version that never served",
        rollback_to_a_version_that_never_served,
        "NS-ROLLBACK-001",
        cause="Version 3 of flight_delayed is no former champion",
        page="named a version that was never champion",
        advice="Name another version",
        commands=("nightshift plan rollback <model> --to <version>",),
        # The command has refused it, and whoever gave it knows.
        seen=(),
        values={"version": "1"},
        is_right=first_version_serves_again,
        stage=SCORED,
    ),
)
