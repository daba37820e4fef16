"""Tells the rows of two tables apart, however many there are, in bounded memory.

Each side's rows become records, a key and a hash of the row, spread over temporary files by their keys. So equal keys
are in the same file of both sides, and one pair of files is compared at a time. The files have no names: however the
process ends, they are gone.
"""

import tempfile
from binascii import b2a_base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Literal
from zlib import crc32

from jobs.errors import JobError

Kind = Literal["missing", "changed", "extra"]
"""Only in the backup, on both sides with other contents, only on the other side."""

FILES = 64
LARGEST = 4 * 1024 * 1024  # bytes of a file that is compared as it is; a larger one is spread over others first
_DEEPEST = 4  # 6 bits of a CRC-32 choose the file at each level
_SEAL = 21  # bytes behind the key: 120 bits in base 64, and a line end


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions in a line of the fields to compare (None: the line as it is), and of the key's.

    Without a key a row is its own: it can be missing or extra, not changed.
    """

    fields: tuple[int, ...] | None
    key: tuple[int, ...]

    @classmethod
    def of(cls, columns: Sequence[str], compared: Sequence[str], key: Sequence[str]) -> "Layout":
        """For lines of these columns."""
        whole = list(columns) == list(compared)
        fields = None if whole else tuple(columns.index(name) for name in compared)
        return cls(fields, tuple(columns.index(name) for name in key))

    def records(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """A record of each line of COPY text: its key, 120 bits of BLAKE2b of what is compared, a line end."""
        splits = -1 if self.fields is not None else max(self.key, default=-1) + 1
        for line in lines:
            fields = line.split(b"\t", splits)
            compared = line if self.fields is None else b"\t".join([fields[at] for at in self.fields])
            seal = b2a_base64(blake2b(compared, digest_size=15).digest())
            key = b"\t".join([fields[at] for at in self.key]) if self.key else seal[:-1]
            yield key + seal


def _key(record: bytes) -> bytes:
    return record[:-_SEAL]


class Buckets:
    """The records of one side. To be closed; `folder` has room for some 21 bytes and the key of each row."""

    def __init__(self, folder: Path | None = None, files: int = FILES, level: int = 0) -> None:
        self.rows = 0
        self.folder = folder
        self._level = level
        with _room(folder), ExitStack() as opening:
            self.files = [opening.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(files)]
            self._stack = opening.pop_all()

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what is left to write no longer matters
            self._stack.close()

    def add(self, records: Iterable[bytes]) -> None:
        """Spread records over the files. Raises `JobError` if there is no room."""
        writes = [file.write for file in self.files]
        shift = 6 * self._level
        with _room(self.folder):
            for record in records:
                writes[(crc32(record[:-_SEAL]) >> shift) % len(writes)](record)
                self.rows += 1

    def clear(self) -> None:
        """Forget all records."""
        self.rows = 0
        for file in self.files:
            file.seek(0)
            file.truncate()

    def pairs(self, other: "Buckets", largest: int = LARGEST) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Files of both sides that hold the same keys, each small enough to be compared in memory."""
        for one, two in zip(self.files, other.files, strict=True):
            if max(_rewound(one), _rewound(two)) <= largest or self._level == _DEEPEST:
                yield one, two
                continue
            deeper = partial(Buckets, self.folder, level=self._level + 1)
            with deeper() as ours, deeper() as theirs:
                ours.add(one)
                theirs.add(two)
                yield from ours.pairs(theirs, largest)


def _rewound(file: IO[bytes]) -> int:
    """Go to the file's beginning; its size."""
    size = file.seek(0, 2)
    file.seek(0)
    return size


@contextmanager
def _room(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            f"comparing needs room for temporary files in {folder or tempfile.gettempdir()}: {error.strerror}",
            "free some, or let TMPDIR name a folder with room for the keys of the largest table",
        ) from error


def tell_apart(backup: Iterable[bytes], other: Iterable[bytes]) -> dict[Kind, Counter[bytes]]:
    """Compare the records of both sides, in memory: by kind, how many rows each key has.

    A key is unique in the backup. Where it no longer is on the other side, one of its rows counts as changed, if none
    is as it was, and the rest as extra.
    """
    ours, theirs = Counter(backup), Counter(other)
    gone = Counter(map(_key, (ours - theirs).elements()))
    new = Counter(map(_key, (theirs - ours).elements()))
    return {"missing": gone - new, "changed": gone & new, "extra": new - gone}


def compare(backup: Buckets, other: Buckets, shown: int) -> tuple[Counter[Kind], dict[Kind, list[bytes]]]:
    """How many rows differ, by kind, and the keys of at most so many of each. Raises `JobError` if there is no room."""
    counts = Counter[Kind]()
    keys: dict[Kind, list[bytes]] = {"missing": [], "changed": [], "extra": []}
    with _room(backup.folder):
        for one, two in backup.pairs(other):
            for kind, found in tell_apart(one, two).items():
                counts[kind] += found.total()
                keys[kind] += islice(found.elements(), shown - len(keys[kind]))
    return counts, keys


class Rows:
    """Takes COPY text, however it is cut, and puts a record of each line into buckets."""

    def __init__(self, layout: Layout, into: Buckets) -> None:
        self._layout = layout
        self._into = into
        self._pending: list[bytes] = []

    def feed(self, text: bytes) -> None:
        """Take the next bytes."""
        cut = text.rfind(b"\n") + 1
        if cut:
            lines = b"".join((*self._pending, text[:cut])).split(b"\n")
            self._pending = []
            self._into.add(self._layout.records(lines[:-1]))
        self._pending.append(text[cut:])
