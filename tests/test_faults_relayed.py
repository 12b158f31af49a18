"""A worker killed while it streams, as a real process over HTTP: what was relayed is charged, not the whole hold."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from fault_house import buyer_at, config, model_server, until

from benchmarks.processes import audit, serving, shared_store
from benchmarks.vendor import INPUT_NUSD, OUTPUT_NUSD, PIECES, WORD

pytestmark = pytest.mark.slow

TOKENS = 1_000
SLOW = "m-8000"
PIECES_READ = 4
QUOTED_INPUT = 25
"""A short question has no more tokens than this, as quoted; the vendor counts them in its own way."""


async def test_a_worker_killed_mid_stream_costs_what_it_relayed(tmp_path: Path) -> None:
    """Killed some seconds into a long stream: two pieces at least are posted, and at most what the vendor had sent."""
    async with model_server() as (vendor, url):
        with shared_store(tmp_path) as shared:
            file = config(url).replace("m-150", SLOW)
            with serving(tmp_path, file, shared.url, workers=2) as market:
                async with buyer_at(market) as buyer:
                    body = {
                        "model": f"local/{SLOW}",
                        "messages": [{"role": "user", "content": "Name the rivers of Europe."}],
                        "max_tokens": TOKENS,
                        "stream": True,
                        "negotiator": {"account": "team", "deadline_ms": 15_000},
                    }
                    url_of_calls = f"{market.url}/v1/chat/completions"
                    async with buyer.session.post(url_of_calls, json=body) as answer:
                        assert answer.status == 200, await answer.text()
                        pieces = 0
                        while pieces < PIECES_READ:
                            line = await answer.content.readline()
                            assert line, "the stream ended by itself"
                            pieces += b" river river" in line
                        await asyncio.sleep(0.5)  # the telling is on its way
                        held_nusd = (await buyer.balance("team"))["pending"]
                        before = market.workers()
                        for pid in before:
                            os.kill(pid, signal.SIGKILL)
                        sent_nusd = vendor.bill.nusd
                        with pytest.raises(aiohttp.ClientError):
                            await answer.read()
                    await until(
                        lambda: not {*before} & {*market.workers()} and market.listening() == 2,
                        "workers take the dead ones' places",
                    )
                    await until(buyer.nothing_held, "no hold is left")
                    posted_nusd = (await buyer.balance("team"))["posted"]
            assert not audit(shared.url)
    assert QUOTED_INPUT * INPUT_NUSD + TOKENS * OUTPUT_NUSD >= held_nusd > sent_nusd
    assert posted_nusd < held_nusd, "the store was not told what was relayed: all that was held is posted"
    told_of = 2 * len(WORD) * TOKENS // PIECES // 8
    assert told_of * OUTPUT_NUSD <= posted_nusd <= sent_nusd + QUOTED_INPUT * INPUT_NUSD
