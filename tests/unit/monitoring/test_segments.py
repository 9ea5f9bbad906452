from __future__ import annotations

from nightshift.monitoring.columns.column_drift import Drift
from nightshift.monitoring.performance import Performance
from nightshift.monitoring.segments import SliceMean, loss_segment, shift_segment, shifted_slice

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


def drift(feature: str, distance: float) -> Drift:
    return Drift(
        feature=feature,
        kind="numeric",
        distance=distance,
        statistic="mean",
        value=1.0,
        usual=0.0,
        usual_variation=0.1,
        n_nights=20.0,
        missing_share=0.0,
        reference_missing_share=0.0,
        mean=1.0,
        reference_mean=0.0,
        n_rows=900,
        is_drifted=distance > 4,
    )


ALL_UP = SliceMean("all", "", 900, 3.0, 2.0)


def test_slice_that_carries_a_shift_is_named_before_its_column() -> None:
    # EWR is 3 higher on 300 rows, which is the shift of 1 on all 900; one of its carriers has 100.
    slices = [
        ALL_UP,
        SliceMean("origin", "EWR", 300, 5.0, 2.0),
        SliceMean("origin", "JFK", 300, 2.0, 2.0),
        SliceMean("origin", "LGA", 300, 2.0, 2.0),
        SliceMean("carrier", "UA", 100, 5.0, 2.0),
    ]
    read: list[str] = []

    def read_slices(of: Drift) -> list[SliceMean]:
        read.append(of.feature)
        return slices

    named = shift_segment([drift("weight", 5.0), drift("wind", 9.0)], read_slices)
    assert named == (
        "origin=EWR: 100% of the shift, 33% of the rows; wind: mean at 9.0 usual variations"
    )
    # One scan, of the column that is named.
    assert read == ["wind"]


def test_slice_of_a_fall_is_named_as_that_of_a_rise() -> None:
    slices = [SliceMean("all", "", 900, 1.0, 2.0), SliceMean("origin", "EWR", 300, -1.0, 2.0)]
    assert shifted_slice(slices) == "origin=EWR: 100% of the shift, 33% of the rows"


def test_no_slice_is_named_when_the_shift_is_everywhere() -> None:
    everywhere = [SliceMean("origin", name, 300, 3.0, 2.0) for name in ("EWR", "JFK", "LGA")]
    slices = [ALL_UP, *everywhere, SliceMean("carrier", "UA", 450, 3.1, 2.0)]
    assert shifted_slice(slices) is None
    assert shift_segment([drift("wind", 9.0)], lambda _: slices) == (
        "wind: mean at 9.0 usual variations"
    )


def test_no_slice_is_named_when_only_the_sizes_of_slices_changed() -> None:
    # JFK is always higher and has more flights tonight: no airport has shifted.
    slices = [
        ALL_UP,
        SliceMean("origin", "EWR", 300, 1.0, 1.0),
        SliceMean("origin", "JFK", 600, 4.0, 4.0),
    ]
    assert shifted_slice(slices) is None


def test_level_that_never_was_is_compared_with_all_rows() -> None:
    slices = [ALL_UP, SliceMean("carrier", "XX", 100, 11.0, None)]
    assert shifted_slice(slices) == "carrier=XX: 100% of the shift, 11% of the rows"


def test_no_slice_is_named_without_a_shift_or_without_rows() -> None:
    level = SliceMean("origin", "EWR", 3, 5.0, 2.0)
    assert shifted_slice([]) is None
    assert shifted_slice([SliceMean("all", "", 9, 2.0, 2.0), level]) is None
    # The training rows are gone.
    unknown = SliceMean("origin", "EWR", 3, 5.0, None)
    assert shifted_slice([SliceMean("all", "", 9, 2.0, None), unknown]) is None
    assert shifted_slice([ALL_UP, SliceMean("origin", "EWR", 0, None, 2.0)]) is None
