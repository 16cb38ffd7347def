"""A certificate for 127.0.0.1 that nobody else trusts."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from .needs import need


def self_signed(folder: Path) -> tuple[Path, Path]:
    """(certificate, key), made by the system's openssl."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    openssl = need("openssl", hint="apt install openssl")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *kind, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    """For a client."""
    return ssl.create_default_context(cafile=str(certificate))
