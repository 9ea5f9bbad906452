from __future__ import annotations

from nightshift.monitoring.performance import Performance
from nightshift.monitoring.segments import loss_segment

SEGMENT = "carrier=UA: 100% of the loss, 20% of the rows"


def part(name: str, value: str, loss: float, rule: float, n_labels: int) -> Performance:
    return Performance(name, value, "log_loss", loss, rule, n_labels)


def test_slice_that_lost_most_is_named_with_its_share() -> None:
    # 200 rows lose 0.3 each, 60 in all; 800 rows lose nothing against the usual advantage of 0.1.
    performance = [
        part("all", "", 0.46, 0.5, 1000),
        part("carrier", "UA", 0.7, 0.5, 200),
        part("carrier", "B6", 0.4, 0.5, 800),
        Performance("carrier", "UA", "brier", 9.0, 0.1, 200),
    ]
    assert loss_segment(performance, "log_loss", -0.1) == SEGMENT


def test_no_slice_is_named_when_the_loss_is_everywhere() -> None:
    performance = [part("all", "", 0.6, 0.5, 1000)]
    performance += [part("carrier", str(number), 0.6, 0.5, 100) for number in range(10)]
    assert loss_segment(performance, "log_loss", -0.1) is None


def test_no_large_slice_is_named_for_its_rows_when_the_loss_is_everywhere() -> None:
    # Three airports with a third of the flights each; one carrier of half of them.
    performance = [part("all", "", 0.6, 0.5, 900)]
    performance += [part("origin", origin, 0.6, 0.5, 300) for origin in ("EWR", "JFK", "LGA")]
    performance += [part("carrier", "UA", 0.62, 0.5, 450), part("carrier", "AA", 0.58, 0.5, 450)]
    assert loss_segment(performance, "log_loss", -0.1) is None


def test_small_slice_is_named_before_a_large_one_of_the_same_loss() -> None:
    # LGA lost 0.35 on 300 rows, MQ among them 0.9 on 100; all else kept the usual advantage.
    performance = [
        part("all", "", 0.5, 0.5, 900),
        part("origin", "LGA", 0.7, 0.5, 300),
        part("carrier", "MQ", 1.25, 0.5, 100),
    ]
    named = loss_segment(performance, "log_loss", -0.1)
    assert named == "carrier=MQ: 94% of the loss, 11% of the rows"


def test_no_slice_is_named_without_a_loss_or_for_a_metric_that_does_not_add_up() -> None:
    performance = [part("all", "", 0.3, 0.5, 100), part("carrier", "UA", 0.3, 0.5, 100)]
    assert loss_segment(performance, "log_loss", -0.1) is None
    assert loss_segment(performance, "roc_auc", -0.1) is None
