"""The event reader: any cut of the bytes gives the same events, and nothing is unbounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import MalformedAnswer
from providers.sse import Event, EventReader, encode_event

STREAM = (
    b': hello\n\ndata: {"a":1}\n\n\n\nevent: ping\ndata: {}\n\ndata:no space\n\ndata: two\ndata: lines\n\n'
    b"id: 7\nretry: 10\n\ndata: caf\xc3\xa9\n\ndata: [DONE]\n\n"
)
EVENTS = [
    Event(b"", b'{"a":1}'),
    Event(b"ping", b"{}"),
    Event(b"", b"no space"),
    Event(b"", b"two\nlines"),
    Event(b"", b"caf\xc3\xa9"),
    Event(b"", b"[DONE]"),
]


def read(chunks: list[bytes]) -> list[Event]:
    """All events of a stream that arrives in these pieces and then ends."""
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + reader.close()


@given(
    cuts=st.lists(st.integers(0, len(STREAM)), max_size=12),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    ended=st.booleans(),
)
def test_any_cut_gives_the_same_events(cuts: list[int], newline: bytes, ended: bool) -> None:
    """However the bytes are cut, whatever the line ends, with or without a last blank line: the same events."""
    stream = STREAM if ended else STREAM.rstrip(b"\n")
    stream = stream.replace(b"\n", newline)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert read([stream[a:b] for a, b in itertools.pairwise(places)]) == EVENTS


def test_one_byte_at_a_time() -> None:
    """A stream that trickles in byte by byte is read whole."""
    assert read([bytes([byte]) for byte in STREAM]) == EVENTS


@pytest.mark.parametrize("size", [99, 100, 101])
def test_an_event_is_bounded(size: int) -> None:
    """An event of the largest size passes, one byte more does not: neither whole nor still without its end."""
    for stream in (b"data: " + b"x" * (size - 6) + b"\n\n", b"data: " + b"x" * (size - 6)):
        reader = EventReader(max_event_bytes=100)
        if size <= 100:
            reader.feed(stream)
        else:
            with pytest.raises(MalformedAnswer, match="at most 100 bytes"):
                reader.feed(stream)


def test_what_is_encoded_is_read() -> None:
    """An event that is written is the event that is read."""
    assert read([encode_event(b"{}", b"quote") + encode_event(b"[DONE]")]) == [
        Event(b"quote", b"{}"),
        Event(b"", b"[DONE]"),
    ]
