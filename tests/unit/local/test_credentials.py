"""Secrets are generated once, and only their owner can read them."""

import base64
import stat

from nightshift_local.credentials import Credentials, new_fernet_key, new_hex_key


def test_secret_is_stable_when_asked_again(tmp_path):
    first = Credentials(tmp_path).get("postgres-superuser")
    assert len(first) == 32
    assert Credentials(tmp_path).get("postgres-superuser") == first
    assert Credentials(tmp_path).get("other") != first


def test_file_is_closed_to_others_when_secret_is_generated(tmp_path):
    credentials = Credentials(tmp_path)
    credentials.get("key", new_hex_key)
    assert stat.S_IMODE(credentials.path("key").stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.path("key").parent.stat().st_mode) == 0o700


def test_keys_have_256_bits_when_generated():
    assert len(bytes.fromhex(new_hex_key())) == 32
    assert len(base64.urlsafe_b64decode(new_fernet_key())) == 32
