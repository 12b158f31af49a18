"""Intake, money and configuration: what comes in at the edges, and the one sentence for what should not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negotiator.config import load_config
from negotiator.errors import ConfigInvalid, InputInvalid, Reject, RejectCode
from negotiator.intake import capabilities_of, parameters_of, prompt_text, to_order
from negotiator.money import MAX_NUSD, format_usd, parse_usd
from negotiator.order import Order
from negotiator.wire import Terms, terms_from

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@given(st.integers(0, MAX_NUSD))
def test_money_survives_the_way_out_and_in(nusd: int) -> None:
    """Every amount of nano-dollars is the same after it was written as dollars and read."""
    assert parse_usd(format_usd(nusd)) == nusd
    assert Decimal(format_usd(nusd)) * 10**9 == nusd


@pytest.mark.parametrize(
    "value", ["-1", -0.01, "NaN", "inf", "ten", "", None, True, [], "0.0000000001", "1e30"]
)
def test_what_is_no_amount_is_refused(value: object) -> None:
    """Negative, not finite, finer than a nano-dollar, above nine million, or no number at all."""
    with pytest.raises(ValueError, match="expected"):
        parse_usd(value)


@pytest.mark.parametrize(
    ("value", "nusd"), [("0.002", 2_000_000), (0.1, 100_000_000), (3, 3_000_000_000), ("1e-9", 1)]
)
def test_amounts_are_exact(value: object, nusd: int) -> None:
    """A float is read as it is written, not as it is stored."""
    assert parse_usd(value) == nusd


BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({}, "messages: expected a list"),
    ({"messages": []}, "messages: expected a list of at least one"),
    ({"messages": ["Hi"]}, "messages.0: expected an object"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
    ({**BODY, "model": ""}, "model: expected a name"),
    ({**BODY, "max_tokens": 0}, "max_tokens: expected a whole number > 0"),
    ({**BODY, "max_tokens": True}, "max_tokens"),
    ({**BODY, "n": 2}, "n: expected 1"),
]


@pytest.mark.parametrize(("body", "message"), BAD_BODIES)
def test_a_bad_body_is_refused_by_field(body: dict[str, Any], message: str) -> None:
    """INVALID names the field, what was expected and what was found."""
    reject = to_order(body)
    assert isinstance(reject, Reject)
    assert reject.code is RejectCode.INVALID
    assert message in reject.message


def test_terms_come_from_the_request_then_its_profile_then_the_account() -> None:
    """What the request says wins; the profile fills in; the account's default budget is last."""
    profiles = {"careful": Terms(min_quality=0.9, budget_usd="0.5", deadline_ms=900)}  # type: ignore[arg-type]
    order = to_order(
        {**BODY, "model": "auto:careful"}, Terms(deadline_ms=100), profiles=profiles, default_budget_nusd=7
    )
    assert isinstance(order, Order)
    assert (order.deadline_ms, order.min_quality, order.budget_nusd) == (100, 0.9, 500_000_000)
    plain = to_order(BODY, default_budget_nusd=7)
    assert isinstance(plain, Order)
    assert (plain.budget_nusd, plain.value_nusd, plain.named) == (7, 7, None)


def test_the_content_of_an_order_leaves_out_budget_and_value() -> None:
    """The same body under another budget is the same order; another word or term is not."""
    one, richer, other = (
        to_order(body, terms_from(terms))
        for body, terms in (
            (BODY, {"budget_usd": "1"}),
            (BODY, {"budget_usd": "2", "value_usd": "3"}),
            ({"messages": [{"role": "user", "content": "Ho"}]}, {}),
        )
    )
    assert isinstance(one, Order)
    assert isinstance(richer, Order)
    assert isinstance(other, Order)
    assert one.digests == richer.digests
    assert one.digests != other.digests


def test_what_a_body_needs_is_read_from_it() -> None:
    """Tools, images and schemas are capabilities; every other parameter is named for sellers to decline."""
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "x"}},
                ],
            },
        ],
        "tools": [{"type": "function"}],
        "response_format": {"type": "json_schema"},
        "seed": 3,
        "logit_bias": None,
    }
    assert capabilities_of(body) == {"tools", "vision", "json_schema"}
    assert parameters_of(body) == {"seed"}
    assert prompt_text(body) == "See"


BAD_TERMS: list[tuple[dict[str, Any], str]] = [
    ({"budget_usd": "-1"}, "budget_usd: expected US dollars >= 0"),
    ({"budget_usd": float("nan")}, "budget_usd"),
    ({"min_quality": 1.01}, "min_quality"),
    ({"min_quality": float("nan")}, "min_quality"),
    ({"deadline_ms": 0}, "deadline_ms"),
    ({"tiers": []}, "tiers"),
    ({"tiers": ["vip"]}, "tiers.0"),
    ({"rounds": 3}, "rounds"),
    ({"order_id": "x" * 256}, "order_id"),
    ({"budgte_usd": "1"}, "budgte_usd: expected no such field, found '1'"),
]


@pytest.mark.parametrize(("terms", "message"), BAD_TERMS)
def test_bad_terms_are_one_sentence(terms: dict[str, Any], message: str) -> None:
    """Unknown and wrong terms are refused by name."""
    with pytest.raises(InputInvalid) as caught:
        terms_from(terms)
    assert message in str(caught.value)


BAD_CONFIGS = [
    ("[server]\nport = 99999999\n", ":2: server.port"),
    ("[server]\nprot = 1\n", ":2: server.prot: expected no such field"),
    ('[store]\nurl = "mysql://"\n', ":2: store.url"),
    (
        '[[providers]]\nkind = "openai"\n[[providers]]\nkind = "openai"\n',
        "providers: expected each name once",
    ),
    (
        '[[providers]]\nkind = "vllm"\n[[providers.models]]\nname = "m"\ninput_usd_per_million = "1"\n',
        "together",
    ),
    ('[[accounts]]\nid = "a"\nparent = "b"\n', "expected the parent of 'a'"),
    ("[profiles.x]\nmin_quality = 2\n", ":2: profiles.x.min_quality"),
    ("not toml", "expected TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGS)
def test_a_bad_configuration_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """Wrong keys and values are refused at start with file, line, what was expected and found."""
    path = tmp_path / "negotiator.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(path, environment={})
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_the_environment_wins_and_is_named_when_wrong(tmp_path: Path) -> None:
    """NEGOTIATOR_SECTION__KEY overrides the file; a wrong value names the variable."""
    path = tmp_path / "negotiator.toml"
    path.write_text("[server]\nport = 1000\n")
    assert load_config(path, {"NEGOTIATOR_SERVER__PORT": "2000"}).server.port == 2000
    with pytest.raises(ConfigInvalid, match=r"NEGOTIATOR_SERVER__PORT: server\.port"):
        load_config(path, {"NEGOTIATOR_SERVER__PORT": "many"})
