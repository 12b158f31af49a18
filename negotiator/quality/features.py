"""What a prompt looks like: hashed n-grams and some fifty hand-made features, for many texts at once.

Bytes of the lower-cased excerpt (its beginning and end) are hashed as 3- to 5-grams, words alone and in pairs, into
2**16 buckets each (Weinberger et al., "Feature hashing for large scale multitask learning", 2009). Hashing is one
NumPy call per step over the concatenation of all texts, so a batch costs little more per text than its bytes.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negotiator.quality.lexicon import DOMAINS

__all__ = ["BUCKETS", "COUNT_MAX", "HAND", "Encoded", "Single", "concatenated", "encode", "encode_all"]

Single = npt.NDArray[np.float32]

BUCKETS = 2**17
"""Byte n-grams use the lower half, words and word pairs the upper."""

HEAD_BYTES, TAIL_BYTES = 1100, 400
COUNT_MAX = HEAD_BYTES + TAIL_BYTES + 8
"""A bucket occurs less often in one text."""
_BATCH = 256
_HALF_BITS = 16
_HALF = np.int32(2**_HALF_BITS)
_SIZES = (3, 4, 5)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_POWERS = np.cumprod(np.full(64, 0x100000001B3, dtype=np.uint64), dtype=np.uint64)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)

# Classes of bytes counted per text, in order of their feature.
_CLASSES = (
    b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"()", b"[]", b"{}", b"+-*/=<>", b"\\", b"$", b"?", b"!", b",", b".",
    b":;", b"'\"`", b"_", b"%", b"^", b"#|&", b"\n", b" \t",
)  # fmt: skip
_OTHER, _NON_ASCII = len(_CLASSES), len(_CLASSES) + 1
_CLASS = np.full(256, _OTHER, dtype=np.int64)
for _number, _members in enumerate(_CLASSES):
    _CLASS[list(_members)] = _number
_CLASS[128:] = _NON_ASCII
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True
_DIGITS, _POINTS = re.compile(rb"[0-9]+"), re.compile(rb"\.(?<=[0-9].)(?=[0-9])")
_OPTION = re.compile(rb"[A-K][.):]|\([A-K]\)")
_N_CLASSES = len(_CLASSES) + 2
_SHARED = np.array([0, 1, _NON_ASCII])


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """n texts: text i has buckets[indptr[i]:indptr[i+1]], sorted, with their counts; hand is float32[n, HAND]."""

    indptr: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    hand: Single

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def rows(self, index: npt.NDArray[np.int64]) -> Encoded:
        """Some of the texts, in the order of ``index``."""
        sizes = np.diff(self.indptr)[index]
        indptr = np.concatenate(([0], np.cumsum(sizes)))
        at = np.arange(indptr[-1]) + np.repeat(self.indptr[index] - indptr[:-1], sizes)
        return Encoded(indptr, self.buckets[at], self.counts[at], self.hand[index])


def encode(texts: Sequence[str]) -> Encoded:
    """Hash texts and count what is in them. At most a few hundred at a time: memory grows with their excerpts."""
    whole = [text.encode("utf-8", "replace") for text in texts]
    parts = [b if len(b) <= HEAD_BYTES + TAIL_BYTES else b[:HEAD_BYTES] + b[-TAIL_BYTES:] for b in whole]
    # Line feeds around each text: no word begins or ends at its edge, so words of two texts never meet.
    raw = np.frombuffer(b"".join(b"\n" + part + b"\n" for part in parts), dtype=np.uint8)
    sizes = [len(part) + 2 for part in parts]
    total = np.array([len(b) for b in whole], dtype=np.float64)
    doc = np.repeat(np.arange(len(texts), dtype=np.int32), sizes)
    low = _LOWER.take(raw)
    starts, ends, words = _words(low)
    edges = [0, *itertools.accumulate(sizes)]
    keys = _sorted_keys(_grams(low), edges, _word_keys(words), starts.searchsorted(edges).tolist())
    begins = np.array([0, *itertools.accumulate(part.size for part in keys)])
    joined = np.concatenate((np.zeros(0, dtype=np.int32), *keys))
    new = np.ones(joined.size + 1, dtype=bool)
    np.not_equal(joined[1:], joined[:-1], out=new[1:-1])
    new[begins] = True
    runs = new.nonzero()[0]
    first, counts = runs[:-1], np.diff(runs).astype(np.int32)
    word_doc = doc[starts]
    hand = _hand(parts, raw, doc, total, words, word_doc, ends - starts)
    return Encoded(first.searchsorted(begins), joined.take(first), counts, hand)


def encode_all(texts: Sequence[str]) -> Encoded:
    """The same for any number of texts, a batch at a time."""
    return concatenated([encode(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)])


def concatenated(parts: Sequence[Encoded]) -> Encoded:
    """Several encodings as one."""
    sizes = np.concatenate([np.diff(part.indptr) for part in parts])
    return Encoded(
        np.concatenate(([0], np.cumsum(sizes))),
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.hand for part in parts]),
    )


def _grams(low: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint16]]:
    """Buckets of the byte 3-, 4- and 5-grams that begin at each byte."""
    wide = low.astype(np.uint64)
    value = wide[:-1] * np.uint64(257) + wide[1:]
    grams = []
    for size in _SIZES:
        value = value[: len(wide) - size + 1] * np.uint64(257) + wide[size - 1 :]
        grams.append(_bucket(value))
    return grams


def _sorted_keys(
    grams: Sequence[npt.NDArray[np.uint16]],
    edges: Sequence[int],
    words: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
    word_edges: Sequence[int],
) -> list[npt.NDArray[np.int32]]:
    """The buckets of each text, ascending: of its grams, its words and pairs of these. 16 bits are sorted by radix."""
    single, double = words
    keys = []
    spans, word_spans = itertools.pairwise(edges), itertools.pairwise(word_edges)
    for (begin, end), (first, last) in zip(spans, word_spans, strict=True):
        lower = np.concatenate(
            [gram[begin : end - size + 1] for size, gram in zip(_SIZES, grams, strict=True)]
        )
        upper = np.concatenate((single[first:last], double[first : max(first, last - 1)]))
        lower.sort(kind="stable")
        upper.sort(kind="stable")
        joined = np.empty(lower.size + upper.size, dtype=np.int32)
        joined[: lower.size] = lower
        np.add(upper, _HALF, out=joined[lower.size :], casting="unsafe")
        keys.append(joined)
    return keys


def _bucket(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    return ((value * _MULTIPLIER) >> np.uint64(64 - _HALF_BITS)).astype(np.uint16)


def _words(
    low: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Where words start and end, and a 64-bit hash of each (a polynomial over its first 64 bytes)."""
    inside = _IS_WORD.take(low)
    edge = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edge[::2], edge[1::2]
    if not len(starts):
        return starts, ends, np.zeros(0, dtype=np.uint64)
    lengths = ends - starts
    position = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    terms = low[inside].astype(np.uint64) * _POWERS.take(
        position, mode="clip"
    )  # the last stands for those behind
    return starts, ends, np.add.reduceat(terms, np.cumsum(lengths) - lengths)


def _word_keys(words: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Buckets of words, and of each with the next."""
    return _bucket(words), _bucket(words[:-1] * _PAIR + words[1:])


def _lexicon() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    entries = [(word, number) for number, words in enumerate(DOMAINS.values()) for word in words.split()]
    text = np.frombuffer(b" " + b" ".join(word.encode() for word, _ in entries) + b" ", dtype=np.uint8)
    hashes = _words(text)[2]
    order = np.argsort(hashes)
    return hashes[order], np.array([number for _, number in entries])[order]


_LEXICON, _LEXICON_DOMAIN = _lexicon()
_N_DOMAINS = len(DOMAINS)
HAND = 3 + _N_CLASSES + 3 + 3 + 6 + _N_DOMAINS
"""How many hand-made features there are."""


def _hand(
    parts: Sequence[bytes],
    raw: npt.NDArray[np.uint8],
    doc: npt.NDArray[np.int32],
    total: npt.NDArray[np.float64],
    words: npt.NDArray[np.uint64],
    word_doc: npt.NDArray[np.int32],
    word_length: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """float32[n, HAND]: lengths, kinds of bytes, shares, numbers, options, domain words."""
    n = len(parts)
    classes = np.bincount(doc * _N_CLASSES + _CLASS.take(raw), minlength=n * _N_CLASSES).reshape(
        n, _N_CLASSES
    )
    n_words = np.bincount(word_doc, minlength=n)
    mean_length = np.bincount(word_doc, word_length, minlength=n) / np.maximum(n_words, 1)
    at = np.minimum(_LEXICON.searchsorted(words), len(_LEXICON) - 1)
    hit = (_LEXICON.take(at) == words).nonzero()[0]
    domain = np.bincount(
        word_doc.take(hit) * _N_DOMAINS + _LEXICON_DOMAIN.take(at.take(hit)), minlength=n * _N_DOMAINS
    )
    size = np.maximum(classes.sum(axis=1), 1)
    hand = np.empty((n, HAND))
    hand[:, 0], hand[:, 1], hand[:, 2] = total, n_words, mean_length
    shares = 3 + _N_CLASSES
    hand[:, 3:shares] = classes
    hand[:, -_N_DOMAINS:] = domain.reshape(n, _N_DOMAINS)
    for counted in (hand[:, :2], hand[:, 3:shares], hand[:, -_N_DOMAINS:]):
        np.log1p(counted, out=counted)
    hand[:, shares : shares + 3] = classes.take(_SHARED, axis=1) / size[:, None]
    for row, part in zip(hand, parts, strict=True):
        row[shares + 3 : -_N_DOMAINS] = _numbers(part) + _options(part)
    return hand.astype(np.float32)


def _numbers(part: bytes) -> tuple[float, float, float]:
    """Runs of digits: how many, the longest, how many continue after a point."""
    runs = _DIGITS.findall(part)
    if not runs:
        return 0.0, 0.0, 0.0
    return math.log1p(len(runs)), float(max(map(len, runs))), math.log1p(len(_POINTS.findall(part)))


def _options(part: bytes) -> tuple[float, float, float, float, float, float]:
    """Lines like ``B. text`` or ``(B) text``: count, any, mean and spread of their length, share with digits; lines."""
    lines = [line for line in part.split(b"\n") if len(line) > 1]
    options = [line for line in lines if _OPTION.match(line)]
    if not options:
        return 0.0, 0.0, 0.0, 0.0, 0.0, math.log1p(len(lines))
    count = len(options)
    sizes = [len(line) + 1 for line in options]
    mean = sum(sizes) / count
    spread = math.sqrt(max(sum(size * size for size in sizes) / count - mean * mean, 0.0))
    numeric = sum(_DIGITS.search(line) is not None for line in options) / count
    return float(count), 1.0, math.log1p(mean), math.log1p(spread), numeric, math.log1p(len(lines))
