"""What a page is held to for people who do not see it, or not well: names, structure, contrast. Runs inside the page."""

from __future__ import annotations

from typing import Final

__all__ = ["CONTRAST", "NAMES"]

NAMES: Final = """() => {
  const faults = [];
  const seen = (node) => node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const say = (node, what) => faults.push(`${what}: ${node.outerHTML.slice(0, 120)}`);
  const named = (node) => (node.getAttribute("aria-label") || "").trim()
    || (node.getAttribute("aria-labelledby") || "").split(/\\s+/).filter(Boolean)
        .map((id) => document.getElementById(id)?.textContent.trim() || "").join(" ").trim();
  if (!document.documentElement.lang) faults.push("html has no lang");
  if (!document.title) faults.push("no title");
  for (const node of document.querySelectorAll("input, select, textarea"))
    if (seen(node) && !named(node) && ![...node.labels].some((label) => label.textContent.trim())) say(node, "no label");
  for (const node of document.querySelectorAll("button, a[href], summary"))
    if (seen(node) && !named(node) && !node.textContent.trim()) say(node, "no name");
  for (const node of document.querySelectorAll("img")) if (node.alt === null || !node.hasAttribute("alt")) say(node, "no alt");
  for (const node of document.querySelectorAll('[role="img"], [role="region"], dialog[open], section.panel'))
    if (seen(node) && !named(node)) say(node, "no name");
  for (const node of document.querySelectorAll("table")) {
    if (!node.caption || !node.caption.textContent.trim()) say(node, "no caption");
    for (const head of node.querySelectorAll("th")) if (!head.scope) say(head, "no scope");
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
  for (const node of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const id of `${node.getAttribute("aria-labelledby") || ""} ${node.getAttribute("aria-describedby") || ""}`.split(/\\s+/))
      if (id && !document.getElementById(id)) say(node, `names ${id}, which is not there`);
  if (document.querySelectorAll("main").length !== 1) faults.push("expected one main");
  if (document.querySelectorAll("h1").length !== 1) faults.push("expected one h1");
  let level = 1;
  for (const node of document.querySelectorAll("main h2, main h3")) {
    if (!seen(node)) continue;
    if (Number(node.tagName[1]) > level + 1) say(node, "a level of headings is passed over");
    level = Number(node.tagName[1]);
  }
  for (const node of document.querySelectorAll("*"))
    if (node.tabIndex > 0) say(node, "takes the focus out of order");
  return faults;
}"""
"""Faults of names and structure, as sentences."""

CONTRAST: Final = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1,
  });
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) {
      layers.push(parse(getComputedStyle(one).backgroundColor));
      if (layers.at(-1).a === 1) break;
    }
    return layers.reduceRight((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 });
  };
  const light = ({ r, g, b }) => [r, g, b].map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const faults = [];
  let looked = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), node = walk.currentNode.parentElement;
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(node.tagName)) continue;
    if (!node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    if (node.closest("button:disabled, .visually-hidden, .skip")) continue;
    const style = getComputedStyle(node), under = ground(node), ink = over(parse(style.color), under);
    const [high, low] = [light(ink), light(under)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05), size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    looked += 1;
    if (ratio < least) faults.push(`${ratio.toFixed(2)} < ${least}: ${text.slice(0, 40)} (${style.color} on ${JSON.stringify(under)})`);
  }
  return looked > 20 ? faults : [`only ${looked} texts were looked at`];
}"""
"""Texts that stand out too little from what is behind them (WCAG 2.1 AA), as sentences."""
