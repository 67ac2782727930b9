"""A certificate authority and node certificates for development."""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS: Final = 3650
NODE_DAYS: Final = 90
URI: Final = "urn:agentos:stack:"
HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def make_authority(directory: Path) -> None:
    """Make `ca.pem` and `ca.key` in a directory, unless they are there."""
    if (directory / "ca.pem").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AgentOS development CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory / "ca.key", key, None)
    _write(directory / "ca.pem", None, certificate)


def make_node_certificate(
    directory: Path,
    stack_id: str,
    hosts: Sequence[str] = (),
    *,
    valid: timedelta = timedelta(days=NODE_DAYS),
) -> tuple[Path, Path]:
    """Make `<stack_id>.pem` and `.key`, signed by the directory's authority; returns both.

    The SAN names the stack (`DNS:<stack_id>` and a URI): that is the node's identity.
    """
    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    signer = load_pem_private_key((directory / "ca.key").read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("ca.key is no key that this command made")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stack_id[:64])])
    names: list[x509.GeneralName] = [
        x509.DNSName(stack_id),
        x509.UniformResourceIdentifier(URI + stack_id),
        *(_general(host) for host in (*HOSTS, *hosts)),
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(name, authority.subject, key.public_key(), valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    certificate_path, key_path = directory / f"{stack_id}.pem", directory / f"{stack_id}.key"
    _write(key_path, key, None)
    _write(certificate_path, None, certificate)
    return certificate_path, key_path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begin = min(now, now + valid) - timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + valid)
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    path: Path, key: ec.EllipticCurvePrivateKey | None, certificate: x509.Certificate | None
) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if key else 0o644)
    with os.fdopen(handle, "wb") as file:
        if key is not None:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        if certificate is not None:
            file.write(certificate.public_bytes(Encoding.PEM))
