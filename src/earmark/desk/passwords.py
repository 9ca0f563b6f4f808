"""Passwords and tokens as the database keeps them.

Passwords are Argon2id hashes (RFC 9106), tokens the SHA-256 of what only a browser or a link has.
"""

import hashlib
import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from earmark.errors import EarmarkError

LEAST_PASSWORD, MOST_PASSWORD = 12, 200

_hasher = PasswordHasher()
#: Each takes 64 MiB, and anybody can ask for it.
_computing = threading.BoundedSemaphore(2)


def hashed(password: str) -> str:
    """A password's hash, in PHC string format.

    Raises:
        EarmarkError: it is too short or too long.
    """
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise EarmarkError(
            f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters; this one has "
            f"{len(password)}"
        )
    with _computing:
        return _hasher.hash(password)


def fits(password: str, hash: str) -> bool:
    """Whether a password is the one of a hash."""
    try:
        with _computing:
            return _hasher.verify(hash, password[: MOST_PASSWORD + 1])
    except VerificationError:
        return False


@cache
def nobodys_hash() -> str:
    """A hash to compare with for names that don't exist, so that time does not tell them apart."""
    return _hasher.hash(secrets.token_urlsafe())


def digest(token: str) -> bytes:
    """A token's SHA-256."""
    return hashlib.sha256(token.encode()).digest()
