"""A dictionary from trace keys to integers that stays small with millions of them."""

import hashlib
from collections.abc import Iterable

import numpy as np


_DIGEST_BYTES = 16
# Additions that are kept in an ordinary dictionary before they are sorted in
_MOST_RECENT = 65_536


def digest_of(key: str) -> bytes:
    """Fixed-length stand-in for a key, 16 bytes; two keys never share one in practice."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


class KeyIndex:
    """
    From keys to integers, in 24 bytes a key: sorted arrays, and a dictionary of the latest additions.

    Args:
        keys (`Iterable[str]`, *optional*):
            Keys.
        values (`Iterable[int]`, *optional*):
            Their numbers, not negative. If a key stands twice, the later number counts.

    Examples:
    ```python
    >>> index = KeyIndex(["a", "b"], [0, 7])
    >>> index["c"] = 9
    >>> index.get("b"), index.get("d"), len(index)
    (7, None, 3)
    ```
    """

    def __init__(self, keys: Iterable[str] = (), values: Iterable[int] = ()):
        self._digests = np.empty(0, dtype=f"S{_DIGEST_BYTES}")
        self._values = np.empty(0, dtype=np.int64)
        self._recent: dict[bytes, int] = {}
        self._size = 0
        self.extend(keys, values)

    def __setitem__(self, key: str, value: int) -> None:
        digest = digest_of(key)
        if digest not in self._recent and self._position(digest) is None:
            self._size += 1
        self._recent[digest] = value
        if len(self._recent) > _MOST_RECENT:
            self.extend((), ())

    def extend(self, keys: Iterable[str], values: Iterable[int]) -> None:
        """Set many at once."""
        self._sort_in([digest_of(key) for key in keys], np.fromiter(values, dtype=np.int64))
        self._size = len(self._values)

    def get(self, key: str, default: int | None = None) -> int | None:
        """The number of a key, or `default`."""
        digest = digest_of(key)
        value = self._recent.get(digest)
        if value is None:
            position = self._position(digest)
            value = default if position is None else int(self._values[position])
        return value

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return self._size

    def sorted_values(self) -> np.ndarray:
        """All numbers, in an order that depends on the keys alone, shape (keys,), int64."""
        self.extend((), ())
        return self._values

    def _position(self, digest: bytes) -> int | None:
        if not len(self._digests):
            return None
        # NumPy strips trailing zero bytes, on both sides alike
        position = int(np.searchsorted(self._digests, digest))
        found = position < len(self._digests) and self._digests[position] == digest.rstrip(b"\0")
        return position if found else None

    def _sort_in(self, new_digests: list[bytes], new_values: np.ndarray) -> None:
        added = [*self._recent, *new_digests]
        values = np.concatenate([self._values, np.fromiter(self._recent.values(), dtype=np.int64), new_values])
        self._recent = {}
        if added:
            digests = np.concatenate([self._digests, np.array(added, dtype=self._digests.dtype)])
            order = np.argsort(digests, kind="stable")
            digests = digests[order]
            last = np.append(digests[1:] != digests[:-1], True)
            self._digests, self._values = digests[last], values[order[last]]
