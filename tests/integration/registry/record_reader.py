"""Read an evidence record as a stranger would: its verdict must follow from its own numbers.

Nothing of the library is used. What has no number, such as digests that agree, is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AT_MOST = (
    "training_window", "unique_rows", "fitted_rows", "leakage", "refit", "scoring_time",
    "model_size", "calibration[error]", "churn[deciles]", "churn[top_k]", "churn[classes]",
)  # fmt: skip

FAMILIES = {
    "provenance", "signature", "training_window", "unique_rows", "fitted_rows", "evidence_rows",
    "leakage", "point_in_time", "feature_agreement", "scores", "refit", "scoring_time",
    "model_size", "non_inferiority", "superiority", "refresh", "baseline", "calibration", "slice",
    "fairness", "churn",
}  # fmt: skip
"""A record without one of them is a refusal."""


def contradictions(record: dict[str, Any]) -> list[str]:
    """Return what does not follow: of each criterion from its numbers, of the verdict from all."""
    wrong = []
    for one in record["criteria"]:
        # A criterion that crashed, or has no subject, has nothing to be derived from.
        if one["verdict"] in ("unknown", "not_applicable"):
            continue
        expected = _expected(one, record)
        if expected not in (None, one["verdict"]):
            wrong.append(f"{one['name']}: {one['verdict']}, its numbers say {expected}")
    if record["verdict"] != (verdict := _verdict(record)):
        wrong.append(f"{record['verdict']}, the criteria say {verdict}")
    return wrong


def _verdict(record: dict[str, Any]) -> str:
    by_name = {one["name"]: one["verdict"] for one in record["criteria"]}
    families = {name.partition("[")[0] for name in by_name}
    if {"failed", "unknown"} & set(by_name.values()) or FAMILIES - families:
        return "refused"
    if record["champion"] is None:
        return "first"
    if by_name["superiority"] == "passed":
        return "promoted"
    # A champion that cannot score this spec is compared in nothing.
    is_replaced = "not_applicable" in (by_name["superiority"], by_name.get("non_inferiority"))
    return "refreshed" if by_name["refresh"] == "passed" or is_replaced else "shadowed"


def _expected(one: dict[str, Any], record: dict[str, Any]) -> str | None:
    family = one["name"].partition("[")[0]
    if family in ("superiority", "refresh"):
        return "passed" if _is_proved(one, record["limits"]) else "unproven"
    rule = RULES.get(one["name"], RULES.get(family))
    if rule is None or one["number"] is None:
        return None
    if family == "non_inferiority":
        low, high = one["interval"]
        if high < 0 and one["number"] < one["limit"]:
            return "failed"
        return "passed" if low >= one["limit"] else "unproven"
    return "passed" if rule(one, record) else "failed"


def _is_at_most(one: dict[str, Any], _: dict[str, Any]) -> bool:
    return bool(one["number"] <= one["limit"])


def _is_at_least(one: dict[str, Any], _: dict[str, Any]) -> bool:
    return bool(one["number"] >= one["limit"])


def _has_evidence(one: dict[str, Any], _: dict[str, Any]) -> bool:
    n_days, n_rows = (int(part.split()[0]) for part in one["limit"].split(","))
    is_enough = one["facts"]["n_days"] >= n_days and one["number"] >= n_rows
    return bool(is_enough and one["facts"]["n_labels"] > 1)


def _has_scores(one: dict[str, Any], _: dict[str, Any]) -> bool:
    return bool(one["number"] <= one["limit"] and one["facts"]["n_distinct"] > 1)


def _may_beat(one: dict[str, Any], _: dict[str, Any]) -> bool:
    return bool(one["interval"][1] >= one["limit"])


def _beats(one: dict[str, Any], record: dict[str, Any]) -> bool:
    by_name = {part["name"]: part["verdict"] for part in record["criteria"]}
    if by_name.get("non_inferiority") != "not_applicable":
        return _may_beat(one, record)
    return bool(one["number"] > 0 and one["number"] >= one["limit"])


def _is_calibrated(one: dict[str, Any], _: dict[str, Any]) -> bool:
    decides = one["number"] if one["facts"]["bound"] == "excess" else one["interval"][0]
    return bool(decides <= one["limit"])


def _has_slope(one: dict[str, Any], _: dict[str, Any]) -> bool:
    least, most = map(float, one["limit"].split(" to "))
    return bool(one["interval"][1] >= least and one["interval"][0] <= most)


def _is_not_worse(one: dict[str, Any], record: dict[str, Any]) -> bool:
    is_proved = one["facts"]["p_adjusted"] < 1 - record["limits"]["confidence"]
    return not (is_proved and one["number"] < one["limit"])


RULES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    **dict.fromkeys(AT_MOST, _is_at_most),
    "evidence_rows": _has_evidence,
    "scores": _has_scores,
    "non_inferiority": _is_at_least,
    "baseline": _may_beat,
    "baseline[prior]": _beats,
    "baseline[rule]": _beats,
    "calibration[excess]": _is_calibrated,
    "calibration[slope]": _has_slope,
    "slice": _is_not_worse,
    "churn": _is_at_least,
}
"""By criterion, or else by family; the others have no number that decides alone."""


def _is_proved(one: dict[str, Any], limits: dict[str, Any]) -> bool:
    facts = one["facts"]
    if one["name"] == "superiority":
        is_enough = facts["champion_nights"] >= 14 and facts["champion_gain"] > 0
        return bool(one["number"] >= one["limit"] and is_enough and facts["n_unscored"] <= 1)
    is_losing = facts.get("champion_nights", 0) >= 14 and facts["champion_gain"] < 0
    if one["number"] < limits["stale_after_days"] or is_losing or facts["n_unscored"] > 1:
        return False
    return not any(
        gain["low"] < -gain["margin"] or gain["value"] < 0 or gain["standard_error"] == 0
        for gain in facts["gains"].values()
    )
