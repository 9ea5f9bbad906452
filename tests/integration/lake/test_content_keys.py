"""A key that names its content's digest can be verified by whoever holds the key."""

from hashlib import sha256

import pytest

from nightshift.lake.content_keys import content_key, digest_in
from nightshift.lake.object_errors import ObjectCorruptError

pytestmark = pytest.mark.integration

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_key_names_the_digest_of_its_content():
    assert content_key("reports/m", b"hello", ".html") == f"reports/m/{HELLO}.html"
    assert digest_in(content_key("models/m/figures", b"hello", "-roc.png")) == HELLO


@pytest.mark.parametrize(
    "key",
    [
        "reports/m/0123456789abcdef.html",
        "landing/weather/dt=2013-01-01/weather.csv",
        f"{HELLO}/page.html",
        "",
    ],
)
def test_key_without_a_digest_in_its_last_part_names_none(key):
    assert digest_in(key) is None


@pytest.mark.promise("R13")
def test_read_by_such_a_key_is_refused_when_the_bucket_holds_other_content(store):
    """The bucket's own checksum is right: the other content was written in the regular way."""
    key = content_key("reports/m", b"hello", ".html")
    store.put(key, b"not what the warehouse names")

    with pytest.raises(
        ObjectCorruptError, match=sha256(b"not what the warehouse names").hexdigest()
    ):
        store.get(key, digest_in(key))
