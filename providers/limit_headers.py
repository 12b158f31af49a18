"""Rate-limit headers of the vendors, read into windows; and how long a refusal asks us to stay away.

Dialects as the vendors document them: OpenAI's (also Azure, xAI, OpenRouter), Groq's (requests are per day),
Mistral's (``-req-minute``), Fireworks' (tokens per second, prompt and generated apart), Together's and Anthropic's
(resets as instants). Header names are compared in lower case; a value that says nothing (absent, -1, a limit of 0)
is unknown, never zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from .dialect import Window
from .terms import RateKind

__all__ = [
    "LIMIT_HEADERS",
    "duration_ms",
    "retry_after_ms",
    "retry_hint_ms",
]

DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000
SECOND_MS: Final = 1_000

_UNITS_MS: Final = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": 3_600_000, "d": DAY_MS}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_PLAIN = re.compile(r"\d+(?:\.\d+)?")
_HINT = re.compile(r"(?:try again|retry) in (\d+(?:\.\d+)?) ?(ms|s|m)", re.IGNORECASE)


def duration_ms(text: str | None) -> int | None:
    """Milliseconds in ``1s``, ``6m0s``, ``120ms``, ``7.66s`` or plain seconds; None where it is none of these."""
    if text is None:
        return None
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return round(float(text) * SECOND_MS)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in parts))


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """What ``retry-after-ms`` or ``retry-after`` (seconds or a date) ask for; the date against the answer's own."""
    exact = _count(headers.get("retry-after-ms"))
    if exact is not None:
        return exact
    text = headers.get("retry-after")
    if text is None:
        return None
    spoken = duration_ms(text)
    if spoken is not None:
        return spoken
    return _until(_http_date(text), _http_date(headers.get("date")))


def retry_hint_ms(message: str) -> int | None:
    """The wait that an error message speaks of (``Please try again in 1.2s``), None = none."""
    found = _HINT.search(message)
    return duration_ms(found[1] + found[2]) if found else None


def _count(text: str | None) -> int | None:
    """A count >= 0; None where absent, negative or no number."""
    try:
        value = int(float(text)) if text else -1
    except (ValueError, OverflowError):
        return None
    return value if value >= 0 else None


def _http_date(text: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def _instant(text: str | None) -> datetime | None:
    try:
        when = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def _until(when: datetime | None, now: datetime | None) -> int | None:
    """Intervals travel, instants do not: the difference on the vendor's own clock."""
    if when is None or now is None:
        return None
    return max(0, round((when - now).total_seconds() * 1000))


def _window(
    kind: RateKind, limit: str | None, remaining: str | None, reset_ms: int | None, per_ms: int
) -> Window | None:
    amount = _count(limit) or None
    left = _count(remaining)
    if amount is None and not left:  # Azure's -1 and 0: it does not know
        return None
    return Window(kind, amount, left, reset_ms, per_ms)


def _family(
    headers: Mapping[str, str], prefix: str, suffixes: Mapping[str, tuple[RateKind, int]]
) -> tuple[Window, ...]:
    windows = []
    for suffix, (kind, per_ms) in suffixes.items():
        limit, remaining = (
            headers.get(f"{prefix}-limit-{suffix}"),
            headers.get(f"{prefix}-remaining-{suffix}"),
        )
        if limit is None and remaining is None:
            continue
        reset_ms = duration_ms(headers.get(f"{prefix}-reset-{suffix}"))
        window = _window(kind, limit, remaining, reset_ms, per_ms)
        if window is not None:
            windows.append(window)
    return tuple(windows)


_OPENAI = {"requests": (RateKind.REQUESTS, MINUTE_MS), "tokens": (RateKind.TOKENS, MINUTE_MS)}
_GROQ = {"requests": (RateKind.REQUESTS, DAY_MS), "tokens": (RateKind.TOKENS, MINUTE_MS)}
_MISTRAL = {"req-minute": (RateKind.REQUESTS, MINUTE_MS), "tokens-minute": (RateKind.TOKENS, MINUTE_MS)}
_FIREWORKS = {
    "requests": (RateKind.REQUESTS, MINUTE_MS),
    "tokens-prompt": (RateKind.INPUT_TOKENS, SECOND_MS),
    "tokens-cache-adjusted-prompt": (RateKind.UNCACHED_INPUT_TOKENS, SECOND_MS),
    "tokens-generated": (RateKind.OUTPUT_TOKENS, SECOND_MS),
}
_ANTHROPIC = {
    "requests": RateKind.REQUESTS,
    "tokens": RateKind.TOKENS,
    "input-tokens": RateKind.UNCACHED_INPUT_TOKENS,  # reads from the cache do not count toward it
    "output-tokens": RateKind.OUTPUT_TOKENS,
}


def _openai(headers: Mapping[str, str]) -> tuple[Window, ...]:
    return _family(headers, "x-ratelimit", _OPENAI)


def _groq(headers: Mapping[str, str]) -> tuple[Window, ...]:
    return _family(headers, "x-ratelimit", _GROQ)


def _mistral(headers: Mapping[str, str]) -> tuple[Window, ...]:
    return _family(headers, "x-ratelimit", _MISTRAL) or _openai(headers)


def _fireworks(headers: Mapping[str, str]) -> tuple[Window, ...]:
    return _family(headers, "x-ratelimit", _FIREWORKS)


def _together(headers: Mapping[str, str]) -> tuple[Window, ...]:
    windows = []
    for prefix, kind in (("x-ratelimit", RateKind.REQUESTS), ("x-tokenlimit", RateKind.TOKENS)):
        limit, remaining = headers.get(f"{prefix}-limit"), headers.get(f"{prefix}-remaining")
        reset_ms = duration_ms(headers.get(f"{prefix}-reset"))
        window = _window(kind, limit, remaining, reset_ms, SECOND_MS)
        if window is not None:
            windows.append(window)
    return tuple(windows)


def _anthropic(headers: Mapping[str, str]) -> tuple[Window, ...]:
    now = _http_date(headers.get("date"))
    windows = []
    for suffix, kind in _ANTHROPIC.items():
        limit, remaining, reset = (
            headers.get(f"anthropic-ratelimit-{suffix}-{word}") for word in ("limit", "remaining", "reset")
        )
        window = _window(kind, limit, remaining, _until(_instant(reset), now), MINUTE_MS)
        if window is not None:
            windows.append(window)
    return tuple(windows)


def _none(headers: Mapping[str, str]) -> tuple[Window, ...]:
    return ()


LIMIT_HEADERS: Final[Mapping[str, Callable[[Mapping[str, str]], tuple[Window, ...]]]] = {
    "anthropic": _anthropic,
    "fireworks": _fireworks,
    "groq": _groq,
    "mistral": _mistral,
    "none": _none,
    "openai": _openai,
    "together": _together,
}
"""Header dialects by name: an answer's headers, lower case, to the windows they report."""
