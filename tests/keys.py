"""Age keys for tests."""

from dataclasses import dataclass

from pyrage import x25519

from storage.age import Keyring, Recipients


@dataclass(frozen=True)
class Key:
    """An identity as its file has it, and what belongs to it."""

    identity: str

    @property
    def keyring(self) -> Keyring:
        """With this identity alone."""
        return Keyring.parse(self.identity)

    @property
    def public(self) -> str:
        """The recipient."""
        return self.keyring.recipients[0]

    @property
    def recipients(self) -> Recipients:
        """With this recipient alone."""
        return Recipients((self.public,))


def new_key() -> Key:
    """A key that nobody else has."""
    return Key(str(x25519.Identity.generate()))


def keyring_of(*keys: Key) -> Keyring:
    """The identities of all."""
    return Keyring.parse("\n".join(key.identity for key in keys))


def recipients_of(*keys: Key) -> Recipients:
    """The recipients of all."""
    return Recipients(tuple(key.public for key in keys))
