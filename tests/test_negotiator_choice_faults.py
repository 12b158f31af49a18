"""Faults of choosing that others had: who decides by content, in what unit, with whom, and what a warm cache is worth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from virtual_market import market

from negotiator.wire import terms_from
from providers.clock import run_virtual

RIVERS = "The rivers of Europe, their sources, lengths and mouths, in order of their length. " * 300
CHEAP, DEAR = "openai/gpt-6-luna", "anthropic/claude-haiku-5-5"

ALONE = """
import socket, sys

class Alone(socket.socket):
    def connect(self, *_):
        raise AssertionError("the decision asked somebody")

socket.socket = Alone
for name in ("torch", "tensorflow", "jax", "onnxruntime", "transformers", "openai", "anthropic"):
    sys.modules[name] = None  # importing it raises
from negotiator.events import discard
from negotiator.quality import Quality, encode_features, load_priors

assert encode_features("Prove that 17 is prime.") != encode_features("Say hi.")
found = Quality(load_priors(), clock_ms=lambda: 0, emit=discard).estimate("Prove that 17 is prime.", ["gpt-6-luna", "gpt-5-nano"])
print(*found.mean)
"""


def test_quality_is_estimated_without_a_gpu_a_key_or_a_vendor(root: Path) -> None:
    """LL 10049, RouteLLM 19: in a process without a network, a key or a tensor library a prompt is judged all the same."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(0 < float(mean) < 1 for mean in done.stdout.split())


def test_a_floor_is_the_share_of_answers_that_were_accepted() -> None:
    """RouteLLM 36: of 400 answers 85 in 100 were good enough: a floor of 0.8 admits the model, one of 0.9 does not."""

    async def play() -> list[bool]:
        async with market() as engine:
            for number in range(400):
                engine.rooms.quality.learn(CHEAP, None, float(number % 20 >= 3))
            admitted = []
            for floor in (0.8, 0.9):
                terms = terms_from({"models": [CHEAP], "min_quality": floor})
                book = await engine.quote("Say hi.", terms=terms)
                admitted.append(bool(book.eligible))
            return admitted

    assert run_virtual(play()) == [True, False]


def chat(question: str, about: str = RIVERS) -> list[dict[str, Any]]:
    return [{"role": "system", "content": about}, {"role": "user", "content": question}]


def test_a_conversation_without_a_session_stays_where_its_cache_is_warm() -> None:
    """agentgateway 2572: two turns at the dearer seller make its warm price the lower one; another text goes elsewhere."""

    async def play() -> tuple[str, str, str]:
        either = terms_from({"models": [CHEAP, DEAR]})
        async with market() as engine:
            cold = await engine.quote(chat("One?"), terms=either, max_tokens=20)
            for question in ("Two?", "Three?"):
                await engine.complete(chat(question), terms=terms_from({"models": [DEAR]}), max_tokens=20)
            warm = await engine.complete(chat("Four?"), terms=either, max_tokens=20)
            other = await engine.quote(
                chat("Five?", "Mountains and lakes. " * 1_000), terms=either, max_tokens=20
            )
            assert warm.usage.cache_read_tokens > 0
            return cold.eligible[0].quote.key, f"{warm.provider}/{warm.model}", other.eligible[0].quote.key

    assert run_virtual(play()) == (CHEAP, DEAR, CHEAP)
