"""Records: what they keep of frozen dataclasses."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import pytest

from providers.records import record


@record(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Something small."""

    weight: int
    to: str = "nobody"


def test_records_with_the_same_fields_are_one_key() -> None:
    """Equality and hash go by the fields, so that a record can be a key as a frozen dataclass can."""
    assert Parcel(weight=3) == Parcel(weight=3, to="nobody")
    assert len({Parcel(weight=3), Parcel(weight=3), Parcel(weight=4)}) == 2


def test_a_record_takes_no_other_attribute() -> None:
    """It has slots: a misspelt field is an error and no new attribute."""
    with pytest.raises(AttributeError):
        Parcel(weight=3).wieght = 4  # type: ignore[attr-defined]


def test_a_record_is_replaced_pickled_and_listed_as_a_dataclass() -> None:
    """The tools for dataclasses know it."""
    parcel = replace(Parcel(weight=3), to="the quay")
    assert pickle.loads(pickle.dumps(parcel)) == parcel
    assert [field.name for field in fields(parcel)] == ["weight", "to"]
