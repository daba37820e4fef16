"""COPY text becomes stored bytes and comes back the same, in bounded memory, and anybody's zstd reads it."""

import hashlib
import random
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codecs import BLOCK, CHUNK, Decoder, Digest, Encoder, Tally, compressor
from storage.errors import Corrupt
from tests.servers import program

MIB = 1 << 20
PLAIN = b"".join(b"%d\trow number %d\t\\N\n" % (number, number * 7919) for number in range(20_000))


@dataclass(frozen=True)
class Stored:
    """What an encoder made of some plain bytes."""

    objects: list[bytes]
    digests: list[Digest]
    plain: Digest


def encode(chunks: Iterable[bytes], level: int = 1, roll_at: int = 1 << 40) -> Stored:
    encoder = Encoder(compressor(level), roll_at)
    objects, digests = [bytearray()], []
    for chunk in chunks:
        block = encoder.feed(chunk)
        if block is not None:
            objects[-1] += block.data
            if block.ends:
                digests.append(block.ends)
                objects.append(bytearray())
    last, plain = encoder.finish()
    assert last.last
    assert last.ends is not None
    objects[-1] += last.data
    return Stored([bytes(one) for one in objects], [*digests, last.ends], plain)


def decode(decoder: Decoder, data: bytes, sizes: Iterator[int] | None = None) -> bytes:
    tally = Tally()
    plain = b"".join(decoder.read("object", pieces(data, sizes), tally))
    assert tally.digest() == digest_of(data)
    return plain


def pieces(data: bytes, sizes: Iterator[int] | None = None) -> Callable[[], bytes]:
    """Hands out the bytes a piece at a time, and nothing at the end."""
    rest = memoryview(data)

    def fetch() -> bytes:
        nonlocal rest
        size = next(sizes, MIB) if sizes else MIB
        piece, rest = rest[:size], rest[size:]
        return bytes(piece)

    return fetch


def digest_of(data: bytes) -> Digest:
    return Digest(len(data), hashlib.sha256(data).hexdigest())


@given(st.lists(st.binary(max_size=2000), max_size=20), st.integers(1, 5), st.integers(1, 4000), st.data())
def test_bytes_come_back_however_they_are_cut(
    chunks: list[bytes], level: int, roll_at: int, data: st.DataObject
) -> None:
    plain = b"".join(chunks)
    stored = encode(chunks, level, roll_at)
    assert stored.plain == digest_of(plain)
    assert stored.digests == [digest_of(one) for one in stored.objects]
    decoder = Decoder()
    sizes = iter(data.draw(st.lists(st.integers(1, 500), max_size=20)))
    assert b"".join(decode(decoder, one, sizes) for one in stored.objects) == plain
    assert decoder.plain.digest() == digest_of(plain)
    assert decoder.rows == plain.count(b"\n")


def test_rows_are_counted_across_objects_that_end_in_the_middle_of_one() -> None:
    stored = encode((PLAIN[start : start + 1000] for start in range(0, len(PLAIN), 1000)), roll_at=120_000)
    assert len(stored.objects) == 5
    decoder = Decoder()
    for one in stored.objects:
        decode(decoder, one)
    assert decoder.rows == 20_000


def test_nothing_at_all_is_one_object_that_holds_nothing() -> None:
    stored = encode([])
    assert len(stored.objects) == 1
    assert stored.plain == digest_of(b"")
    assert decode(Decoder(), stored.objects[0]) == b""


@pytest.mark.parametrize("roll_at", [1 << 40, 20_000])
def test_the_zstd_command_reads_each_object_alone_and_all_joined(roll_at: int) -> None:
    stored = encode((PLAIN[start : start + 5000] for start in range(0, len(PLAIN), 5000)), roll_at=roll_at)
    assert (len(stored.objects) > 1) == (roll_at < 1 << 40)
    assert b"".join(map(unzstd, stored.objects)) == PLAIN
    assert unzstd(b"".join(stored.objects)) == PLAIN


def unzstd(data: bytes) -> bytes:
    command = [program("zstd", "zstd", ["/usr/bin"]), "-dcq"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def test_what_the_zstd_command_wrote_is_read() -> None:
    zstd = shutil.which("zstd") or program("zstd", "zstd")
    data = subprocess.run([zstd, "-q9"], input=PLAIN, capture_output=True, check=True).stdout
    assert decode(Decoder(), data + data) == PLAIN + PLAIN


@pytest.mark.parametrize("mask", [0x01, 0x10, 0xFF])
def test_a_flipped_byte_is_found_or_gives_no_row_that_was_not_there(mask: int) -> None:
    plain = PLAIN[:3000]
    data = encode([plain]).objects[0]
    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
        decoded = decode_or_none(flipped)
        # A frame's header has bits that mean nothing, or that it goes on: only the stored bytes' own hash minds those.
        assert decoded is None or plain.startswith(decoded), f"byte {position} of {len(data)}"


def test_a_truncated_object_is_found_or_gives_no_row_that_was_not_there() -> None:
    plain = PLAIN[:3000]
    data = encode([plain]).objects[0]
    for length in range(len(data)):
        decoded = decode_or_none(data[:length])
        assert decoded is None or plain.startswith(decoded), f"the first {length} of {len(data)}"


@pytest.mark.parametrize("tail", [b"x", b"\0" * 100, PLAIN[:50]])
def test_what_follows_the_last_frame_is_found(tail: bytes) -> None:
    with pytest.raises(Corrupt, match="object is not whole zstd data"):
        decode(Decoder(), encode([PLAIN]).objects[0] + tail)


@pytest.mark.parametrize("data", [b"x", b"not compressed\n" * 1000, b"\x28\xb5\x2f\xfd" + b"\xff" * 40])
def test_what_was_never_compressed_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="object is not whole zstd data"):
        decode(Decoder(), data)


def decode_or_none(data: bytes) -> bytes | None:
    """The plain bytes, none if they are found corrupt."""
    try:
        return decode(Decoder(), data)
    except Corrupt:
        return None


@pytest.mark.parametrize("compressible", [True, False])
def test_memory_stays_bounded_while_writing_and_reading(*, compressible: bool) -> None:
    noise = random.Random(1).randbytes(MIB)
    chunk = b"\0" * MIB if compressible else noise
    tracemalloc.start()
    try:
        stored, longest = encode_blocks(Encoder(compressor(1)), chunk, 100 if compressible else 30)
        decoder = Decoder()
        longest_read = max(map(len, decoder.read("object", from_blocks(stored), Tally())))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.plain.digest().bytes == (100 if compressible else 30) * MIB
    assert longest <= BLOCK + 2 * MIB
    assert longest_read <= CHUNK
    assert peak - sum(map(len, stored)) < 16 * MIB


def encode_blocks(encoder: Encoder, chunk: bytes, times: int) -> tuple[Sequence[bytes], int]:
    blocks = [block.data for _ in range(times) if (block := encoder.feed(chunk))]
    blocks.append(encoder.finish()[0].data)
    return blocks, max(map(len, blocks))


def from_blocks(blocks: Sequence[bytes]) -> Callable[[], bytes]:
    waiting = iter(blocks)
    return lambda: next(waiting, b"")


def test_a_huge_value_takes_no_more_memory_than_itself() -> None:
    value = b"\0" * (64 * MIB)
    encoder = Encoder(compressor(1))
    tracemalloc.start()
    try:
        encoder.feed(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    encoder.close()
    assert peak < 8 * MIB


def test_a_block_is_handed_on_as_soon_as_it_is_full() -> None:
    noise = random.Random(1)
    encoder = Encoder(compressor(1))
    full = next(block for block in (encoder.feed(noise.randbytes(100_000)) for _ in range(100)) if block)
    assert BLOCK <= len(full.data) < BLOCK + MIB
    assert full.ends is None


def test_an_object_rolls_over_once_it_is_long_enough() -> None:
    noise = random.Random(1)
    chunks = [noise.randbytes(100_000) for _ in range(50)]
    stored = encode(iter(chunks), roll_at=1_050_000)
    assert len(stored.objects) == 5
    assert all(1_050_000 <= len(one) < 1_400_000 for one in islice(stored.objects, 4))
