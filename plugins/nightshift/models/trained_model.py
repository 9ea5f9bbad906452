"""A trained model: two text files, ``model.lgb`` and ``model.json``, and what they say about rows.

``model.json`` holds nothing of the machine, the clock or the code version, so that the same
training gives the same bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.models.booster import (
    contributions,
    library_path,
    load_checked,
    predict_raw,
    trees_digest,
)
from nightshift.models.calibration import apply_calibration, sigmoid
from nightshift.models.golden import Golden, golden_rows
from nightshift.models.model_document import FORMAT, check_document, seal
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import refused
from nightshift.models.predictions import Predictions
from nightshift.models.sandboxed_load import check_in_child
from nightshift.models.signature import Signature, encode

if TYPE_CHECKING:
    import lightgbm as lgb
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

_N_DECILES = 10


@dataclass(frozen=True)
class TrainedModel:
    """A model that can score.

    Attributes:
        text: The trees, LightGBM's text format.
        model: Name of the spec.
        task: Kind of label.
        signature: What it reads.
        calibration: Plain numbers of ``training.calibration``.
        threshold: Probability from which a row is called positive; binary only.
        decile_edges: Nine rising inner edges of the score, from rows that the trees were not fitted
            on.
        metrics: Hold-out metrics, by source (``challenger``, ``baseline``) and name.
        reference: The profile that drift is measured against, of ``training.reference``.
        training: Training set, partition, split, seed, rounds.
        golden: What the stored model answered; None before it is stored.
        engine_proof: Of ``training.engine_proof``, as the registry has it; no part of the files.
        format: Of the files; those of a version from before stay what they are.
    """

    text: str
    model: str
    task: Task
    signature: Signature
    calibration: dict[str, Any]
    threshold: float
    decile_edges: tuple[float, ...]
    metrics: dict[str, dict[str, float | None]]
    reference: dict[str, Any]
    training: dict[str, Any]
    golden: Golden | None = None
    engine_proof: dict[str, Any] | None = None
    format: int = FORMAT

    @cached_property
    def booster(self) -> lgb.Booster:
        """Return the trees, loaded after all checks: the text, then, for a stored model, a child process and its golden predictions.

        Raises:
            ModelTextError: The text is refused; its subclasses say that the child died or that the
                answers are others.
        """
        read_model(self.text, self.signature.names)
        if self.golden is None:
            return load_checked(self.text)
        check_in_child(self.text, self.golden, library_path())
        booster = load_checked(self.text)
        self.golden.compare(
            predict_raw(booster, self.golden.matrix), contributions(booster, self.golden.matrix)
        )
        return booster

    def _answered(self) -> Golden:
        matrix = golden_rows(self.text, self.signature)
        raw = predict_raw(self.booster, matrix)
        return Golden.of(
            matrix, raw, contributions(self.booster, matrix), self.from_raw(raw).probability
        )

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Return the content of ``model.lgb`` and ``model.json``."""
        document = {
            "format": self.format,
            "model": self.model,
            "task": self.task.value,
            "signature": self.signature.as_json(),
            "signature_digest": self.signature.digest,
            "trees_sha256": trees_digest(self.text),
            "calibration": self.calibration,
            "threshold": self.threshold,
            "decile_edges": list(self.decile_edges),
            "metrics": self.metrics,
            "reference": self.reference,
            "training": self.training,
            "golden": (self.golden or self._answered()).as_json(),
        }
        sealed = seal(document) if self.format == FORMAT else document
        metadata = json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False)
        return {"model.lgb": self.text.encode(), "model.json": metadata.encode()}

    @property
    def digest(self) -> str:
        """Return the SHA-256, hex, of both files: the identity of the model."""
        files = self.files
        return sha256(
            "".join(
                sha256(files[name]).hexdigest() for name in ("model.lgb", "model.json")
            ).encode()
        ).hexdigest()

    @classmethod
    def from_files(cls, model_lgb: bytes, model_json: bytes) -> TrainedModel:
        """Read both files; their digests were verified by the caller.

        Raises:
            ModelTextError: The files do not belong together, are of an unknown format, or not what
                their trainer wrote.
            GoldenError: Its calibration gives other probabilities than when it was stored.
        """
        try:
            document = json.loads(model_json, parse_constant=_refuse_constant, parse_float=_finite)
            text = model_lgb.decode("ascii")
            check_document(document)
            if document["trees_sha256"] != trees_digest(text):
                raise refused(
                    "model.json and model.lgb do not belong together",
                    f"trees {document['trees_sha256']}",
                    f"trees {trees_digest(text)}",
                )
            return cls._from_document(text, document)
        except (
            ValueError,
            ArithmeticError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise refused(
                "model.json or model.lgb cannot be read",
                "files as they were written",
                f"{type(error).__name__}: {error}",
            ) from None

    @classmethod
    def _from_document(cls, text: str, document: dict[str, Any]) -> TrainedModel:
        kept = {
            name: document[name]
            for name in ("model", "calibration", "threshold", "metrics", "reference", "training")
        }
        import numpy as np

        signature = Signature.from_json(document["signature"])
        if document["signature_digest"] != signature.digest or not isinstance(
            kept["threshold"], int | float
        ):
            raise refused(
                "model.json contradicts itself",
                f"signature {document['signature_digest']}",
                f"signature {signature.digest}",
            )
        golden = Golden.from_json(document["golden"], len(signature.names))
        kept["threshold"] = float(kept["threshold"])
        edges = tuple(map(float, document["decile_edges"]))
        if len(edges) >= _N_DECILES or list(edges) != sorted(edges):
            raise refused(
                "model.json has no edges of deciles",
                "at most nine numbers that never fall",
                f"{len(edges)} numbers",
            )
        task, form = Task(document["task"]), document["format"]
        model = cls(
            text=text,
            task=task,
            signature=signature,
            decile_edges=edges,
            golden=golden,
            format=form,
            **kept,
        )
        golden.compare_probability(model.from_raw(np.array(golden.raw)).probability)
        return model

    def encode(self, rows: pa.Table) -> Matrix:
        """Return the model's matrix of some rows; see ``training.signature.encode``."""
        return encode(rows, self.signature)

    def raw(self, rows: pa.Table) -> Vector:
        """Return raw scores (log-odds, or the label's unit) of shape (n,).

        Raises:
            SignatureError: The rows do not fit the signature.
        """
        return predict_raw(self.booster, self.encode(rows))

    def predictions(self, rows: pa.Table) -> Predictions:
        """Return score and probability of some rows.

        Raises:
            SignatureError: The rows do not fit the signature.
        """
        return self.from_raw(self.raw(rows))

    def from_raw(self, raw: Vector) -> Predictions:
        """Turn raw scores of any engine, shape (n,), into score and probability."""
        if self.task == Task.BINARY:
            return Predictions(
                sigmoid(raw), apply_calibration(self.calibration, raw), self.threshold
            )
        return Predictions(raw)

    def deciles(self, score: Vector) -> npt.NDArray[np.int64]:
        """Return the decile of each score, 1 (lowest) to 10 (highest), by the edges of unseen rows; shape (n,)."""
        import numpy as np

        return (
            np.searchsorted(np.asarray(self.decile_edges), score, side="right").astype(np.int64) + 1
        )

    def contributions(self, rows: pa.Table) -> Matrix:
        """Return what each feature adds to the raw score, shape (n, k); the base value is left out."""
        return contributions(self.booster, self.encode(rows))[:, :-1]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond a double")
    return number
