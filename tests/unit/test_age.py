"""What is encrypted comes back the same, for those only for whom it is, and leaves no thread behind."""

import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import codecs
from storage.age import BadKey, Keyring, NoIdentity, Recipients
from storage.age_streams import Opening
from storage.codecs import Decoder, Encoder, Tally, compressor, decompressed
from storage.errors import Corrupt, StorageError, Unavailable
from tests.keys import Key, keyring_of, new_key, recipients_of
from tests.programs import ROOT
from tests.servers import program
from tests.unit.test_codecs import PLAIN, decode, digest_of, pieces, unzstd

MIB = 1 << 20
KEY, OTHER = new_key(), new_key()
NOISE = random.Random(1).randbytes(3 * MIB)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def encrypted(plain: bytes, *keys: Key, level: int = 1, roll_at: int = 1 << 40, step: int = 100_000) -> list[bytes]:
    """The stored objects."""
    encoder = Encoder(compressor(level), roll_at, recipients_of(*keys))
    objects, digests = [bytearray()], []
    for start in range(0, len(plain), step):
        block = encoder.feed(plain[start : start + step])
        if block is not None:
            objects[-1] += block.data
            if block.ends:
                digests.append(block.ends)
                objects.append(bytearray())
    last, digest = encoder.finish()
    objects[-1] += last.data
    assert digest == digest_of(plain)
    assert [*digests, last.ends] == [digest_of(bytes(one)) for one in objects]
    return [bytes(one) for one in objects]


def opened(data: bytes, keyring: Keyring = KEY.keyring, sizes: Iterator[int] | None = None) -> bytes:
    tally = Tally()
    plain = b"".join(decompressed("object.age", pieces(data, sizes), tally, keyring))
    assert tally.digest() == digest_of(data)
    return plain


@given(st.lists(st.binary(max_size=2000), max_size=20), st.integers(1, 5), st.integers(1, 4000), st.data())
def test_bytes_come_back_however_they_are_cut(
    chunks: list[bytes], level: int, roll_at: int, data: st.DataObject
) -> None:
    plain = b"".join(chunks)
    stored = encrypted(plain, KEY, level=level, roll_at=roll_at, step=data.draw(st.integers(1, 3000)))
    decoder = Decoder(KEY.keyring)
    for one in stored:
        sizes = iter(data.draw(st.lists(st.integers(1, 500), max_size=20)))
        assert b"".join(decoder.read("object.age", pieces(one, sizes), Tally())) == opened(one)
    assert decoder.plain.digest() == digest_of(plain)


@given(st.integers(0, 300_000), st.integers(1, 100_000), st.integers(1000, 100_000), st.lists(st.integers(1, 100_000)))
def test_bytes_come_back_whatever_the_length_of_blocks(length: int, block: int, step: int, sizes: list[int]) -> None:
    with patch.object(codecs, "BLOCK", block):
        [stored] = encrypted(NOISE[:length], KEY, step=step)
    assert opened(stored, sizes=iter(sizes)) == NOISE[:length]


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, 2 * MIB, 2 * MIB + 1, 3 * MIB])
@pytest.mark.parametrize("size", [100_003, MIB])
def test_long_ones_come_back(length: int, size: int) -> None:
    [stored] = encrypted(NOISE[:length], KEY, step=70_001)
    assert opened(stored, sizes=iter(lambda: size, 0)) == NOISE[:length]


def test_the_age_command_opens_each_object(tmp_path: Path) -> None:
    identity = tmp_path / "identity"
    identity.write_text(KEY.identity + "\n")
    stored = encrypted(NOISE + PLAIN, OTHER, KEY, roll_at=MIB)
    command = [program("age", "age", ["/usr/bin"]), "-d", "-i", str(identity)]
    parts = [subprocess.run(command, input=one, capture_output=True, check=True).stdout for one in stored]
    assert len(parts) > 1
    assert unzstd(b"".join(parts)) == NOISE + PLAIN


def test_what_the_age_command_encrypted_is_opened() -> None:
    zstd = subprocess.run([program("zstd", "zstd"), "-q"], input=NOISE, capture_output=True, check=True).stdout
    command = [program("age", "age", ["/usr/bin"]), "-r", KEY.public]
    data = subprocess.run(command, input=zstd, capture_output=True, check=True).stdout
    assert opened(data) == NOISE


def test_each_of_several_recipients_can_open_it_alone() -> None:
    [stored] = encrypted(PLAIN, KEY, OTHER)
    assert opened(stored, KEY.keyring) == opened(stored, OTHER.keyring) == PLAIN


def test_a_keyring_opens_what_is_for_any_of_its_identities() -> None:
    [stored] = encrypted(PLAIN, OTHER)
    assert opened(stored, keyring_of(KEY, OTHER)) == PLAIN


@pytest.mark.parametrize("plain", [PLAIN, NOISE], ids=["small", "long"])
@pytest.mark.parametrize("keyring", [Keyring(), OTHER.keyring], ids=["none", "another's"])
def test_without_the_identity_it_says_so_and_names_the_setting(plain: bytes, keyring: Keyring) -> None:
    [stored] = encrypted(plain, KEY)
    with pytest.raises(NoIdentity, match="is encrypted") as raised:
        opened(stored, keyring)
    assert "ENCRYPTION__IDENTITY_FILE" in raised.value.hint


@pytest.mark.parametrize("position", [0.3, 0.5, 1.0])
def test_a_flipped_byte_of_what_is_encrypted_is_damage(position: float) -> None:
    for plain in (PLAIN, NOISE):
        [stored] = encrypted(plain, KEY)
        at = int((len(stored) - 1) * position)
        flipped = stored[:at] + bytes([stored[at] ^ 4]) + stored[at + 1 :]
        with pytest.raises(Corrupt, match="is not a whole age file"):
            opened(flipped)


def test_a_flipped_byte_anywhere_is_found() -> None:
    [stored] = encrypted(PLAIN[:300], KEY)
    for at in range(len(stored)):
        with pytest.raises(StorageError):
            opened(stored[:at] + bytes([stored[at] ^ 4]) + stored[at + 1 :])


@pytest.mark.parametrize("cut", [0, 1, 100, 65536, 65536 + 16, 65536 + 216, MIB, -1, -16])
def test_a_truncated_object_is_found(cut: int) -> None:
    [stored] = encrypted(NOISE, KEY)
    header = stored.index(b"\n---") + 4 + 44 + 16  # up to the nonce; then come chunks of 64 KiB and their tags
    for end in {cut, header + cut if cut > 0 else cut}:
        with pytest.raises(Corrupt, match="is not a whole age file"):
            opened(stored[:end])


@pytest.mark.parametrize("tail", [b"x", PLAIN[:50]])
def test_what_follows_the_end_is_found(tail: bytes) -> None:
    for plain in (PLAIN, NOISE):
        [stored] = encrypted(plain, KEY)
        with pytest.raises(Corrupt, match="is not a whole age file"):
            opened(stored + tail)


def test_what_fetching_raises_comes_through() -> None:
    [stored] = encrypted(NOISE, KEY)
    for allowed in range(4):
        fetch = failing(pieces(stored, iter(lambda: MIB // 2, 0)), allowed)
        with pytest.raises(Unavailable, match="the store is gone"):
            list(decompressed("object.age", fetch, Tally(), KEY.keyring))


def failing(fetch: Callable[[], bytes], allowed: int) -> Callable[[], bytes]:
    def fetched() -> bytes:
        nonlocal allowed
        if not allowed:
            raise Unavailable("the store is gone")
        allowed -= 1
        return fetch()

    return fetched


def test_an_encoder_that_is_given_up_leaves_nothing_behind() -> None:
    with closing(Encoder(compressor(1), recipients=KEY.recipients)) as encoder:
        assert encoder.feed(NOISE) is not None
        assert any(thread.name == "seal" for thread in threading.enumerate())


def test_a_reader_that_stops_early_leaves_nothing_behind() -> None:
    [stored] = encrypted(NOISE, KEY)
    chunks = Decoder(KEY.keyring).read("object.age", pieces(stored), Tally())
    next(chunks)
    assert any(thread.name == "open" for thread in threading.enumerate())
    chunks.close()


def test_what_was_given_up_is_not_taken_for_the_end() -> None:
    [stored] = encrypted(NOISE, KEY)
    opening = Opening(KEY.keyring, "object.age", pieces(stored))
    assert opening.next()
    opening.close()
    with pytest.raises(Unavailable, match="given up"):
        opening.next()


def test_memory_stays_bounded_while_writing_and_reading() -> None:
    encoder, noise = Encoder(compressor(1), recipients=KEY.recipients), random.Random(2).randbytes(MIB)
    tracemalloc.start()
    try:
        blocks = [block.data for _ in range(30) if (block := encoder.feed(noise))]
        blocks.append(encoder.finish()[0].data)
        waiting = iter(blocks)
        decoder = Decoder(KEY.keyring)
        longest = max(map(len, decoder.read("object.age", lambda: next(waiting, b""), Tally())))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.plain.digest().bytes == 30 * MIB
    assert longest <= MIB
    assert peak - sum(map(len, blocks)) < 16 * MIB


def test_plain_objects_need_no_identity() -> None:
    encoder = Encoder(compressor(1))
    encoder.feed(PLAIN)
    assert decode(Decoder(), encoder.finish()[0].data) == PLAIN


def test_recipients_are_read_between_commas_and_from_lines() -> None:
    text = f"# ours\n{KEY.public}, {OTHER.public}\n\n{KEY.public}  # again\n"
    assert Recipients.parse(text).keys == (KEY.public, OTHER.public)


def test_a_recipient_in_capital_letters_is_the_same() -> None:
    """What is encrypted for it is opened by its identity; a backup that says otherwise could not be restored."""
    loud = Recipients.parse(KEY.public.upper())
    assert loud == Recipients.parse(f"{KEY.public},{KEY.public.upper()}") == KEY.recipients
    assert KEY.keyring.opens([KEY.public.upper()])
    assert not OTHER.keyring.opens([KEY.public.upper()])


@pytest.mark.parametrize(
    "text",
    ["", "# none\n", ",", "age1", "hunter2", KEY.public + "x", KEY.public[:-1]],
    ids=["empty", "a comment", "a comma", "a beginning", "a word", "too long", "cut off"],
)
def test_what_is_no_recipient_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadKey) as raised:
        Recipients.parse(text)
    assert not text or text not in raised.value.message


def test_an_identity_among_the_recipients_is_refused_and_not_shown() -> None:
    with pytest.raises(BadKey, match="as number 2") as raised:
        Recipients.parse(f"{KEY.public},{OTHER.identity.lower()}")
    assert "secret identity" in raised.value.message
    assert OTHER.identity.lower() not in f"{raised.value.message}{raised.value.hint}"


def test_identities_are_read_as_age_keygen_writes_them() -> None:
    text = f"# created: 2026-01-01\n# public key: {KEY.public}\n{KEY.identity}\n{OTHER.identity}\n"
    assert Keyring.parse(text).recipients == (KEY.public, OTHER.public)


@pytest.mark.parametrize(
    "text",
    ["", "# none\n", KEY.public, KEY.identity[:-1], "hunter2"],
    ids=["empty", "a comment", "a recipient", "cut off", "a word"],
)
def test_what_is_no_identity_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadKey) as raised:
        Keyring.parse(text)
    assert not text or text not in f"{raised.value.message}{raised.value.hint}"


def test_a_keyring_shows_no_identity() -> None:
    shown = f"{KEY.keyring!r} {KEY.keyring} {vars(KEY.keyring)}"
    assert KEY.identity not in shown
    assert KEY.identity.removeprefix("AGE-SECRET-KEY-1") not in shown.upper()


def test_nothing_of_it_is_loaded_before_a_key_is_read() -> None:
    code = "import sys, storage.codecs, storage.repository; sys.exit('pyrage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
