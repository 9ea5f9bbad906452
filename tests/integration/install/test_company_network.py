"""``make install`` where the only index is a company's own, behind a certificate of its own."""

from __future__ import annotations

import base64
import datetime as dt
import http.server
import os
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NOT_IN_A_WHEEL = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", ".pyc")


@dataclass(frozen=True)
class Index:
    """A package index over HTTPS.

    Attributes:
        url: Address of its simple API.
        certificate: File with the CA that has signed its certificate.
        lock: Text of a ``requirements-dev.txt`` with hashes of all that it has.
    """

    url: str
    certificate: Path
    lock: str


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Serve uv and two small packages; one requires an extra that the lock leaves out."""
    folder = tmp_path_factory.mktemp("index")
    wheels = [
        pack_uv(folder),
        pack(
            folder,
            "inner",
            requires="Provides-Extra: more\nRequires-Dist: absent; extra == 'more'\n",
        ),
        pack(folder, "outer", requires="Requires-Dist: inner[more]<2,>=1\n"),
    ]
    ca_file, server_file = sign_certificate(folder)
    handler = partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lock = "".join(f"{pin(wheel)} \\\n    --hash=sha256:{digest_of(wheel)}\n" for wheel in wheels)
    yield Index(f"https://localhost:{server.server_port}/simple/", ca_file, lock)
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder without a log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def project(tmp_path: Path, index: Index) -> Path:
    """Return a checkout, in a path with a space, whose lock is the index's."""
    folder = tmp_path / "a check out"
    (folder / ".ci").mkdir(parents=True)
    for name in ("install", "pip_settings.py"):
        shutil.copy(PROJECT_ROOT / ".ci" / name, folder / ".ci" / name)
    (folder / "plugins" / "nightshift").mkdir(parents=True)
    (folder / "plugins" / "nightshift" / "__init__.py").touch()
    (folder / "requirements-dev.txt").write_text(index.lock)
    return folder


def install(
    project: Path, pip_conf: str, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installation with a foreign pip configuration, and no other setting."""
    home = project.parent / "home"
    home.mkdir()
    # Not `/etc/pip.conf`, which a test must not write; `pip config get` misses this file as well.
    shared = project.parent / "pip.conf"
    shared.write_text(pip_conf)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": str(shared),
        "UV_CACHE_DIR": str(home / "cache"),
        **(more or {}),
    }
    return subprocess.run(
        [str(project / ".ci" / "install")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def installed(project: Path) -> set[str]:
    """Return the packages in the checkout's environment."""
    python = project / ".venv" / "bin" / "python"
    code = "from importlib.metadata import distributions as d; print(*{x.name for x in d()})"
    return set(
        subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_packages_come_from_the_systems_index_when_its_ca_is_private(project: Path, index: Index):
    done = install(project, f"[global]\nindex-url = {index.url}\ncert = {index.certificate}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trying pip" not in done.stdout, done.stderr
    assert {"outer", "inner", "uv"} <= installed(project)


def test_pip_installs_the_lock_when_uv_cannot(project: Path, index: Index):
    done = install(
        project,
        f"[global]\nindex-url = {index.url}\ncert = {index.certificate}\n",
        {"UV_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trying pip" in done.stdout
    assert {"outer", "inner", "uv"} <= installed(project)


def test_nothing_is_installed_when_the_ca_is_unknown(project: Path, index: Index):
    done = install(project, f"[global]\nindex-url = {index.url}\nretries = 0\n")
    assert done.returncode != 0
    assert "No matching distribution found for uv" in done.stderr


def pack(folder: Path, name: str, requires: str) -> Path:
    """Write a wheel with one empty module."""
    contents = {
        f"{name}.py": b"",
        f"{name}-1.0.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}".encode()
        ),
        f"{name}-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    return write_wheel(folder, f"{name}-1.0-py3-none-any.whl", contents)


def pack_uv(folder: Path) -> Path:
    """Write the wheel of the uv that runs these tests, from its installed files."""
    uv = metadata.distribution("uv")
    contents: dict[str, bytes] = {}
    for file in uv.files or []:
        if not file.name.endswith(NOT_IN_A_WHEEL):
            is_script = file.parts[-2] == "bin"
            name = f"uv-{uv.version}.data/scripts/{file.name}" if is_script else str(file)
            contents[name] = Path(str(file.locate())).read_bytes()
    return write_wheel(folder, f"uv-{uv.version}-py3-none-any.whl", contents)


def write_wheel(folder: Path, name: str, contents: dict[str, bytes]) -> Path:
    """Write a wheel, not compressed, into the index."""
    distribution, version, *_ = name.split("-")
    place = folder / "simple" / distribution
    place.mkdir(parents=True)
    record = [f"{path},sha256={record_hash(data)},{len(data)}" for path, data in contents.items()]
    record_path = f"{distribution}-{version}.dist-info/RECORD"
    with zipfile.ZipFile(place / name, "w") as archive:
        for path, data in contents.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(info, data)
        archive.writestr(record_path, "\n".join([*record, f"{record_path},,"]) + "\n")
    (place / "index.html").write_text(
        f'<a href="{name}#sha256={digest_of(place / name)}">{name}</a>'
    )
    return place / name


def record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()


def digest_of(wheel: Path) -> str:
    return sha256(wheel.read_bytes()).hexdigest()


def pin(wheel: Path) -> str:
    distribution, version, *_ = wheel.name.split("-")
    return f"{distribution}=={version}"


def sign_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a CA, and a certificate for localhost that it signed with its key.

    Returns:
        The CA's certificate, and a file with the server's certificate and key.
    """
    ca_key, server_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A company's CA")])
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    is_ca = x509.BasicConstraints(ca=True, path_length=None)
    is_localhost = x509.SubjectAlternativeName([x509.DNSName("localhost")])

    ca = build_certificate(ca_name, ca_name, ca_key).add_extension(is_ca, critical=True)
    server = build_certificate(server_name, ca_name, server_key).add_extension(
        is_localhost, critical=False
    )
    pem = serialization.Encoding.PEM
    key_pem = server_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    server_file.write_bytes(server.sign(ca_key, hashes.SHA256()).public_bytes(pem) + key_pem)
    return ca_file, server_file


def build_certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """Return a certificate of two hours that nobody has signed yet."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
    )
