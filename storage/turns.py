"""A thread that works only while its owner waits for it: for a library that pulls and pushes where one must be fed."""

import threading
from collections.abc import Callable

from storage.errors import Unavailable


class _GivenUp(BaseException):
    """Nobody wants more of the work: the thread ends."""


class Turns:
    """Work in a thread of its own that takes turns with its owner, whichever thread that is in: nothing is shared.

    The thread begins with the first turn, and ends with the work or once it is closed.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, name=name, args=(work,), daemon=True)
        self._changed = threading.Condition()
        self._working = self._begun = self._done = self._closed = False
        self._failure: BaseException | None = None

    def take(self) -> None:
        """The owner waits until the work gives the turn back, or ends: what it raised is raised.

        Raises `Unavailable` if it was closed.
        """
        with self._changed:
            if not self._done and not self._closed:
                self._resume()
            if self._closed:
                raise Unavailable("work on an object was given up")
        if self._done:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _resume(self) -> None:
        self._working = True
        if self._begun:
            self._changed.notify_all()
        else:
            self._begun = True
            self._thread.start()
        self._changed.wait_for(lambda: not self._working)

    def give(self) -> None:
        """In the work: the owner's turn; waits for the next one."""
        with self._changed:
            self._working = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._working or self._closed)
            if self._closed:
                self._working = False
                raise _GivenUp

    def close(self) -> None:
        """Give up, from any thread. Work that is just being done ends when it would give the turn back."""
        with self._changed:
            self._closed = True
            waits = self._begun and not self._working
            self._changed.notify_all()
        if waits:
            self._thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._failure = error
        finally:
            with self._changed:
                self._done, self._working = True, False
                self._changed.notify_all()
