"""Make the pictures of the dashboard: a real server on simulated sellers, a minute of mixed orders, a headless browser.

    python docs/make_screenshots.py [--seconds 60] [--out docs/img]

Needs the extra ``browser`` and a Chromium (``CHROMIUM``, by default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import aiohttp

ROOT: Final = Path(__file__).resolve().parents[1]
PER_S: Final = 14.0
SIZES: Final = {"wide": (1440, 1000), "phone": (390, 844)}
ACCOUNTS: Final = {
    "shop-support": 5,
    "shop-search": 3,
    "research-evals": 3,
    "research-agents": 2,
    "finance": 2,
}
CONFIG: Final = """
accounts = [
    { id = "shop", budget_usd = "0.60", period = "month" },
    { id = "shop-support", parent = "shop", budget_usd = "0.25", period = "day" },
    { id = "shop-search", parent = "shop" },
    { id = "research", budget_usd = "0.90", period = "month" },
    { id = "research-evals", parent = "research", budget_usd = "0.30", period = "day" },
    { id = "research-agents", parent = "research", budget_usd = "0.05" },
    { id = "finance", budget_usd = "0.15", period = "day" },
]
"""


def orders(seed: int) -> AsyncIterator[dict[str, Any]]:
    """Requests of the example workload without end, on several budgets; one in eight asks for what is not to be had."""
    chance = random.Random(seed)
    lines = [json.loads(line) for line in (ROOT / "examples/workload.jsonl").read_text().splitlines()]

    async def endless() -> AsyncIterator[dict[str, Any]]:
        while True:
            line = chance.choice(lines)
            terms = {**line["terms"], "account": chance.choices(list(ACCOUNTS), list(ACCOUNTS.values()))[0]}
            if "batch" in terms.get("tiers", ()):
                terms["tiers"] = ["standard", "flex"]
            if chance.random() < 0.12:
                short = {
                    "budget_usd": f"{chance.uniform(0.00002, 0.00009):.6f}",
                    "min_quality": 0.995,
                    "deadline_ms": chance.randrange(150, 700),
                }
                name = chance.choices(list(short), [5, 2, 3])[0]
                terms[name] = short[name]
            yield {**line["body"], "negotiator": terms}

    return endless()


async def trade(url: str, seconds: float) -> None:
    """Send orders at random instants, about ``PER_S`` a second."""
    chance = random.Random(7)
    asks: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession() as session:

        async def ask(body: dict[str, Any]) -> None:
            with suppress(aiohttp.ClientError):  # the server goes while orders are on their way
                async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    await answer.read()

        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        async for body in orders(seed=3):
            asks.add(task := asyncio.create_task(ask(body)))
            task.add_done_callback(asks.discard)
            await asyncio.sleep(chance.expovariate(PER_S))
            if loop.time() > end_s:
                break
        await asyncio.gather(*asks, return_exceptions=True)


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """``negotiator serve`` on a free port, with accounts and simulated sellers; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "negotiator.toml"
        config.write_text(CONFIG)
        command = ["-m", "negotiator.cli", "serve", "--config", str(config), "--port", str(port)]
        running = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--store", "embedded://", "--quiet", cwd=ROOT
        )
        url = f"http://127.0.0.1:{port}"
        try:
            await _up(url)
            yield url
        finally:
            running.terminate()
            await running.wait()


async def _up(url: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def send_batch(url: str, lines: int = 150) -> None:
    """A batch of the example workload, so that its progress is seen."""
    text = (ROOT / "examples/workload.jsonl").read_text().splitlines()[:lines]
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", "\n".join(text).encode(), filename="workload.jsonl")
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/v1/files", data=form) as answer:
            file_id = (await answer.json())["id"]
        wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        async with session.post("/v1/batches", json=wanted) as answer:
            answer.raise_for_status()


def saved(png: bytes, path: Path) -> None:
    """Write a picture with the 256 colours that suit it best: a third of the bytes, and it looks the same."""
    from PIL import Image

    image = Image.open(BytesIO(png)).convert("RGB")
    few = image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


async def shoot(browser: Any, url: str, theme: str, size: str, out: Path) -> None:
    """The page as a whole; for one width each also an order's history and a refused quote."""
    width, height = SIZES[size]
    page = await browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=1.0
    )
    await page.goto(url)
    await page.wait_for_selector("#offers-body tr >> nth=5")
    await page.wait_for_selector("#accounts tr >> nth=3")
    await page.fill("#ask-budget", "0.00002")
    await page.fill("#ask-quality", "0.8")
    await page.click("#ask-form button[type=submit]")
    await page.wait_for_selector("#ask-answer .no")
    await page.evaluate("window.scrollTo(0, 0); document.activeElement.blur()")
    await page.wait_for_timeout(2_500)
    whole = size == "wide"
    saved(await page.screenshot(full_page=whole), out / f"dashboard-{size}-{theme}.png")
    if not whole:
        await page.locator("#tape").scroll_into_view_if_needed()
        await page.evaluate("document.getElementById('tape').scrollIntoView()")
        saved(await page.screenshot(), out / f"dashboard-{size}-tape-{theme}.png")
    elif theme == "light":
        await page.set_viewport_size({"width": width, "height": 900})
        await page.click("#tape-pause")
        await page.locator(".orders .served button").nth(1).click()
        await page.wait_for_selector("#order-body .quotes")
        await page.wait_for_timeout(300)
        saved(await page.screenshot(), out / "dashboard-order.png")
    await page.close()


async def main(seconds: float, out: Path) -> None:
    """Trade for a while, then take every picture while trading goes on."""
    from playwright.async_api import async_playwright

    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    async with server() as url, async_playwright() as playwright:
        await trade(url, seconds)
        trading = asyncio.create_task(trade(url, 600))
        await send_batch(url)
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            for size in SIZES:
                for theme in ("light", "dark"):
                    await shoot(browser, url, theme, size, out)
        finally:
            trading.cancel()
            await browser.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument(
        "--seconds", type=float, default=60.0, help="how long to trade before the first picture"
    )
    arguments.add_argument("--out", type=Path, default=ROOT / "docs/img")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given.seconds, given.out.resolve()))
