"""How many tokens the lines of a batch have: counted, or estimated from their bytes where a count changes nothing.

The estimate is a least-squares fit of counts to sizes, made from a sample of the batch itself, so it knows its language
and its share of code; how far it is off is measured on the sample too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from providers.terms import Offer
from providers.tokens import VOCABULARIES, count_text, reference_of

__all__ = ["Counts", "Guess", "Texts", "count_tokens", "fit_guess", "used_vocabularies"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Texts = Sequence[tuple[list[str], int]]
"""Of each line, the texts that are counted and what the rest of it weighs."""

OFF_QUANTILE = 0.99
"""An estimate is off by at most this quantile of what it is off in the sample."""
LEAST_SAMPLE = 200
"""Lines that a fit needs; of fewer all are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """tokens = rest + sizes @ factors, by vocabulary. off: how far from the count, as a share of it."""

    factors: Mapping[str, Floats]
    off: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Tokens of n lines, int64[n] by vocabulary, the reference first.

    counted: bool[n], the others are estimates, ``guess`` says how good.
    """

    tokens: Mapping[str, Ints]
    counted: npt.NDArray[np.bool_]
    guess: Guess | None = None

    def of(self, vocabulary: str) -> tuple[Ints, Ints | None]:
        """Tokens in the reference vocabulary, and in this one where it is another that can be counted."""
        own = None if vocabulary == self._reference else self.tokens.get(vocabulary)
        return self.tokens[self._reference], own

    def off(self, vocabulary: str) -> float:
        """How far an estimate may be from the count, as a share; 0 = all are counted."""
        if self.guess is None:
            return 0.0
        return self.guess.off.get(vocabulary, self.guess.off[self._reference])

    @property
    def _reference(self) -> str:
        return next(iter(self.tokens))


def used_vocabularies(offers: Iterable[Offer]) -> tuple[str, ...]:
    """The reference vocabulary of offers, then the others that they are priced in and that can be counted."""
    named = {offer.vocabulary for offer in offers}
    reference = reference_of(named)
    return reference, *sorted((named & VOCABULARIES.keys()) - {reference})


def count_tokens(texts: Texts, vocabularies: Sequence[str], guess: Guess | None = None) -> Counts:
    """Counted, or with a guess estimated."""
    if guess is not None:
        sizes, fixed = _sizes(texts)
        tokens = {
            name: np.maximum(np.rint(fixed + sizes @ guess.factors[name]), 1.0).astype(np.int64)
            for name in vocabularies
        }
        return Counts(tokens, np.zeros(len(texts), bool), guess)
    tokens = {name: np.array(_counted(texts, name), dtype=np.int64) for name in vocabularies}
    return Counts(tokens, np.ones(len(texts), bool))


def fit_guess(texts: Texts, vocabularies: Sequence[str]) -> Guess | None:
    """What a sample teaches of the sizes of tokens; None = too few lines to learn from."""
    if len(texts) < LEAST_SAMPLE:
        return None
    sizes, fixed = _sizes(texts)
    factors: dict[str, Floats] = {}
    off: dict[str, float] = {}
    for name in vocabularies:
        counted = np.array(_counted(texts, name), dtype=np.float64)
        shares = 1.0 / counted
        fitted = np.linalg.lstsq(sizes * shares[:, None], (counted - fixed) * shares, rcond=1e-9)[0]
        whole = float((sizes @ fitted).sum())
        # lines are fitted by their shares, and then their sum: what all cost together is to be right
        factors[name] = np.asarray(fitted * (float((counted - fixed).sum()) / whole if whole > 0 else 1.0))
        wrong = np.abs(fixed + sizes @ factors[name] - counted) * shares
        off[name] = float(np.quantile(wrong, OFF_QUANTILE))
    return Guess(factors, off)


def _counted(texts: Texts, vocabulary: str) -> list[int]:
    short: dict[str, int] = {}  # roles and the like: a few words that every line has
    counted = []
    for parts, fixed in texts:
        for text in parts:
            if len(text) > 16:
                fixed += count_text(text, vocabulary)
            elif text in short:
                fixed += short[text]
            else:
                fixed += short.setdefault(text, count_text(text, vocabulary))
        counted.append(fixed)
    return counted


def _sizes(texts: Texts) -> tuple[Floats, Floats]:
    """float64[n, 7]: characters, what UTF-8 adds, words, lines, digits, marks, texts; float64[n], what the rest weighs.

    A digit or a mark is often a token of its own, a letter never.
    """
    rows = []
    for parts, _ in texts:
        text = parts[0] if len(parts) == 1 else "\n".join(parts)
        count = text.count
        extra = 0 if text.isascii() else len(text.encode("utf-8", "surrogatepass")) - len(text)
        digits = sum(map(count, "0123456789"))
        rows.append(
            (len(text), extra, count(" "), count("\n"), digits, sum(map(count, ".,:-/\"'(_=")), len(parts))
        )
    sizes = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return sizes, np.array([fixed for _, fixed in texts], dtype=np.float64)
