"""SQL of what readers see: names and values are composed in, never pasted."""

import datetime as dt

from nightshift.warehouse.published import join_published, known_at_condition


def test_the_join_follows_the_pointer_of_one_dataset():
    assert join_published("features/o'hare", "f", pointer="fp").as_string(None) == (
        "join ops.published fp on fp.dataset = 'features/o''hare'"
        ' and fp.partition_date = "f".partition_date and fp.load_id = "f".load_id'
    )


def test_a_version_counts_from_its_delivery_until_the_next_one():
    as_of = dt.datetime(2013, 7, 2, 5, 30, tzinfo=dt.UTC)
    assert known_at_condition(as_of, "l").as_string(None) == (
        "\"l\".known_at <= '2013-07-02 05:30:00+00:00'::timestamptz"
        ' and ("l".superseded_at is null or'
        " \"l\".superseded_at > '2013-07-02 05:30:00+00:00'::timestamptz)"
    )
