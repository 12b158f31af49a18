"""What ``docs/write-a-seller.md`` shows is true: its configurations load, its messages fit, its seller sells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from negotiator.config import load_config
from negotiator.engine_rooms import build_sellers
from providers.assembly import MessageBuilder
from providers.base import Provider, ProviderSettings
from providers.clock import SystemClock
from providers.protocol import ExecuteRequest, QuoteAnswer, QuoteRequest, read_wire
from providers.protocol_words import quote_in, rfq_in
from providers.terms import RFQ, Decline, Delta, Quote, Ticket, price_nusd

SHAPES = {"quote-request": QuoteRequest, "quote-answer": QuoteAnswer, "execute-request": ExecuteRequest}


@pytest.fixture(scope="module")
def blocks(root: Path) -> list[tuple[str, str]]:
    """The page's code blocks: what the fence says, and the code."""
    text = (root / "docs" / "write-a-seller.md").read_text(encoding="utf-8")
    return re.findall(r"```([^\n]+)\n(.*?)```", text, re.DOTALL)


def test_the_configurations_load(blocks: list[tuple[str, str]], tmp_path: Path) -> None:
    """Each configuration is taken, and its sellers are made."""
    found = [code for kind, code in blocks if kind == "toml" and "[[providers]]" in code]
    assert len(found) == 2
    for number, code in enumerate(found):
        path = tmp_path / f"{number}.toml"
        path.write_text(code, encoding="utf-8")
        sellers, simulated = build_sellers(load_config(path, {}), SystemClock())
        assert not simulated
        assert len(sellers) == 1


def test_the_messages_fit_the_protocol(blocks: list[tuple[str, str]]) -> None:
    """Each message is what the protocol checks; the quote adds up for the request shown."""
    shown = [(kind.split()[1], code) for kind, code in blocks if kind.startswith("json ")]
    assert {kind for kind, _ in shown} == set(SHAPES)
    read: list[Any] = [read_wire(SHAPES[kind], code.encode()) for kind, code in shown]
    asked = next(message for message in read if isinstance(message, QuoteRequest))
    answers = [message for message in read if isinstance(message, QuoteAnswer)]
    (said,) = answers[0].quotes
    quote = quote_in(said, rfq_in(asked), "shop", quote_id="shop:1", firm=True)
    assert quote.expected_nusd == said.expected_usd == sum(line.nusd for line in quote.lines)
    assert answers[1].decline is not None


async def test_the_python_seller_sells(blocks: list[tuple[str, str]]) -> None:
    """The class on the page is a provider: it quotes, declines, answers, and its bill is within its ceiling."""
    (code,) = [code for kind, code in blocks if kind == "python"]
    names: dict[str, Any] = {}
    exec(compile(code, "write-a-seller.md", "exec"), names)
    seller = names["shouting_seller"](ProviderSettings(kind="shouting"), SystemClock())
    assert isinstance(seller, Provider)
    (quote,) = seller.quote(RFQ(rfq_id="r", input_tokens=30, expected_output_tokens=10))
    assert isinstance(quote, Quote)
    assert sum(line.nusd for line in quote.lines) == quote.expected_nusd <= quote.ceiling_nusd
    assert isinstance(
        seller.quote(RFQ(rfq_id="r", input_tokens=1, capabilities=frozenset({"tools"})))[0], Decline
    )
    body = {"messages": [{"role": "user", "content": "not so loud"}]}
    ticket = Ticket(reservation_id="v", order_id="o", quote=quote, body=body, max_output_tokens=50)
    message, last = MessageBuilder(), Delta()
    async for delta in seller.execute(ticket):
        message.add(delta.delta)
        last = delta
    assert message.message()["content"] == "NOT SO LOUD "
    assert last.usage is not None
    assert price_nusd(quote.rates, last.usage) <= quote.ceiling_nusd
    await seller.aclose()
