"""Which of many keys are in a set: most are not, and that has to be told quickly, in little memory."""

from collections.abc import Iterable, Sequence


class ManyKeys:
    """Keeps a bit of each key's hash, in eight megabytes: a key without it was never added."""

    BITS = 1 << 26

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._bits = bytearray(self.BITS // 8)
        self.add(keys)

    def add(self, keys: Iterable[bytes]) -> None:
        """Let these keys pass from now on."""
        bits, many = self._bits, self.BITS
        for key in keys:
            at = hash(key) % many
            bits[at >> 3] |= 1 << (at & 7)

    def hits(self, keys: Sequence[bytes]) -> list[bytes]:
        """Of these keys, those that may have been added."""
        bits, many = self._bits, self.BITS
        return [key for key in keys if bits[(at := hash(key) % many) >> 3] >> (at & 7) & 1]
