"""The files that secure SeaweedFS: certificates of its inner parts, identities of its gateway.

Master, volumes, filer and admin trust everybody who reaches them: the master hands out write tokens
by HTTP, the filer takes entries by gRPC. With these files each inner connection needs a certificate
of this installation, on both sides.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightshift_local.home_files import write_private

CERTIFICATE_LIFETIME = dt.timedelta(days=7300)
CERTIFICATE_FILES = ("tls/ca.pem", "tls/cert.pem", "tls/key.pem")
SECURITY_FILE = "security.toml"
IDENTITIES_FILE = "identities.json"
GRPC_PARTS = (
    "master", "volume", "filer", "s3", "admin", "worker", "client", "msg_broker", "msg_agent", "mq",
)  # fmt: skip
HTTP_PARTS = ("master", "volume", "filer", "admin", "client")
CONTAINER_KEYS = {
    "nightshift": ("NIGHTSHIFT_S3_ACCESS_KEY_ID", "NIGHTSHIFT_S3_SECRET_ACCESS_KEY"),
    "mlflow": ("MLFLOW_S3_ACCESS_KEY_ID", "MLFLOW_S3_SECRET_ACCESS_KEY"),
}


@dataclass(frozen=True)
class KeyPair:
    """A key of the S3 gateway: its id and its secret."""

    key_id: str
    secret: str


def write_object_server_files(folder: Path, keys: Mapping[str, KeyPair], bucket: str) -> list[Path]:
    """Write certificates, ``security.toml`` and the S3 identities into the server's working folder.

    Args:
        folder: The folder in which the server will run; paths in the files are relative to it.
        keys: Key pairs: ``nightshift`` may do everything, ``mlflow`` may read ``mlflow/``.
        bucket: The bucket that ``mlflow`` reads.

    Returns:
        The files (mode 0600) and their folder, for the caller to hand to the server's user.
    """
    tls = folder / "tls"
    tls.mkdir(mode=0o700, exist_ok=True)
    # One installation, one certificate: it is made at the first start.
    if not all((folder / name).exists() for name in CERTIFICATE_FILES):
        _write_certificates(folder)
    identities = {"identities": _identities(keys, bucket)}
    write_private(folder / SECURITY_FILE, _security_text())
    write_private(folder / IDENTITIES_FILE, json.dumps(identities, indent=2))
    names = (*CERTIFICATE_FILES, SECURITY_FILE, IDENTITIES_FILE)
    return [tls, *(folder / name for name in names)]


def _identities(keys: Mapping[str, KeyPair], bucket: str) -> list[dict[str, object]]:
    actions = {
        "nightshift": ["Admin", "Read", "Write", "List", "Tagging"],
        # Of a page for people: it never needs another prefix, and never writes.
        "mlflow": [f"Read:{bucket}/mlflow/*", f"List:{bucket}/mlflow/*"],
    }
    return [
        {
            "name": name,
            "credentials": [{"accessKey": pair.key_id, "secretKey": pair.secret}],
            "actions": actions[name],
        }
        for name, pair in keys.items()
    ]


def _security_text() -> str:
    """Return SeaweedFS's configuration: each inner part demands a certificate of ours."""
    ca, cert, key = CERTIFICATE_FILES
    pair = f'cert = "{cert}"\nkey = "{key}"\n'
    grpc = [f"[grpc.{part}]\n{pair}" for part in GRPC_PARTS]
    https = [f'[https.{part}]\n{pair}ca = "{ca}"\n' for part in HTTP_PARTS]
    return "\n".join([f'[grpc]\nca = "{ca}"\n', *grpc, *https]) + "enabled = true\n"


def _write_certificates(folder: Path) -> None:
    """Sign one certificate for all parts; the authority's key is not stored."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(
        subject: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder(name("nightshift object server authority"), name(subject))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # A day back: clocks of containers may differ.
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + CERTIFICATE_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )

    # Only this function knows the authority's key: nobody can sign another certificate later.
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    authority = builder("nightshift object server authority", authority_key, is_authority=True)
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        builder("nightshift object server", key, is_authority=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    contents = (
        authority.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        certificate.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
    )
    for path, content in zip(CERTIFICATE_FILES, contents, strict=True):
        write_private(folder / path, content.decode())


def main() -> None:
    """Write a container's files into its working folder; the keys come from its environment."""
    keys = {}
    for name, (key_id, secret) in CONTAINER_KEYS.items():
        keys[name] = KeyPair(os.environ[key_id], os.environ[secret])
    bucket = os.environ.get("NIGHTSHIFT_S3_BUCKET", "nightshift")
    write_object_server_files(Path.cwd(), keys, bucket)


if __name__ == "__main__":
    main()
