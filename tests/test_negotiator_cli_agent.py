"""``negotiator agent``: one seller over the quote protocol, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from negotiator.cli.agent import command
from negotiator.errors import ConfigInvalid
from providers.assembly import MessageBuilder
from providers.base import ProviderSettings
from providers.clock import SystemClock
from providers.remote import remote_seller
from providers.terms import RFQ, Decline, DeclineCode, Quote, Ticket

KEY = {"AGENT_KEY": "the agent's key"}


@asynccontextmanager
async def agent(*arguments: str) -> AsyncIterator[str]:
    """A running agent's URL; told to stop at the end, and it must stop well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "negotiator.cli", "agent", *arguments, "--port", "0"),
        env=os.environ | KEY,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        text = ""
        while (found := re.search(r"sells at (\S+);", text)) is None:
            line = await asyncio.wait_for(process.stderr.readline(), 60)
            assert line, text
            text += line.decode()
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_seller_sold_on_quotes_and_serves() -> None:
    """Another market asks with the key, gets a quote, buys by it; without the key it gets nothing."""
    async with agent("basement", "--key-env", "AGENT_KEY") as url:
        settings = ProviderSettings(kind="remote", name="far", base_url=url, api_key_env=("AGENT_KEY",))
        seller = remote_seller(settings, SystemClock(), KEY)
        rfq = RFQ(
            rfq_id="r",
            input_tokens=20,
            max_output_tokens=20,
            expected_output_tokens=10,
            answer_within_ms=9_000,
        )
        quote = next(item for item in await seller.quote(rfq) if isinstance(item, Quote))
        body = {"messages": [{"role": "user", "content": "Hello."}]}
        ticket = Ticket(reservation_id="r", order_id="o", quote=quote, body=body, max_output_tokens=20)
        message = MessageBuilder()
        async for delta in seller.execute(ticket):
            message.add(delta.delta)
        assert message.message()["content"]
        await seller.aclose()
        stranger = remote_seller(ProviderSettings(kind="remote", name="far", base_url=url), SystemClock(), {})
        (declined,) = await stranger.quote(rfq)
        assert isinstance(declined, Decline)
        assert declined.code is DeclineCode.AUTH
        await stranger.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "PROVIDER: expected one of anthropic, "),
        ([], "found no name"),
        (["openai", "--host", "0.0.0.0"], "expected --key-env with it"),
        (["openai", "--key-env", "UNSET_KEY"], "UNSET_KEY, found it unset or empty"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], message: str) -> None:
    """A wrong name, an open address without a key, a key that is not set: refused by name, nothing served."""
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, ConfigInvalid)
    assert message in str(done.exception)
