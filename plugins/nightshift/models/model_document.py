"""What ``model.json`` may say: every part with its type, and a digest over all of them that its trainer has made.

The warehouse knows the digest of the file; this one is there before the file has reached the
bucket. Source: docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightshift.models.model_format.tokens import refused

FORMAT = 3
"""3: with its own digest, and golden probabilities. Another format than this or the one before
is refused: train again.
"""
UNSEALED_FORMAT = 2
"""With golden predictions of raw scores only; such versions still serve."""
SEAL = "document_sha256"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NoCalibration(_Strict):
    """The sigmoid of the raw score."""

    method: Literal["none"]


class PlattCalibration(_Strict):
    """A rising logistic curve."""

    method: Literal["platt"]
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Finite


class IsotonicCalibration(_Strict):
    """Steps that never fall, at raw scores that rise."""

    method: Literal["isotonic"]
    raw: Annotated[list[Finite], Field(min_length=1)]
    probability: list[Share]

    @model_validator(mode="after")
    def _rises(self) -> IsotonicCalibration:
        is_rising = all(left < right for left, right in pairwise(self.raw))
        if (
            len(self.raw) != len(self.probability)
            or not is_rising
            or self.probability != sorted(self.probability)
        ):
            raise ValueError("as many probabilities as raw scores, both in order")
        return self


class _NumericProfile(_Strict):
    edges: list[Finite]
    shares: list[Finite]
    missing_share: Finite
    mean: Finite | None
    std: Finite | None
    n: int


class _LevelProfile(_Strict):
    shares: dict[str, Finite]
    missing_share: Finite
    n: int


class _Reference(_Strict):
    numeric: dict[str, _NumericProfile]
    categorical: dict[str, _LevelProfile]
    score: _NumericProfile


class _Category(_Strict):
    name: str
    levels: list[str]


class _Signature(_Strict):
    numeric: list[str]
    categorical: list[_Category]


class _Golden(_Strict):
    rows: list[list[Finite | None]]
    raw: list[Finite]
    contributions: list[list[Finite]]
    probability: list[Share] | None = None


class ModelDocument(_Strict):
    """The whole of ``model.json``."""

    format: Literal[2, 3]
    model: str
    task: Literal["binary", "regression", "multiclass", "ranking"]
    signature: _Signature
    signature_digest: str
    trees_sha256: str
    calibration: Annotated[
        NoCalibration | PlattCalibration | IsotonicCalibration, Field(discriminator="method")
    ]
    threshold: Finite
    decile_edges: list[Finite]
    metrics: dict[str, dict[str, Finite | None]]
    reference: _Reference | Annotated[dict[str, Any], Field(max_length=0)]
    training: dict[str, Any]
    golden: _Golden
    document_sha256: str | None = None

    @model_validator(mode="after")
    def _is_of_one_format(self) -> ModelDocument:
        is_sealed = self.format == FORMAT
        has_probability = self.golden.probability is not None
        if (self.document_sha256 is not None) != is_sealed or has_probability != (
            is_sealed and self.task == "binary"
        ):
            raise ValueError("its digest and golden probabilities, as its format has them")
        return self


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the digest of all that it says."""
    return {**document, SEAL: _digest(document)}


def check_document(document: dict[str, Any]) -> None:
    """Refuse a document that is not what its trainer wrote, or holds what no trainer writes.

    Raises:
        ModelTextError: Its digest is not its own, or a part is missing, strange, or of another
            type.
    """
    if not isinstance(document, dict):
        raise refused("model.json is no document", "an object", type(document).__name__)
    content = {name: value for name, value in document.items() if name != SEAL}
    if document.get("format") == FORMAT and document.get(SEAL) != _digest(content):
        raise refused(
            "model.json is not what its trainer wrote",
            f"digest {document.get(SEAL)}",
            _digest(content),
        )
    try:
        ModelDocument.model_validate(document)
    except ValidationError as error:
        # Names of parts only: their values may be levels that came from data.
        parts = sorted(
            {
                ".".join(map(str, part["loc"][:3])) or "the document"
                for part in error.errors(include_input=False)
            }
        )
        raise refused(
            "model.json cannot be read",
            "the parts that a trainer writes",
            f"wrong: {', '.join(parts[:5])}",
        ) from None


def _digest(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
