"""COPY text by whole lines and by columns, a chunk at a time and without a step of Python for each field."""

from collections.abc import Iterable, Iterator, Sequence


def whole_lines(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same text in pieces of about `size` bytes, a longer line apart, each cut after a line's end."""
    held: list[bytes] = []
    length, ends = 0, False
    for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        ends = ends or b"\n" in chunk
        if length >= size and ends:  # a line without an end is not joined again with every chunk
            text = b"".join(held)
            end = text.rfind(b"\n") + 1
            yield text[:end]
            held, length, ends = [text[end:]], len(text) - end, False
    if rest := b"".join(held):
        yield rest


def columns_of(lines: bytes, width: int) -> list[list[bytes]]:
    """The fields of whole lines, escaped as they are, a list for each column."""
    if not width:
        return []
    fields = lines[:-1].replace(b"\n", b"\t").split(b"\t")
    return [fields[position::width] for position in range(width)]


def lines_of(columns: Sequence[Sequence[bytes]], rows: int) -> bytes:
    """Lines of these columns. Without a column, each of the rows is an empty line."""
    if not columns:
        return b"\n" * rows
    return b"\n".join(map(b"\t".join, zip(*columns, strict=True))) + b"\n"
