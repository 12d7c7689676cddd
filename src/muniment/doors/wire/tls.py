"""TLS contexts: ours towards clients, and what a target's manifest says towards it. Makes a CA where none is given."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muniment.model.errors import ConfigError, Problem
from muniment.model.rules import Target

CA_DAYS, LEAF_DAYS = 3650, 397  # a leaf longer than 397 days is refused by some clients
RENEW_DAYS = 30


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """What we show to clients. ConfigError when the files are not a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        mend = "give tls.cert and tls.key as PEM files that belong together and that this user may read"
        raise ConfigError(Problem("tls", f"{cert}, {key}: {error}", mend)) from error
    return context


def target_context(target: Target) -> tuple[ssl.SSLContext, str | None]:
    """What we want of a target, and the name that its certificate must carry (None: any)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = target.tls == "verify-full"
    if target.tls == "require":
        context.verify_mode = ssl.CERT_NONE
        return context, target.host
    try:
        context.load_verify_locations(target.ca_file) if target.ca_file else context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        mend = "give tls.ca.file as a PEM file that this user may read"
        raise ConfigError(Problem(f"Target/{target.name}", f"{target.ca_file}: {error}", mend)) from error
    return context, target.host


def ensure(directory: Path, deployment: str, now: datetime.datetime) -> tuple[Path, Path, Path]:
    """The paths of our CA's certificate, our certificate and its key; made, or made anew before they expire.

    The CA's key stays in `directory` with mode 0600; it signs nothing but this certificate.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_cert, ca_key = directory / "ca.pem", directory / "ca.key"
    cert, key = directory / "gateway.pem", directory / "gateway.key"
    if not (ca_cert.exists() and ca_key.exists()):
        _make_ca(ca_cert, ca_key, deployment, now)
    if not (cert.exists() and key.exists()) or _ends(cert) < now + datetime.timedelta(days=RENEW_DAYS):
        _make_leaf(ca_cert, ca_key, cert, key, deployment, now)
    return ca_cert, cert, key


def _ends(cert: Path) -> datetime.datetime:
    return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc


def _write(path: Path, data: bytes, mode: int) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "wb") as out:
        out.write(data)
    fresh.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_ca(cert_path: Path, key_path: Path, deployment: str, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Muniment CA of {deployment}"[:64])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write(key_path, _pem(key), 0o600)
    _write(cert_path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _names(deployment: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(deployment)))
    except ValueError:
        names += [x509.DNSName(deployment), x509.DNSName(f"*.{deployment}")]
    if deployment != "localhost":
        names.append(x509.DNSName("localhost"))
    return [*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.IPAddress(ipaddress.ip_address("::1"))]


def _make_leaf(
    ca_path: Path, ca_key_path: Path, cert_path: Path, key_path: Path, deployment: str, now: datetime.datetime
) -> None:
    ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_key_path.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ConfigError(Problem(str(ca_key_path), "not the CA key that was made here", "remove it to make a new CA"))
    key = ec.generate_private_key(ec.SECP256R1())
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, deployment[:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(deployment)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(key_path, _pem(key), 0o600)
    _write(cert_path, cert.public_bytes(serialization.Encoding.PEM), 0o644)
