"""The dashboard in a real browser: it shows what happens, lets people buy, and can be used by keyboard, small and dark."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from api_house import CHAT, Served, two_shops
from dashboard_audit import CONTRAST, NAMES

from negotiator.store import Account

playwright = pytest.importorskip(
    "playwright.async_api", reason="needs the extra `browser`: pip install -e '.[browser]'"
)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Chromium: install the distribution's, or set CHROMIUM"
    ),
]

TEAMS = (
    Account(account_id="team", budget_nusd=10**9),
    Account(account_id="team-run", parent="team", budget_nusd=10**8),
    Account(account_id="rival", budget_nusd=10**9),
)
PANELS = ("Order book", "Tape", "Latency", "Cost and quality", "Refusals", "Budgets", "Ask for a quote")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A cheap and a dear seller of the same model, and accounts of two teams."""
    async with two_shops(TEAMS) as house:
        yield house


@dataclass
class Watched:
    """A page and what went wrong or abroad in it. expected: statuses whose console line is no fault."""

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    @contextmanager
    def refusing(self, status: int) -> Iterator[None]:
        """Within the block an answer of this status is expected."""
        self.allowed.append(f"status of {status}")
        yield
        assert any(f"status of {status}" in fault for fault in self.faults), "it was not refused"

    def check(self) -> None:
        """Fails if anything went wrong that was not expected, or any request left the house."""
        assert not self.abroad
        assert not [one for one in self.faults if not any(text in one for text in self.allowed)]


@asynccontextmanager
async def watched(served: Served, **options: Any) -> AsyncIterator[Watched]:
    """A page of the dashboard; at the end it must have had no errors and asked nobody else."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
        context.set_default_timeout(20_000)
        page = await context.new_page()
        watch = Watched(page, served.url)
        page.on("console", lambda line: line.type == "error" and watch.faults.append(line.text))
        page.on("pageerror", lambda error: watch.faults.append(str(error)))
        page.on(
            "request",
            lambda asked: asked.url.startswith(served.url + "/") or watch.abroad.append(asked.url),
        )
        await page.goto(served.url)
        yield watch
        watch.check()
        await browser.close()


async def opened(page: Any) -> None:
    """Wait until offers and accounts are shown."""
    await page.wait_for_selector("#offers-body tr")
    await page.wait_for_selector("#accounts tr")
    await page.wait_for_selector("#connection[data-state=live]")


async def buy(served: Served, key: str | None = None, **terms: Any) -> int:
    """One chat completion with terms."""
    status, _, _ = await served.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": terms}, key)
    return status


async def test_it_opens_and_needs_nobody_else(served: Served) -> None:
    """On loopback without keys it shows every panel at once, without an error and without another host."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        for title in PANELS:
            assert await page.get_by_role("heading", name=title, exact=True).is_visible(), title
        assert await page.locator("#offers-body tr").count() == 2
        assert await page.get_by_text("No order has ended yet.").is_visible()
        assert await page.get_by_text("Nothing was refused.").is_visible()
        assert await page.locator("#sign-in").is_hidden()
        assert await page.locator("#frontier canvas").count() == 1


async def test_an_order_appears_as_it_ends(served: Served) -> None:
    """A purchase elsewhere comes onto the tape by itself, with winner, price and loser, and into the figures."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await buy(served)
        entry = page.locator("#orders li.served").first
        await entry.wait_for()
        said = await entry.inner_text()
        for text in ("default", "m cheap", "billed $0.000024", "m, pricier"):
            assert text in said, said
        await page.locator(".tile.served .figure").get_by_text("1", exact=True).wait_for()
        assert await buy(served, budget_usd="0.000001") == 402
        await page.locator("#orders li.refused").wait_for()
        said = await page.locator("#orders li").first.inner_text()
        assert "Refused: budget too low" in said
        assert "Would do: budget $" in said
        await page.locator("#refusals li").wait_for()
        assert "3001" in await page.locator("#refusals li").inner_text()
        await page.select_option("#tape-show", "served")
        assert await page.locator("#orders li").count() == 1


async def test_orders_from_before_are_there(served: Served) -> None:
    """What ended before the page was opened is on the tape."""
    await buy(served)
    async with watched(served) as watch:
        await watch.page.locator("#orders li.served").wait_for()


async def test_a_paused_tape_waits(served: Served) -> None:
    """While paused, or while one points at it, nothing moves; then all that waited is there."""
    await buy(served)
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.click("#tape-pause")
        await buy(served)
        await page.get_by_role("button", name="Resume (1)").wait_for()
        assert await page.locator("#orders li").count() == 1
        await page.click("#tape-pause")
        assert await page.locator("#orders li").count() == 2
        await page.hover("#orders li")
        await buy(served)
        await page.get_by_text("held while you look (1)").wait_for()
        assert await page.locator("#orders li").count() == 2
        await page.hover("h1")
        await page.locator("#orders li").nth(2).wait_for()


async def test_an_order_can_be_opened(served: Served) -> None:
    """Its history has quotes, decision, attempts and settlement; Escape closes it and gives the focus back."""
    await buy(served)
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.locator("#orders button").first.focus()
        await page.keyboard.press("Enter")
        sheet = page.get_by_role("dialog")
        for title in ("Decision", "Attempts", "Settlement"):
            await sheet.get_by_role("heading", name=title).wait_for()
        said = await sheet.inner_text()
        for text in ("cheap/m", "won", "pricier", "settled", "Posted", "$0.000024"):
            assert text in said, text
        assert "#order=" in page.url
        await page.keyboard.press("Escape")
        await sheet.wait_for(state="hidden")
        assert await page.evaluate("document.activeElement.matches('#orders button')")
        assert "#order=" not in page.url


async def test_an_order_that_is_unknown_is_said_in_its_place(served: Served) -> None:
    """An address that names an order nobody knows opens the sheet with the house's words."""
    async with watched(served) as watch:
        with watch.refusing(404):
            await watch.page.goto(f"{served.url}/#order=ord_none")
            await watch.page.reload()
            await watch.page.get_by_text("there is no order 'ord_none'").wait_for()


async def test_a_quote_can_be_asked_for_and_taken(served: Served) -> None:
    """The form shows ranked quotes; taking the dearer one buys it, shows the answer and puts it on the tape."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.fill("#ask-prompt", "What is 2+2?")
        await page.click("text=Ask all sellers")
        await page.locator(".takes li").nth(1).wait_for()
        assert await page.locator(".takes li").count() == 2
        await page.locator(".takes li", has_text="dear").get_by_role("button").click()
        await page.get_by_text("It is four.").wait_for()
        assert await page.get_by_role("heading", name="Bought from dear/m").is_visible()
        assert await page.evaluate("document.activeElement.id") == "ask-bought"
        await page.locator("#orders li.served", has_text="dear").wait_for()
        await page.click("text=Open its history")
        await page.get_by_role("dialog").get_by_text("dear/m").first.wait_for()
    assert await served.posted_nusd() > 0


async def test_a_counter_offer_can_be_taken(served: Served) -> None:
    """A budget that is too low is refused with what would do, and taking that buys it within the new budget."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.fill("#ask-budget", "0.000001")
        await page.click("text=Ask all sellers")
        await page.locator(".no").get_by_text("3001 budget too low").wait_for()
        assert "Would do: budget $" in await page.locator(".no").inner_text()
        assert not served.playback.received
        await page.get_by_role("button", name="Take the offer").click()
        await page.get_by_role("heading", name="Bought from cheap/m").wait_for()
    assert await served.posted_nusd() > 0


@pytest.mark.parametrize(
    ("field", "typed", "named"),
    [
        ("#ask-quality", "1.5", "min_quality"),
        ("#ask-budget", "a lot", "budget_usd"),
        ("#ask-tokens", "-3", "max_tokens"),
    ],
)
async def test_what_is_wrong_is_said_beside_the_form(
    served: Served, field: str, typed: str, named: str
) -> None:
    """A value the house does not take is answered in its words, in place, and the form can be sent again."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.fill(field, typed)
        with watch.refusing(400):
            await page.click("text=Ask all sellers")
            await page.locator("#ask-error:not(:empty)").wait_for()
        assert named in await page.inner_text("#ask-error")
        await page.fill(field, "")
        await page.click("text=Ask all sellers")
        await page.locator(".takes li").first.wait_for()
        assert await page.inner_text("#ask-error") == ""


async def test_the_book_can_be_sorted_and_filtered(served: Served) -> None:
    """A column's heading sorts by it, again turns it round; words filter; none left is said."""
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        first = page.locator("#offers-body tr").first
        assert "cheap" in await first.inner_text()
        await page.get_by_role("button", name="Out $/M").click()
        await page.get_by_role("button", name="Out $/M").click()
        assert "dear" in await first.inner_text()
        heading = page.get_by_role("columnheader", name="Out $/M")
        assert await heading.get_attribute("aria-sort") == "descending"
        await page.fill("#book-words", "cheap")
        assert await page.locator("#offers-body tr").count() == 1
        await page.fill("#book-words", "nobody")
        assert await page.get_by_text("No offer fits the filter.").is_visible()


async def test_it_is_used_by_keyboard_alone(served: Served) -> None:
    """Tab reaches every control in the order it is read, each with a ring to see; the first one skips to the market."""
    await buy(served)
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        reached = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            found = await page.evaluate(
                "(() => { const node = document.activeElement, style = getComputedStyle(node);"
                " return [node.id || node.textContent.trim().slice(0, 20), style.outlineStyle, node === document.body] })()"
            )
            if found[2]:
                break
            assert found[1] != "none", f"no ring on {found[0]}"
            reached.append(found[0])
        for name in ("book-words", "Typical", "tape-show", "tape-pause", "ask-prompt", "ask-budget"):
            assert name in reached, (name, reached)
        assert reached.index("book-words") < reached.index("tape-pause") < reached.index("ask-prompt")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_names_and_contrast(served: Served, theme: str) -> None:
    """In both themes, with everything on show, all has names and all text is readable (WCAG AA)."""
    await buy(served)
    await buy(served, budget_usd="0.000001")
    async with watched(served, color_scheme=theme, reduced_motion="reduce") as watch:
        page = watch.page
        await opened(page)
        await page.fill("#ask-budget", "0.000001")
        await page.click("text=Ask all sellers")
        await page.locator(".no").wait_for()
        await page.click("text=The frontier as a table")
        await page.locator("#refusals li").wait_for()
        assert await page.evaluate(NAMES) == []
        assert await page.evaluate(CONTRAST) == []
        await page.locator("#orders li.served button").click()
        await page.locator("#order-body .quotes").wait_for()
        assert await page.evaluate(NAMES) == []
        assert await page.evaluate(CONTRAST) == []


async def test_the_audit_finds_faults(served: Served) -> None:
    """The audit is no rubber stamp: a pale text and an unlabelled field are found."""
    async with watched(served) as watch:
        await opened(watch.page)
        await watch.page.evaluate(
            "(() => { const text = document.createElement('p'), field = document.createElement('input');"
            " text.textContent = 'pale'; text.style.color = '#aaa'; document.querySelector('main').append(text, field); })()"
        )
        assert any("no label" in fault for fault in await watch.page.evaluate(NAMES))
        assert any("pale" in fault for fault in await watch.page.evaluate(CONTRAST))


async def test_dark_is_the_systems_choice_or_ones_own(served: Served) -> None:
    """It follows the system; a theme chosen by the button holds after a reload."""
    ground = "getComputedStyle(document.body).backgroundColor"
    async with watched(served, color_scheme="dark") as watch:
        page = watch.page
        await opened(page)
        dark = await page.evaluate(ground)
        assert sum(map(int, dark.removeprefix("rgb(").rstrip(")").split(","))) < 100
        await page.get_by_role("button", name="Theme: system").click()
        await page.get_by_role("button", name="Theme: light").wait_for()
        assert await page.evaluate(ground) != dark
        await page.reload()
        await opened(page)
        assert await page.evaluate(ground) != dark


DRAWN = """(colour) => {
  const canvas = document.querySelector("#frontier canvas"), { width, height } = canvas;
  const dots = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  for (let at = 0; at < dots.length; at += 4)
    if (dots[at + 3] === 255 && colour.every((part, each) => dots[at + each] === part)) return true;
  return false;
}"""
"""Whether the frontier's chart has a dot of this colour."""


async def test_charts_are_drawn_in_the_themes_colours(served: Served) -> None:
    """The frontier's line is the light theme's blue, and the dark one's as soon as the theme changes."""
    light, dark = [0x1D, 0x4F, 0xAE], [0x85, 0xAD, 0xFF]
    async with watched(served, color_scheme="light") as watch:
        await opened(watch.page)
        await watch.page.wait_for_function(DRAWN, arg=light)
        assert not await watch.page.evaluate(DRAWN, dark)
        await watch.page.emulate_media(color_scheme="dark")
        await watch.page.wait_for_function(DRAWN, arg=dark)
        assert not await watch.page.evaluate(DRAWN, light)


@pytest.mark.parametrize("width", [390, 320])
async def test_it_fits_a_phone(served: Served, width: int) -> None:
    """Nothing is wider than the screen, neither the page nor an order's history; what is pressed is large enough."""
    await buy(served)
    wide = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    async with watched(served, viewport={"width": width, "height": 844}, has_touch=True) as watch:
        page = watch.page
        await opened(page)
        await page.fill("#ask-budget", "0.000001")
        await page.click("text=Ask all sellers")
        await page.locator(".no").wait_for()
        assert await page.evaluate(wide) <= width
        small = await page.evaluate(
            "[...document.querySelectorAll('button, select, input:not([type=checkbox])')].filter((node) => node.checkVisibility())"
            ".filter((node) => node.getBoundingClientRect().height < 32).map((node) => node.outerHTML.slice(0, 80))"
        )
        assert small == []
        await page.locator("#orders button").first.click()
        await page.locator("#order-body .quotes").wait_for()
        assert await page.evaluate(wide) <= width
        assert await page.evaluate("document.getElementById('order').getBoundingClientRect().width") <= width


async def test_one_signs_in_with_a_key(served: Served) -> None:
    """Without a key nothing is shown; a wrong one is refused; the right one shows its own account, and is kept in the tab."""
    await served.make_key("team", "team", "read", "use")
    await served.make_key("rival", "rival", "use")
    await buy(served, "team")
    await buy(served, "rival")
    async with watched(served) as watch:
        page = watch.page
        with watch.refusing(401):
            await page.get_by_label("API key").wait_for()
            assert await page.locator("#desk").is_hidden()
            await page.fill("#key", "neg_wrong_key")
            await page.keyboard.press("Enter")
            await page.get_by_role("alert").get_by_text("unknown or has expired").wait_for()
        await page.fill("#key", served.keys["team"])
        await page.keyboard.press("Enter")
        await opened(page)
        await page.locator("#orders li").wait_for()
        text = await page.inner_text("body")
        assert "team-run" in text
        assert "rival" not in text
        assert served.keys["team"] not in page.url
        assert await page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [
            0,
            "",
            1,
        ]
        await page.reload()
        await opened(page)
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("API key").wait_for()
        assert await page.evaluate("sessionStorage.length") == 0
        assert "team-run" not in await page.inner_text("body")


async def test_a_key_that_may_not_read_is_told(served: Served) -> None:
    """A key that may only buy is told which scope it lacks, and is not kept."""
    await served.make_key("buyer", "team", "use")
    async with watched(served) as watch:
        page = watch.page
        with watch.refusing(401):
            await page.get_by_label("API key").wait_for()
        with watch.refusing(403):
            await page.fill("#key", served.keys["buyer"])
            await page.keyboard.press("Enter")
            await page.get_by_role("alert").get_by_text("lacks the scope 'read'").wait_for()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_a_key_that_only_reads_cannot_buy(served: Served) -> None:
    """Who may only look sees everything, and is told why the form is closed."""
    await served.make_key("reader", "team", "read")
    async with watched(served) as watch:
        page = watch.page
        with watch.refusing(401):
            await page.fill("#key", served.keys["reader"])
        await page.keyboard.press("Enter")
        await opened(page)
        await page.get_by_text("it lacks the scope 'use'").wait_for()
        assert await page.get_by_role("button", name="Ask all sellers").is_disabled()


async def test_a_removed_key_signs_out(served: Served) -> None:
    """When its key is removed the page shows nothing any more and says why."""
    await served.make_key("boss", "default", "admin")
    made = await served.make_key("reader", "team", "read")
    async with watched(served) as watch:
        page = watch.page
        with watch.refusing(401):
            await page.fill("#key", served.keys["reader"])
            await page.keyboard.press("Enter")
            await opened(page)
            await served.house.keys.remove(made.key_id)
            await page.get_by_label("API key").wait_for()
            await page.get_by_role("alert").get_by_text("unknown or has expired").wait_for()
        assert await page.locator("#desk").is_hidden()


async def test_a_batch_is_shown_with_its_progress(served: Served) -> None:
    """A batch that was sent appears with its state, how much of it is done, and its bar."""
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": CHAT} for name in "ab"
    ]
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", "\n".join(map(json.dumps, lines)).encode(), filename="lines.jsonl")
    async with served.session.post(f"{served.url}/v1/files", data=form) as answer:
        file_id = (await answer.json())["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        assert await page.get_by_text("No batch was sent.").is_visible()
        status, batch, _ = await served.call("POST", "/v1/batches", wanted)
        assert status == 200, batch
        shown = page.locator("#batch-list li", has_text=batch["id"])
        await shown.get_by_text("2 of 2, 100%").wait_for()
        assert "completed" in await shown.inner_text()
        assert await shown.get_by_role("img", name="2 done, 0 failed of 2").count() == 1


async def test_what_others_wrote_stays_text(served: Served) -> None:
    """Markup in an order's id or task is shown as it was written, and nothing of it runs."""
    nasty = "<img src=x onerror=alert(1)>"
    await buy(served, order_id=nasty, task=nasty)
    async with watched(served) as watch:
        page = watch.page
        await opened(page)
        await page.locator("#orders button").first.click()
        await page.locator("#order-body .quotes").wait_for()
        assert nasty in await page.inner_text("#order-title")
        assert await page.locator("img").count() == 1, "the brand's, and no other"
