// The order book: every offer with its price now, what is taken off, how much room is left, and how it is doing.

import { bar, byId, el, fill, follow, say } from "./dom.js";
import { NONE, cost, duration, percent, quality, rate, words } from "./format.js";

export const TYPICAL = { input: 1000, output: 300 };

const UNITS = {
  requests: 1,
  tokens: TYPICAL.input + TYPICAL.output,
  input_tokens: TYPICAL.input,
  uncached_input_tokens: TYPICAL.input,
  output_tokens: TYPICAL.output,
};

/** What an offer charges for a request of the typical size. */
export const typicalUsd = (offer) =>
  (Number(offer.input_usd_per_million) * TYPICAL.input +
    Number(offer.output_usd_per_million) * TYPICAL.output) /
  1e6;

const keyOf = (offer) => `${offer.provider}/${offer.model}/${offer.tier}`;

const COLUMNS = [
  { key: "offer", label: "Offer", of: (o) => `${o.model} ${o.provider}`, heads: true },
  { key: "tier", label: "Tier", of: (o) => o.tier },
  {
    key: "input",
    label: "In $/M",
    of: (o) => Number(o.input_usd_per_million),
    show: (o) => rate(o.input_usd_per_million),
  },
  {
    key: "output",
    label: "Out $/M",
    of: (o) => Number(o.output_usd_per_million),
    show: (o) => rate(o.output_usd_per_million),
  },
  {
    key: "off",
    label: "Off",
    of: (o) => o.discount,
    show: (o) => (o.discount ? percent(o.discount) : NONE),
    kind: (o) => (o.discount ? "good" : ""),
  },
  { key: "typical", label: "Typical", of: typicalUsd, show: (o) => cost(typicalUsd(o)) },
  {
    key: "shadow",
    label: "Shadow",
    of: (o) => o.shadow,
    show: (o) => (o.shadow ? cost(o.shadow) : NONE),
    kind: (o) => (o.shadow ? "warn" : ""),
  },
  { key: "left", label: "Left", of: (o) => o.left.share },
  { key: "quality", label: "Quality", of: (o) => o.quality.mean, show: (o) => quality(o.quality.mean) },
  {
    key: "latency",
    label: "p95",
    of: (o) => o.latency_ms?.p95 ?? Infinity,
    show: (o) => duration(o.latency_ms?.p95),
  },
  {
    key: "cache",
    label: "Cache",
    of: (o) => o.cache_hit_rate ?? -1,
    show: (o) => (o.cache_hit_rate === null ? NONE : percent(o.cache_hit_rate)),
  },
  { key: "health", label: "Health", of: (o) => o.health },
];
const NUMBERS = new Set(["input", "output", "off", "typical", "shadow", "quality", "latency", "cache"]);

/** How much of a limit a typical request uses; of concurrency it is the milliseconds it takes. */
const unitsOf = (kind, offer) => (kind === "concurrency" ? (offer.latency_ms?.p50 ?? 0) : (UNITS[kind] ?? 0));

/** What an offer's limits leave it: the tightest one's share, and what scarcity adds to a typical request. */
function withLimits(offer, limits) {
  const own = limits.filter(
    (row) => row.provider === offer.provider && (!row.models || row.models.includes(offer.model)),
  );
  let left = { share: 1, name: "no limit" };
  let shadow = 0;
  for (const row of own) {
    const share = row.cap ? row.left / row.cap : 0;
    if (share < left.share || left.name === "no limit") left = { share, name: words(row.kind) };
    shadow += (Number(row.shadow_usd_per_million) * unitsOf(row.kind, offer)) / 1e6;
  }
  return { ...offer, left, shadow };
}

/** The panel; `onChoose(offer)` is called when a seller's name is pressed. */
export function orderBook() {
  const state = { offers: [], sort: "typical", down: false, words: "", tier: "" };
  const head = byId("offers-head");
  const sorts = byId("book-sort");

  for (const column of COLUMNS) {
    const button = el("button", {
      type: "button",
      text: column.label,
      on: { click: () => sortBy(column.key) },
    });
    head.append(
      el(
        "th",
        {
          role: "columnheader",
          scope: "col",
          class: NUMBERS.has(column.key) ? "number" : null,
          "data-key": column.key,
        },
        button,
      ),
    );
    sorts.append(el("option", { value: column.key, text: `Sort: ${column.label}` }));
  }
  sorts.value = state.sort;
  sorts.addEventListener("change", () => sortBy(sorts.value, false));
  byId("book-words").addEventListener("input", (event) => draw({ words: event.target.value.toLowerCase() }));
  byId("book-tier").addEventListener("change", (event) => draw({ tier: event.target.value }));
  byId("book-filters").addEventListener("submit", (event) => event.preventDefault());

  function sortBy(key, down = state.sort === key ? !state.down : false) {
    draw({ sort: key, down });
  }

  function draw(changes = {}) {
    Object.assign(state, changes);
    const column = COLUMNS.find((one) => one.key === state.sort);
    const shown = state.offers.filter(
      (offer) =>
        (!state.tier || offer.tier === state.tier) &&
        state.words.split(/\s+/).every((word) => keyOf(offer).toLowerCase().includes(word)),
    );
    shown.sort(
      (a, b) => compare(column.of(a), column.of(b)) * (state.down ? -1 : 1) || compare(keyOf(a), keyOf(b)),
    );
    for (const cell of head.children) {
      const sorted = cell.dataset.key === state.sort;
      cell.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    }
    sorts.value = state.sort;
    follow(byId("offers-body"), shown, keyOf, makeRow, updateRow);
    say(byId("book-count"), `${shown.length} of ${state.offers.length} offers`);
    byId("offers-empty").hidden = shown.length > 0;
    say(byId("offers-empty"), state.offers.length ? "No offer fits the filter." : "Nobody sells just now.");
  }

  function show(market) {
    state.offers = market.offers.map((offer) => withLimits(offer, market.limits));
    showTiers([...new Set(state.offers.map((offer) => offer.tier))]);
    draw();
  }

  return { show };
}

function showTiers(tiers) {
  const choice = byId("book-tier");
  if (choice.options.length === tiers.length + 1) return;
  const before = choice.value;
  fill(
    choice,
    el("option", { value: "", text: "All tiers" }),
    tiers.map((tier) => el("option", { value: tier, text: tier })),
  );
  choice.value = tiers.includes(before) ? before : "";
}

const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b || 0);

function makeRow(offer) {
  const row = el("tr", { role: "row" });
  for (const column of COLUMNS) {
    const cell = column.heads
      ? el(
          "th",
          { role: "rowheader", scope: "row" },
          el("span", { class: "name", text: offer.model }),
          el("span", { class: "by", text: offer.provider }),
        )
      : el("td", {
          role: "cell",
          "data-label": column.label,
          "data-key": column.key,
          class: NUMBERS.has(column.key) ? "number" : `cell-${column.key}`,
        });
    if (column.key === "tier") cell.textContent = offer.tier;
    row.append(cell);
  }
  row.title = offer.price_source;
  return row;
}

function updateRow(row, offer) {
  COLUMNS.forEach((column, index) => {
    const cell = row.children[index];
    if (column.show) {
      const text = column.show(offer);
      if (cell.textContent && cell.textContent !== text) flash(cell);
      say(cell, text);
      cell.dataset.kind = column.kind ? column.kind(offer) : "";
    }
  });
  const left = row.querySelector('[data-key="left"]');
  const share = percent(offer.left.share);
  if (left.dataset.share !== share) {
    left.dataset.share = share;
    const kind = offer.left.share < 0.1 ? "bad" : offer.left.share < 0.35 ? "warn" : "good";
    fill(
      left,
      bar(`${share} of ${offer.left.name} left`, { kind, share: offer.left.share }),
      el("span", { class: "share", text: share, "aria-hidden": "true" }),
    );
    left.title = `${share} of ${offer.left.name} left`;
  }
  const health = row.querySelector('[data-key="health"]');
  if (health.dataset.state !== offer.health) {
    health.dataset.state = offer.health;
    fill(health, el("span", { class: `health ${offer.health}`, text: words(offer.health) }));
  }
}

function flash(cell) {
  cell.classList.remove("changed");
  requestAnimationFrame(() => cell.classList.add("changed"));
}
