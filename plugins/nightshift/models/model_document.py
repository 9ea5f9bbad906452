"""The schema of ``model.json``, and a digest over all of its content that the trainer writes.

The warehouse knows the digest of the file; this one exists before the file has reached the bucket.
Source: docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import json
import math
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from nightshift.models.golden import Finite, Golden, Probability
from nightshift.models.linear_member import LinearMember, StrictPart
from nightshift.models.model_format.tokens import refused

FORMAT = 4
"""4 may have a linear member alongside the trees. 3 has its own digest and golden probabilities. 2
has golden raw scores only. Older versions still serve. Any other format is refused: train again.
"""
CLASSES_FORMAT = 5
"""As 4, of a model that scores classes: older code, which expects one score, refuses it."""
ENCODED_FORMAT = 6
"""As 4, of a model with encoded categories: older code, which knows codes only, refuses it."""
SEALED_FORMATS = (3, 4, CLASSES_FORMAT, ENCODED_FORMAT)
SEAL = "document_sha256"
_N_DECILES = 10
_MAX_PARTS_NAMED = 5


class NoCalibration(StrictPart):
    """The sigmoid of the raw score."""

    method: Literal["none"]


class PlattCalibration(StrictPart):
    """A rising logistic curve."""

    method: Literal["platt"]
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Finite


class IsotonicCalibration(StrictPart):
    """Steps that never fall, at raw scores that rise."""

    method: Literal["isotonic"]
    raw: Annotated[list[Finite], Field(min_length=1)]
    probability: list[Probability]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        # np.interp gives nonsense, and no error, for steps out of order.
        is_rising = self.raw == sorted(set(self.raw))
        is_ordered = self.probability == sorted(self.probability)
        has_pairs = len(self.raw) == len(self.probability)
        if not (is_rising and is_ordered and has_pairs):
            raise ValueError("as many probabilities as raw scores, both in order")
        return self


_Slope = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TemperatureCalibration(StrictPart):
    """One slope for the raw scores of all classes."""

    method: Literal["temperature"]
    slope: _Slope


class VectorCalibration(StrictPart):
    """A slope and a shift for the raw scores of each class."""

    method: Literal["vector"]
    slope: list[_Slope]
    shift: list[Finite]


_AnyCalibration = (
    NoCalibration
    | PlattCalibration
    | IsotonicCalibration
    | TemperatureCalibration
    | VectorCalibration
)

_CLASS_CALIBRATIONS = (NoCalibration, TemperatureCalibration, VectorCalibration)


class _NumericProfile(StrictPart):
    edges: list[Finite]
    shares: list[Finite]
    missing_share: Finite
    mean: Finite | None
    std: Finite | None
    n: int


class _LevelProfile(StrictPart):
    shares: dict[str, Finite]
    missing_share: Finite
    n: int


class _Reference(StrictPart):
    numeric: dict[str, _NumericProfile]
    categorical: dict[str, _LevelProfile]
    score: _NumericProfile


class _Category(StrictPart):
    name: str
    levels: list[str]


class _EncodedCategory(_Category):
    values: list[Finite]
    missing: Finite

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        if not len(self.values) == len(self.levels) == len(set(self.levels)):
            raise ValueError("a value of each level, and levels that differ")
        return self


class _Signature(StrictPart):
    numeric: list[str]
    categorical: list[_Category]
    encoded: Annotated[list[_EncodedCategory], Field(min_length=1)] | None = None

    @property
    def n_numbers(self) -> int:
        return len(self.numeric) + len(self.encoded or ())


class ModelDocument(StrictPart):
    """The content of ``model.json``."""

    format: Literal[2, 3, 4, 5, 6]
    model: str
    task: Literal["binary", "regression", "multiclass", "ranking"]
    signature: _Signature
    signature_digest: str
    trees_sha256: str
    calibration: Annotated[_AnyCalibration, Field(discriminator="method")]
    threshold: Finite
    decile_edges: Annotated[list[Finite], Field(max_length=_N_DECILES - 1)]
    metrics: dict[str, dict[str, Finite | None]]
    # A model that never serves, as in a backtest, has no reference profile.
    reference: _Reference | Annotated[dict[str, Any], Field(max_length=0)]
    training: dict[str, Any]
    golden: Golden
    linear: LinearMember | None = None
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    document_sha256: str | None = None

    @model_validator(mode="after")
    def _is_of_one_format(self) -> Self:
        must_be_sealed = self.format in SEALED_FORMATS
        must_have_probability = must_be_sealed and self.task in ("binary", "multiclass")
        is_sealed = self.document_sha256 is not None
        has_probability = self.golden.probability is not None
        # A file must not pass as an older one, which needs no digest.
        if is_sealed != must_be_sealed or has_probability != must_have_probability:
            raise ValueError("its digest and golden probabilities, as its format has them")
        if self.linear is not None and self.format not in (FORMAT, ENCODED_FORMAT):
            raise ValueError(f"a linear member in formats {FORMAT} and {ENCODED_FORMAT} only")
        if (self.format == ENCODED_FORMAT) != (self.signature.encoded is not None):
            raise ValueError(f"encoded categories exactly in format {ENCODED_FORMAT}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        n_features = self.signature.n_numbers + len(self.signature.categorical)
        if len(self.golden.rows[0]) != n_features:
            raise ValueError("golden rows of as many features as the signature")
        if (self.linear is None) != (self.golden.linear is None):
            raise ValueError("golden scores of the linear member exactly if there is one")
        if self.linear is not None and not self._has_terms(self.linear):
            raise ValueError("a term of the linear member for each feature and level")
        if self.decile_edges != sorted(self.decile_edges):
            raise ValueError("edges of deciles that never fall")
        return self

    @model_validator(mode="after")
    def _has_classes_alike(self) -> Self:
        n_scores = len(self.classes or ()) or 1
        is_of_classes = self.task == "multiclass"
        if (self.format == CLASSES_FORMAT, n_scores > 1) != (is_of_classes, is_of_classes):
            raise ValueError(f"classes, and format {CLASSES_FORMAT}, of task multiclass only")
        if self.golden.n_scores != n_scores or len(set(self.classes or ())) not in (0, n_scores):
            raise ValueError("a golden score of each class, and classes that differ")
        calibration = self.calibration
        if is_of_classes and not isinstance(calibration, _CLASS_CALIBRATIONS):
            raise ValueError("a calibration of classes")
        if isinstance(calibration, VectorCalibration):
            widths = {len(calibration.slope), len(calibration.shift)}
            if widths != {n_scores}:
                raise ValueError("a slope and a shift of each class")
        elif isinstance(calibration, TemperatureCalibration) and not is_of_classes:
            raise ValueError("a calibration of one score")
        return self

    def _has_terms(self, linear: LinearMember) -> bool:
        n_levels = [len(category.levels) for category in self.signature.categorical]
        has_levels = [len(term.levels) for term in linear.categorical] == n_levels
        return has_levels and len(linear.numeric) == self.signature.n_numbers


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the digest of all its content."""
    return {**document, SEAL: _digest(document)}


def read_document(content: bytes) -> tuple[ModelDocument, dict[str, Any]]:
    """Return the checked content of ``model.json``, and the same as plain JSON.

    Raises:
        ModelTextError: The digest is wrong, or a part is missing, unknown, or of another type.
        ValueError: It is no JSON, or holds a number that is not finite.
        RecursionError: It is nested too deeply.
    """
    document = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    if not isinstance(document, dict):
        raise refused("model.json is not an object", "an object", type(document).__name__)
    unsealed = dict(document)
    stored_digest = unsealed.pop(SEAL, None)
    digest = _digest(unsealed)
    if document.get("format") in SEALED_FORMATS and stored_digest != digest:
        raise refused("model.json is not what its trainer wrote", f"digest {stored_digest}", digest)
    try:
        return ModelDocument.model_validate(document), document
    except ValidationError as error:
        parts = set()
        # Names of parts only: their values may be levels that came from data.
        for detail in error.errors(include_input=False):
            location = ".".join(map(str, detail["loc"][:3]))
            parts.add(location or "the document")
        named = sorted(parts)[:_MAX_PARTS_NAMED]
        raise refused(
            "model.json cannot be read",
            "the parts that a trainer writes",
            f"wrong: {', '.join(named)}",
        ) from None


def _digest(content: dict[str, Any]) -> str:
    # Sorted keys: the digest must not depend on the order of the parts.
    text = json.dumps(content, sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a double")
    return number
