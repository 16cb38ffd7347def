"""The keys that tokens are verified with.

A key knows the algorithms it may be used with, so that the algorithm that a token claims never decides how a key is
read: an RSA public key is no HMAC secret (RFC 8725 §2.1), and `none` is no algorithm at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jwt.algorithms import get_default_algorithms, has_crypto
from jwt.exceptions import InvalidKeyError

from .errors import ConfigError

__all__ = ["ALGORITHMS", "HMAC", "Key", "ecdsa_key", "hmac_key", "require_cryptography", "rsa_key"]

HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512")
CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
ALGORITHMS = (*HMAC, *RSA, "ES256", "ES384", "ES512", "EdDSA")

# Without cryptography only the HMAC ones are there, and no other key can be made.
_CHECKS = {name: check for name, check in get_default_algorithms().items() if name in ALGORITHMS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key; `material` is what PyJWT's algorithms take, `kid` its name in a key set or ""."""

    algorithms: tuple[str, ...]
    material: Any = field(repr=False)
    kid: str = ""

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` was made over `signed` with this key and an algorithm that it is for."""
        return algorithm in self.algorithms and _CHECKS[algorithm].verify(signed, self.material, signature)


def require_cryptography(setting: str) -> None:
    """Raises ConfigError if a key of `setting` could not be used."""
    if not has_crypto:
        raise ConfigError(f"{setting} needs the package cryptography: pip install 'broadcast-hub[jwt]'")


def hmac_key(secret: str, setting: str) -> Key:
    """A shared secret; `setting` names its origin in the ConfigError."""
    try:
        return Key(algorithms=HMAC, material=_CHECKS["HS256"].prepare_key(secret))
    except InvalidKeyError as error:
        # Whoever knows a public key could sign with it.
        raise ConfigError(f"{setting} is not a secret: {error}") from None


def rsa_key(pem: str, setting: str) -> Key:
    """An RSA public key in PEM."""
    return Key(algorithms=RSA, material=_public(pem, setting, "RSA"))


def ecdsa_key(pem: str, setting: str) -> Key:
    """An ECDSA public key in PEM; its curve decides the algorithm (RFC 7518 §3.4)."""
    material = _public(pem, setting, "EC")
    if material.curve.name not in CURVES:
        raise ConfigError(f"{setting} has the curve {material.curve.name}, known are {', '.join(CURVES)}")
    return Key(algorithms=CURVES[material.curve.name], material=material)


def _public(pem: str, setting: str, kind: str) -> Any:
    require_cryptography(setting)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        material = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{setting} is not a public key in PEM format") from None
    if not isinstance(material, {"RSA": RSAPublicKey, "EC": EllipticCurvePublicKey}[kind]):
        raise ConfigError(f"{setting} is a public key of another kind than {kind}")
    return material
