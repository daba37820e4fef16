"""Long age files, piece by piece: the library pulls and pushes in a thread, which takes turns with whoever uses it.

It keeps the interpreter's lock while it works, so nothing would be won by working at the same time.
"""

from collections.abc import Callable

from storage.age import Keyring, Recipients
from storage.turns import Turns

RUN = 256 * 1024  # bytes handed on at a time while reading


class Sealing:
    """Makes an age file of bytes that it is fed. It MUST be finished or closed: a thread waits for more of them."""

    def __init__(self, recipients: Recipients) -> None:
        self._waiting = memoryview(b"")
        self._ended = False
        self._made: list[bytes] = []
        self._turns = Turns("seal", lambda: recipients.encrypt(self, self))

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what there is of the file then."""
        self._waiting = memoryview(data)
        self._turns.take()
        made = b"".join(self._made)
        self._made.clear()
        return made

    def finish(self, data: bytes) -> bytes:
        """Take the last bytes; return the rest of the file."""
        self._ended = True
        return self.feed(data)

    def close(self) -> None:
        """Give up, if it is not finished."""
        self._turns.close()

    def read(self, size: int) -> bytes:
        """See `Reader.read`."""
        if not self._waiting and not self._ended:
            self._turns.give()
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        return bytes(taken)

    def write(self, data: bytes) -> int:
        """See `Writer.write`."""
        self._made.append(data)
        return len(data)

    def flush(self) -> None:
        """See `Writer.flush`."""


class Opening:
    """Goes through what is in an age file. Of one that comes in several blocks, a thread waits in it until it is at its
    end or closed.
    """

    def __init__(self, keyring: Keyring, name: str, fetch: Callable[[], bytes]) -> None:
        self._keyring = keyring
        self._name = name
        self._fetch = fetch
        self._begun = self._whole = False
        self._waiting = memoryview(b"")
        self._failure: Exception | None = None
        self._opened: list[bytes] = []
        self._length = 0
        self._turns = Turns("open", self._decrypt)

    def next(self) -> bytes:
        """The next plain bytes, none at the end. Raises `Corrupt`, `NoIdentity`, and what fetching raises."""
        if not self._begun:
            self._begun = True
            self._keyring.require(self._name)
            first, second = self._fetch(), self._fetch()
            if first and not second:
                self._whole = True
                return self._keyring.open(self._name, first)
            self._waiting = memoryview(first + second)
        if self._whole:
            return b""
        self._turns.take()
        opened = b"".join(self._opened)
        self._opened.clear()
        self._length = 0
        return opened

    def close(self) -> None:
        """Give up, from any thread, if it is not at its end."""
        self._turns.close()

    def _decrypt(self) -> None:
        try:
            self._keyring.decrypt(self._name, self, self)
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise

    def read(self, size: int) -> bytes:
        """See `Reader.read`."""
        if not self._waiting:
            try:
                self._waiting = memoryview(self._fetch())
            except Exception as error:  # the library makes another error of it
                self._failure = error
                raise
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        return bytes(taken)

    def write(self, data: bytes) -> int:
        """See `Writer.write`."""
        self._opened.append(data)
        self._length += len(data)
        if self._length >= RUN:
            self._turns.give()
        return len(data)

    def flush(self) -> None:
        """See `Writer.flush`."""
