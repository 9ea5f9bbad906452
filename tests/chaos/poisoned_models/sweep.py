"""Load mutants in one process, as a scoring task would; a script that writes a line for each.

The digests are those of the mutant, as if the warehouse held them: what is left is structure, child
process and golden predictions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from tests.chaos.poisoned_models.conftest import make_models, make_rows
from tests.chaos.poisoned_models.mutators import MUTATORS, mutant

from nightshift.errors import NightshiftError
from nightshift.models.booster import contributions, trees_digest
from nightshift.models.trained_model import TrainedModel

ROWS = make_rows(300, 9)


@dataclass(frozen=True)
class Outcome:
    """The result of loading a mutant.

    The verdict is ``refused`` with a code, ``same`` scores, ``other`` scores, ``not finite``, or an
    ``unnamed`` error.
    """

    number: int
    kind: str
    verdict: str
    code: str
    seconds: float


def files_of(text: str, model: TrainedModel) -> tuple[bytes, bytes]:
    """Return the files of the model with another text, and the digest of that text."""
    document = json.loads(model.files["model.json"]) | {"trees_sha256": trees_digest(text)}
    return text.encode("utf-8", "surrogatepass"), json.dumps(document).encode()


def judge(number: int, kind: str, text: str, model: TrainedModel) -> Outcome:
    """Load a mutant and let it score."""
    began = time.monotonic()
    verdict, code = "unnamed", ""
    try:
        loaded = TrainedModel.from_files(*files_of(text, model))
        raw = loaded.raw(ROWS)
        finite = (
            np.isfinite(raw).all()
            and np.isfinite(contributions(loaded.booster, loaded.encode(ROWS))).all()
            and np.isfinite(loaded.predictions(ROWS).score).all()
        )
        verdict = (
            "not finite"
            if not finite
            else "same"
            if raw.tobytes() == model.raw(ROWS).tobytes()
            else "other"
        )
    except NightshiftError as error:
        verdict, code = "refused", error.code
    except Exception as error:  # noqa: BLE001 - an error without a name is what we look for
        code = f"{type(error).__name__}: {error}"[:200]
    return Outcome(number, kind, verdict, code, time.monotonic() - began)


def sweep(seed: int, first: int, last: int) -> Iterator[Outcome]:
    """Judge the mutants of a seed from ``first`` up to, not including, ``last``."""
    models = list(make_models().values())
    strings = [model.text for model in models]
    for number in range(first, last):
        kind, text = mutant(seed, number, strings)
        yield judge(number, kind, text, models[number // len(MUTATORS) % len(models)])


if __name__ == "__main__":
    for outcome in sweep(*map(int, sys.argv[1:4])):
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()
