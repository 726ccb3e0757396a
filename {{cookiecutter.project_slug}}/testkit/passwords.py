"""Password hashing that costs nothing, for the usual libraries."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

CHEAP_ARGON2 = {"time_cost": 1, "memory_cost": 8, "parallelism": 1}  # memory in KiB
CHEAP_BCRYPT = 4  # the lowest cost that bcrypt allows
# Defaults for passlib's `CryptContext`, which apply unless it is configured otherwise.
PASSLIB = {
    "bcrypt": ("bcrypt", {"default_rounds": CHEAP_BCRYPT}),
    "argon2": ("argon2", {"default_rounds": 1, "memory_cost": 8, "parallelism": 1}),
    "pbkdf2": ("pbkdf2_sha256", {"default_rounds": 1}),
    "sha2_crypt": ("sha512_crypt", {"default_rounds": 1000}),
}


def hash_cheaply() -> None:
    """Makes bcrypt, argon2-cffi, pwdlib and passlib hash in about 1 ms or less from now on; the hashes are real.

    Call it before the application is imported. Existing hashes of another cost are still verified, at that cost.
    A test about production's cost has to check the application's parameters instead.
    """
    _change("bcrypt", "gensalt", _with_few_rounds)
    _change("argon2", "PasswordHasher.__init__", _with_cheap_parameters)
    for module, (name, defaults) in PASSLIB.items():
        handler = _import(f"passlib.handlers.{module}")
        for attribute, value in defaults.items() if handler else ():
            setattr(getattr(handler, name), attribute, value)


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _change(library: str, name: str, change: Callable[..., Any]) -> None:
    owner = _import(library)
    if owner is None:
        return
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, last, change(getattr(owner, last)))


def _with_few_rounds(gensalt: Callable[..., bytes]) -> Callable[..., bytes]:
    @wraps(gensalt)
    def changed(_rounds: int = CHEAP_BCRYPT, prefix: bytes = b"2b") -> bytes:
        return gensalt(CHEAP_BCRYPT, prefix)

    return changed


def _with_cheap_parameters(create: Callable[..., None]) -> Callable[..., None]:
    @wraps(create)
    def changed(hasher: object, *_: int, **options: Any) -> None:
        create(hasher, **options | CHEAP_ARGON2)

    return changed
