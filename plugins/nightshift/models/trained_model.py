"""A trained model: its two text files, ``model.lgb`` and ``model.json``, and its predictions.

``model.json`` holds nothing of the machine, the clock or the code version, so that the same
training gives the same bytes.
"""

from __future__ import annotations

import json
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
from nightshift.models.calibration import apply_calibration, move_log_odds, sigmoid
from nightshift.models.class_scores import softmax
from nightshift.models.golden import Golden, golden_rows
from nightshift.models.model_document import (
    CLASSES_FORMAT,
    ENCODED_FORMAT,
    FORMAT,
    SEALED_FORMATS,
    read_document,
    seal,
)
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import refused
from nightshift.models.predictions import Predictions
from nightshift.models.sandboxed_load import check_in_child
from nightshift.models.signature import Signature, encode

if TYPE_CHECKING:
    import lightgbm as lgb
    import pyarrow as pa

    from nightshift.models.arrays import Integers, Matrix, Vector
    from nightshift.models.linear_member import LinearMember
    from nightshift.models.model_format.trees import Tree


_UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""What a damaged file may raise before it is known to be damaged."""


@dataclass(frozen=True)
class TrainedModel:
    """A model that can score.

    Attributes:
        text: The trees, LightGBM's text format.
        model: Name of the spec.
        task: Type of the label.
        signature: Names, order, types and levels of the features.
        calibration: Plain numbers of ``fit_calibration``.
        threshold: Probability from which a row is called positive; binary only.
        decile_edges: Nine rising inner edges of the score, from rows that the trees were not fitted
            on.
        metrics: Hold-out metrics, by source (``challenger``, ``baseline``) and name.
        reference: The profile that drift is measured against, of ``training.reference_profile``.
        training: Training set, partition, split, seed, rounds.
        golden: The stored model's answers; None before it is stored.
        linear: The linear member, which adds to the trees' score; None without one.
        engine_proof: Of ``prove_engines``, as the registry has it; not part of the files.
        format: Of the files; those of an older version keep theirs.
        classes: Values of the label, in the order of the raw scores; empty without classes.
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
    linear: LinearMember | None = None
    engine_proof: dict[str, Any] | None = None
    format: int = FORMAT
    classes: tuple[str, ...] = ()

    @property
    def n_scores(self) -> int:
        """Return the number of raw scores of each row: 1, or one of each class."""
        return len(self.classes) or 1

    @classmethod
    def from_files(cls, model_lgb: bytes, model_json: bytes) -> TrainedModel:
        """Read both files; their digests were verified by the caller.

        Raises:
            ModelTextError: The files do not belong together, are of an unknown format, or not what
                their trainer wrote.
            GoldenError: The calibration gives other probabilities than when it was stored.
        """
        try:
            return cls._from_files(model_lgb, model_json)
        except _UNREADABLE as error:
            raise refused(
                "model.json or model.lgb cannot be read",
                "files as they were written",
                f"{type(error).__name__}: {error}",
            ) from None

    @classmethod
    def _from_files(cls, model_lgb: bytes, model_json: bytes) -> TrainedModel:
        import numpy as np

        document, content = read_document(model_json)
        text = model_lgb.decode("ascii")
        # Each file is whole, but one could come from another version.
        if document.trees_sha256 != trees_digest(text):
            raise refused(
                "model.json and model.lgb do not belong together",
                f"trees {document.trees_sha256}",
                f"trees {trees_digest(text)}",
            )
        signature = Signature.from_json(content["signature"])
        if document.signature_digest != signature.digest:
            raise refused(
                "model.json contradicts itself",
                f"signature {document.signature_digest}",
                f"signature {signature.digest}",
            )
        # These parts stay plain JSON, so that the same file is written again byte by byte.
        plain = ("calibration", "metrics", "reference", "training")
        model = cls(
            text=text,
            model=document.model,
            task=Task(document.task),
            signature=signature,
            threshold=document.threshold,
            decile_edges=tuple(document.decile_edges),
            golden=document.golden,
            linear=document.linear,
            format=document.format,
            classes=tuple(document.classes or ()),
            **{name: content[name] for name in plain},
        )
        # Line and calibration are checked without LightGBM: before any tree is loaded.
        golden = document.golden
        if model.linear is not None:
            golden.compare_linear(model.linear.raw(golden.matrix))
        total = model.with_linear(golden.matrix, np.array(golden.raw))
        golden.compare_probability(model.from_raw(total).all_probabilities)
        return model

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Return the content of ``model.lgb`` and ``model.json``."""
        golden = self.golden or self._golden_answers()
        file_format = CLASSES_FORMAT if self.classes else self.format
        if self.signature.encoded:
            file_format = ENCODED_FORMAT
        document = {
            "format": file_format,
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
            "golden": golden.as_json(),
        }
        if self.linear is not None:
            document["linear"] = self.linear.model_dump()
        if self.classes:
            document["classes"] = list(self.classes)
        # A file of format 2 is written again as it was, without a digest of its own.
        if self.format in SEALED_FORMATS:
            document = seal(document)
        metadata = json.dumps(
            document,
            indent=1,
            sort_keys=True,
            allow_nan=False,
        )
        return {"model.lgb": self.text.encode(), "model.json": metadata.encode()}

    @property
    def digest(self) -> str:
        """Return the SHA-256, hex, of both files: the identity of the model."""
        digests = [sha256(self.files[name]).hexdigest() for name in ("model.lgb", "model.json")]
        return sha256("".join(digests).encode()).hexdigest()

    def _golden_answers(self) -> Golden:
        matrix = golden_rows(self.trees, self.signature)
        raw = predict_raw(self.booster, matrix)
        added = contributions(self.booster, matrix)
        probability = self.from_raw(self.with_linear(matrix, raw)).all_probabilities
        linear = None if self.linear is None else self.linear.raw(matrix)
        return Golden.of(matrix, raw, added, probability, linear)

    @cached_property
    def trees(self) -> list[Tree]:
        """Return the trees as plain lists, parsed once for the loader, engines and reasons.

        Raises:
            ModelTextError: The text is refused.
        """
        return read_model(self.text, self.signature.names, self.n_scores)

    @cached_property
    def booster(self) -> lgb.Booster:
        """Return the trees as LightGBM loads them, after all checks.

        First the text is parsed. A stored model is then loaded in a child process, and its golden
        predictions are compared.

        Raises:
            ModelTextError: The text is refused; its subclasses report a dead child process or
                different answers.
        """
        self.trees  # noqa: B018  (an unchecked text may end this process in LightGBM)
        if self.golden is None:
            return load_checked(self.text)
        check_in_child(self.text, self.golden, library_path())
        # Compared here too: no child was started for a text that has passed before.
        booster = load_checked(self.text)
        matrix = self.golden.matrix
        self.golden.compare(predict_raw(booster, matrix), contributions(booster, matrix))
        return booster

    def encode(self, rows: pa.Table) -> Matrix:
        """Return the model's matrix of some rows; see ``models.signature.encode``."""
        return encode(rows, self.signature)

    def raw(self, rows: pa.Table) -> Matrix:
        """Return raw scores (log-odds, or the label's unit) of shape (n,), or (n, classes).

        Raises:
            SignatureError: The rows do not fit the signature.
        """
        matrix = self.encode(rows)
        return self.with_linear(matrix, predict_raw(self.booster, matrix))

    def with_linear(self, matrix: Matrix, trees: Matrix) -> Matrix:
        """Return the trees' raw scores of any engine, in their shape, with the linear member's."""
        return trees if self.linear is None else trees + self.linear.raw(matrix)

    def predictions(self, rows: pa.Table, shift: Vector | float = 0.0) -> Predictions:
        """Return score and probability of some rows, moved as ``from_raw`` does.

        Raises:
            SignatureError: The rows do not fit the signature.
        """
        return self.from_raw(self.raw(rows), shift)

    def from_raw(self, raw: Matrix, shift: Vector | float = 0.0) -> Predictions:
        """Turn raw scores of trees and linear member into score and probability.

        Args:
            raw: Shape (n,); of classes (n, classes), which have no level.
            shift: The level of the night, of all rows or of each. It moves what a reader takes at
                its word: the log-odds of the probability, or the value in the label's unit. The
                score of a binary model only orders rows, and stays.
        """
        if self.classes:
            classes = apply_calibration(self.calibration, raw)
            return Predictions.of_classes(classes, softmax(raw))
        # Only a binary score is a log-odds; any other is in the label's unit.
        if self.task != Task.BINARY:
            return Predictions(raw + shift)
        probability = move_log_odds(apply_calibration(self.calibration, raw), shift)
        return Predictions(sigmoid(raw), probability, self.threshold)

    def deciles(self, score: Vector) -> Integers:
        """Return the decile of each score, 1 (lowest) to 10 (highest); shape (n,)."""
        import numpy as np

        edges = np.asarray(self.decile_edges)
        return np.searchsorted(edges, score, side="right").astype(np.int64) + 1
