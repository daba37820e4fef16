"""Keys of [age](https://age-encryption.org): recipients, which are public, and identities, which open what is for them.

The library is imported where the first key is read. What it makes is read by anybody's `age -d`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from storage.errors import Corrupt, StorageError

SEALED = ".age"
"""How the name of an object ends that is an age file."""

_IDENTITY = "AGE-SECRET-KEY-1"


def stored_name(name: str, recipients: "Recipients | None") -> str:
    """What an object is called that would have this name if it were plain."""
    return name if recipients is None else name + SEALED


class BadKey(StorageError):
    """What should be a recipient or an identity is none; the message never repeats it."""


class NoIdentity(StorageError):
    """What is encrypted cannot be read: there is no identity at hand, or none of those for whom it is."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            f"let ROWVAULT_ENCRYPTION__IDENTITY_FILE name a file with the identity ({_IDENTITY}…) of a recipient",
        )


class Reader(Protocol):
    """What the library pulls bytes from."""

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""


class Writer(Protocol):
    """What the library pushes bytes to."""

    def write(self, data: bytes) -> int:
        """Take bytes; how many were taken."""

    def flush(self) -> None:
        """Hold nothing back."""


@dataclass(frozen=True, slots=True)
class Recipients:
    """The public keys that objects are encrypted for: whoever holds the identity of one of them can read."""

    keys: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Recipients":
        """Keys between commas, or on lines of which `#` begins a comment. Raises `BadKey`."""
        recipients = cls(tuple(dict.fromkeys(str(one) for one in _loaded(tuple(_listed(text))))))
        if not recipients.keys:
            raise BadKey("holds no recipient", "one begins with age1; age-keygen makes one")
        return recipients

    def seal(self, data: bytes) -> bytes:
        """The age file around some bytes, in one piece."""
        import pyrage

        return bytes(pyrage.encrypt(data, _loaded(self.keys)))

    def encrypt(self, reader: Reader, writer: Writer) -> None:
        """Write the age file around what is read."""
        import pyrage

        pyrage.encrypt_io(reader, writer, _loaded(self.keys))


class Keyring:
    """The identities at hand; they are shown nowhere. `recipients` are their public keys."""

    def __init__(self, identities: Iterable[Any] = ()) -> None:
        self._identities = list(identities)
        self.recipients = tuple(str(one.to_public()) for one in self._identities)

    @classmethod
    def read(cls, path: Path) -> "Keyring":
        """The identities in a file such as age-keygen writes, one a line. Raises `BadKey` and `OSError`."""
        return cls.parse(path.read_text(encoding="utf-8", errors="replace"))

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Identities, one a line, where `#` begins a comment. Raises `BadKey`."""
        lines = [(number, _written(line)) for number, line in enumerate(text.splitlines(), 1)]
        identities = [_identity(number, key) for number, key in lines if key]
        if not identities:
            raise BadKey("holds no identity", f"one begins with {_IDENTITY}; age-keygen makes one")
        return cls(identities)

    def __bool__(self) -> bool:
        """Whether there is any identity."""
        return bool(self._identities)

    def opens(self, recipients: Sequence[str]) -> bool:
        """Whether what was encrypted for these can be read. A key may be written in capital letters."""
        return not set(self.recipients).isdisjoint(one.lower() for one in recipients)

    def require(self, name: str) -> None:
        """Raise `NoIdentity` if there is none to open an object with."""
        if not self:
            raise NoIdentity(f"{name} is encrypted, and no identity was given")

    def open(self, name: str, data: bytes) -> bytes:
        """What is in the age file of that name, in one piece. Raises `Corrupt` and `NoIdentity`."""
        import pyrage

        self.require(name)
        with self._telling(name):
            return bytes(pyrage.decrypt(data, self._identities))

    def decrypt(self, name: str, reader: Reader, writer: Writer) -> None:
        """Write what is in the age file that is read. Raises `Corrupt` and `NoIdentity`, and what `reader` raises."""
        import pyrage

        with self._telling(name):
            pyrage.decrypt_io(reader, writer, self._identities)

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """The library's errors have no types of their own: what they say tells them apart."""
        from pyrage import DecryptError

        try:
            yield
        except (DecryptError, OSError) as error:
            if "No matching keys" in str(error):
                raise NoIdentity(f"{name} is encrypted and not for the identity given") from None
            raise Corrupt(f"{name} is not a whole age file: {error}", "restore from the other place") from None


NO_KEYS = Keyring()


def _written(line: str) -> str:
    return line.partition("#")[0].strip()


def _listed(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from (key for part in _written(line).split(",") if (key := part.strip()))


@cache
def _loaded(keys: tuple[str, ...]) -> list[Any]:
    """The library's recipients. Raises `BadKey`."""
    return [_recipient(number, key) for number, key in enumerate(keys, 1)]


def _recipient(number: int, key: str) -> Any:
    from pyrage import RecipientError, x25519

    if key.upper().startswith(_IDENTITY):
        raise BadKey(f"holds a secret identity as number {number}", "give its public key instead: age-keygen -y")
    try:
        return x25519.Recipient.from_str(key)
    except RecipientError:
        raise BadKey(f"holds no age recipient as number {number}", "one begins with age1") from None


def _identity(number: int, key: str) -> Any:
    from pyrage import IdentityError, x25519

    try:
        return x25519.Identity.from_str(key)
    except IdentityError:
        raise BadKey(f"line {number} is not an age identity", f"one begins with {_IDENTITY}") from None
