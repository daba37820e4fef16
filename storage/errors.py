"""What can go wrong where backups rest.

StorageError
├── NotFound          no object or backup of that name
├── AlreadyExists     an object of that name is there already
├── Corrupt           bytes are not the ones that were promised
│   └── Misplaced     they are whole, but another object's
├── Unavailable       the store did not answer, or asked to be asked later: worth another try
└── Refused           the store answered no: another try would be refused too
    └── OutOfSpace    no room left
"""


class StorageError(Exception):
    """Something about stored objects failed; `message` says what and where, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(StorageError):
    """No object or backup has that name."""


class AlreadyExists(StorageError):
    """An object of that name is there already, and it was to be made only if it was not."""


class Corrupt(StorageError):
    """Bytes are not the ones that were promised: a hash, a size or a format differs."""


class Misplaced(Corrupt):
    """An object is whole, but lies under the name of another."""


class Unavailable(StorageError):
    """The store did not answer, or asked to be asked later. Worth another try."""


class Refused(StorageError):
    """The store answered no, and would again: credentials, permissions, a bucket that is not there."""


class OutOfSpace(Refused):
    """No room left on the device, or a quota is used up."""
