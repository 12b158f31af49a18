"""The report's page in a real browser: no number is cut off, on a wide screen and on a phone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from negotiator.report_page import report_page
from negotiator.report_summary import report_of

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

CUT = """() => {
  const cut = [];
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.getBBox(), whole = text.ownerSVGElement.viewBox.baseVal;
    if (box.x < -1 || box.x + box.width > whole.width + 1) cut.push(text.textContent);
    for (const bar of text.ownerSVGElement.querySelectorAll("rect")) {
      const at = bar.getBBox(), level = box.y + box.height / 2;
      if (at.y < level && level < at.y + at.height && at.x < box.x + box.width && box.x < at.x + at.width)
        cut.push(`${text.textContent} under a bar`);
    }
  }
  for (const tile of document.querySelectorAll(".tiles div"))
    if (tile.scrollWidth > tile.clientWidth) cut.push(tile.textContent);
  if (document.documentElement.scrollWidth > innerWidth) cut.push("the page is wider than the screen");
  return cut;
}"""
"""What is cut off, under a bar, or wider than its place."""


NUSD = 123_456_789_012_345
"""More than a hundred thousand dollars, to the nano-dollar."""


def large(sign: int) -> str:
    """A page whose figures are as long as they get. sign: whether the regret is a loss or a gain."""
    quotes = [
        [quote_id, "acme", model, "standard", nusd, 10 * nusd, 500, quality, loss, [], 100, 50, 300]
        for quote_id, model, nusd, quality, loss in (
            ("w", "one", NUSD, 0.9, 0),
            ("l", "two", NUSD // 21, 0.5, 1),
        )
    ]
    limit = {"name": "acme:requests", "provider": "acme", "kind": "requests", "amount": 9, "per_ms": 60_000}
    told = report_of(
        [
            {"type": "market", "at_ms": 0, "limits": [{**limit, "models": None}]},
            {
                "type": "order", "order_id": "x", "account": "a", "state": "SETTLED", "received_ms": 0, "task": None,
                "min_quality": 0.0, "rounds": [["r", quotes, []]], "award": "w", "billed_nusd": NUSD + sign,
                "attempts": [{"quote_id": "w", "outcome": "ok", "billed_nusd": NUSD + sign}], "house_nusd": 0,
                "reject": None,
            },
        ],
        time_limit_s=4,
    )  # fmt: skip
    told["served"] = told["refused"] = 12_345_678
    told["regret"]["regret_usd"] = "-0.000281725" if sign < 0 else "123456.789012345"
    for way in told["ways"].values():
        way["served"] = 12_345_678
    return report_page(told)


async def cut_off(html: str, folder: Path, width: int) -> list[str]:
    """What a browser of this width cuts off."""
    page_file = folder / "report.html"
    page_file.write_text(html, encoding="utf-8")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": width, "height": 900})
        await page.goto(page_file.as_uri())
        found: list[str] = await page.evaluate(CUT)
        await browser.close()
        return found


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("sign", [-1, 1])
async def test_no_figure_is_cut_off(tmp_path: Path, width: int, sign: int) -> None:
    """Long figures stay beside their bars and inside their boxes, on a wide screen and on a phone."""
    assert await cut_off(large(sign), tmp_path, width) == []


async def test_a_figure_that_is_cut_off_is_found(tmp_path: Path) -> None:
    """The look is no rubber stamp: a name that does not fit and a figure wider than its box are found."""
    wide = large(1).replace(">negotiator<", f">{'negotiator ' * 9}<").replace("$123500", "1" * 99)
    found = await cut_off(wide, tmp_path, 400)
    assert any("negotiator negotiator" in one for one in found)
    assert any("111111" in one for one in found)
