"""The files of an export: compressed and hashed on their way, under temporary names until all of them are whole."""

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import zstandard

from jobs.errors import NotWritten, UnsafeTarget
from jobs.temporary import sweep_folders, temporary_folder
from storage.backends.local_files import sync_folder
from storage.codecs import Digest, Tally
from storage.names import escape

Compression = Literal["gzip", "zstd"]
SUFFIXES: dict[Compression, str] = {"gzip": ".gz", "zstd": ".zst"}
LEVEL = 3  # zstd's own choice
GZIP = 31  # what zlib is told for a gzip file
_UNFINISHED = ".rowvault-export-"


class Formatter(Protocol):
    """Makes a file's bytes of a table's rows."""

    def begin(self) -> bytes:
        """What stands before the rows."""

    def rows(self, lines: bytes) -> bytes:
        """What becomes of whole lines of COPY text, of one at least."""

    def end(self) -> bytes:
        """What stands after the rows."""


class Unfit(Exception):
    """These columns, by position, hold what their types in the file cannot."""

    def __init__(self, positions: Iterable[int]) -> None:
        self.positions = frozenset(positions)
        super().__init__(f"columns {sorted(self.positions)}")


class Sink:
    """A file that is being written, in a thread; `finish` says what is in it. `folder` is what errors tell of."""

    def __init__(self, path: Path, folder: Path, compression: Compression | None) -> None:
        self._folder = folder
        self._compression = compression
        with told(folder):
            path.parent.mkdir(exist_ok=True)
            self._file = path.open("xb")
        self._begin()

    def _begin(self) -> None:
        self._tally = Tally()
        self._compressor = _compressor(self._compression)

    def restart(self) -> None:
        """Begin anew, with nothing written."""
        with told(self._folder):
            self._file.seek(0)
            self._file.truncate()
        self._begin()

    def write(self, data: bytes) -> None:
        """Append these bytes."""
        self._store(self._compressor.compress(data) if self._compressor else data)

    def finish(self) -> Digest:
        """Write what is left; it is durable once this returns."""
        if self._compressor:
            self._store(self._compressor.flush())
        with told(self._folder):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._tally.digest()

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # what could not be written was told already
            self._file.close()

    def _store(self, data: bytes) -> None:
        with told(self._folder):
            self._file.write(data)
        self._tally.add(data)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _compressor(compression: Compression | None) -> _Compressor | None:
    if compression == "gzip":
        return zlib.compressobj(wbits=GZIP)
    return zstandard.ZstdCompressor(level=LEVEL).compressobj() if compression == "zstd" else None


def table_file(schema: str, table: str, suffix: str) -> str:
    """A table's file below the folder: reversible, for any names, with no dot but those of the suffix."""
    folder, name = (escape(text).replace(".", "=2E") for text in (schema, table))
    return f"{folder}/{name}{suffix}"


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder for files until all are whole; `publish` puts them where they belong. `made` are the folders that had to
    be made for it.
    """

    folder: Path
    unfinished: Path
    made: tuple[Path, ...] = ()

    def open(self, name: str, compression: Compression | None) -> Sink:
        """Begin a file. Two tables whose names the file system takes for one are an error."""
        return Sink(self.unfinished / name, self.folder, compression)

    def discard(self, name: str) -> None:
        """Remove a file that did not become whole."""
        (self.unfinished / name).unlink(missing_ok=True)

    def publish(self, names: list[str]) -> None:
        """Give every file its own name, the last one last, for good; all of them, or none: then what was replaced is
        there again.
        """
        naming = _Naming(self)
        try:
            with told(self.folder):
                for name in names:
                    naming.give(name)
                naming.settle()
        except BaseException:
            naming.undo()
            raise


class _Naming:
    """Gives the files of an export their names; until all have theirs it can be undone."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._given: list[Path] = []
        self._replaced: dict[Path, Path] = {}
        self._made: list[Path] = []

    def give(self, name: str) -> None:
        """Give a file its name; what has it is put aside."""
        file, unfinished = self._staging.folder / name, self._staging.unfinished
        self._made += _make(file.parent)
        if file.is_file() or file.is_symlink():
            self._replaced[file] = file.replace(unfinished / f"{len(self._replaced)}.replaced")
        self._given.append((unfinished / name).replace(file))

    def settle(self) -> None:
        """Make the names durable, and those of folders that were made for them."""
        made = (*self._staging.made, *self._made)
        for folder in {self._staging.folder, *(one.parent for one in (*self._given, *made))}:
            sync_folder(folder)

    def undo(self) -> None:
        """Take the names back."""
        for file in self._given:
            file.unlink(missing_ok=True)
        for file, aside in self._replaced.items():
            aside.replace(file)
        for folder in self._made:
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()


def refuse_unless_empty(folder: Path, *, replace: bool) -> None:
    """Raise `UnsafeTarget` if something is in the folder, unless it may be; `NotWritten` if it is no folder."""
    with told(folder):
        sweep_folders(folder, _UNFINISHED)
        held = None if replace or not folder.exists() else next(folder.iterdir(), None)
        if held is not None:
            raise UnsafeTarget(
                f"{folder} is not empty, it holds {held.name}",
                "choose an empty folder, or say --yes: files of the same name are replaced, all others stay",
            )


@contextmanager
def staged(folder: Path) -> Iterator[Staging]:
    """A place for files in that folder, which is made if need be. Unless all goes well, nothing of it is left."""
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            with told(folder):
                made += _make(folder)
                unfinished = stack.enter_context(temporary_folder(folder, _UNFINISHED))
            yield Staging(folder, unfinished, tuple(made))
    finally:
        for one in made:
            with suppress(OSError):  # it is not empty: all went well
                one.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make it, and those above it; which ones were made, the innermost first."""
    lacking = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return lacking


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Say where a file could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise NotWritten(
            f"cannot write to {folder}: {error.strerror or error}",
            "nothing of the export was left there; make room, or choose a folder that can be written to",
        ) from error
