"""Print pip's settings as shell exports that uv understands; run by ``.ci/install``.

uv does not read pip's configuration. ``pip config get`` reads the user's file alone, so a
company's index and certificate in ``/etc/pip.conf`` would be missed; ``pip config list`` merges
the files of system, user and environment as ``pip install`` does.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys

SECTIONS = ("global", "install", ":env:")
"""In the order in which pip lets a later one win."""

NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def main() -> int:
    """Print one ``export NAME=value`` per setting that the environment does not give uv already."""
    for name, value in uv_settings(read_pip_settings()).items():
        if not os.environ.get(name):
            print(f"export {name}={shlex.quote(value)}")  # noqa: T201
    return 0


def read_pip_settings() -> dict[str, str]:
    """Return pip's effective settings by option name, for example ``index-url``."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        check=True,
        capture_output=True,
        text=True,
    )
    by_section: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in by_section:
            by_section[section][option] = ast.literal_eval(value)

    settings: dict[str, str] = {}
    for section in SECTIONS:
        settings |= by_section[section]
    return settings


def uv_settings(pip_settings: dict[str, str]) -> dict[str, str]:
    """Return environment variables of uv for pip's settings."""
    exports: dict[str, str] = {}
    for option, name in NAMES.items():
        if words := pip_settings.get(option, "").split():
            separator = "," if name == "UV_FIND_LINKS" else " "
            exports[name] = separator.join(words)
    return exports


if __name__ == "__main__":
    sys.exit(main())
