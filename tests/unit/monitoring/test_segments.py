from __future__ import annotations

from nightshift.monitoring.performance import Performance
from nightshift.monitoring.segments import loss_segment


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
    assert loss_segment(performance, "log_loss", -0.1) == "carrier=UA: 100% of the loss"


def test_no_slice_is_named_when_the_loss_is_everywhere() -> None:
    performance = [part("all", "", 0.6, 0.5, 1000)]
    performance += [part("carrier", str(number), 0.6, 0.5, 100) for number in range(10)]
    assert loss_segment(performance, "log_loss", -0.1) is None


def test_no_slice_is_named_without_a_loss_or_for_a_metric_that_does_not_add_up() -> None:
    performance = [part("all", "", 0.3, 0.5, 100), part("carrier", "UA", 0.3, 0.5, 100)]
    assert loss_segment(performance, "log_loss", -0.1) is None
    assert loss_segment(performance, "roc_auc", -0.1) is None
