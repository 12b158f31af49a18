// The figures at the top: what was spent, saved, served, how fast, and what is held. And what was refused.

import { bar, byId, el, fill, follow, say, svg } from "./dom.js";
import { NONE, count, duration, percent, sum, termsOf, timeOf, words } from "./format.js";

const WIDTH = 120;
const HEIGHT = 28;
const LEAST_STEPS = 13;
const POINTS = 60;

/** Whole steps from the first in which anything happened, but never less than a few minutes. */
function lately(values, busy) {
  const first = Math.min(busy < 0 ? values.length : Math.max(0, busy - 1), values.length - LEAST_STEPS);
  const steps = values.slice(first, -1).map((value) => Number(value ?? 0));
  const size = Math.ceil(steps.length / POINTS);
  return size < 2
    ? steps
    : steps
        .filter((_, at) => at % size === 0)
        .map((_, at) => steps.slice(at * size, (at + 1) * size).reduce((a, b) => a + b, 0));
}

function sparkline(known) {
  const most = Math.max(...known, 0);
  const step = WIDTH / Math.max(1, known.length - 1);
  const points = known.map(
    (value, index) =>
      `${(index * step).toFixed(1)},${(HEIGHT - 2 - (most ? value / most : 0) * (HEIGHT - 4)).toFixed(1)}`,
  );
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none" },
    svg("polygon", { points: `0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}` }),
    svg("polyline", { points: points.join(" ") }),
  );
}

/** The tiles. */
export function figures() {
  const tiles = {};
  for (const [key, label] of Object.entries({
    spend: "Spent",
    saved: "Saved",
    served: "Served",
    latency: "Latency, p95",
    held: "Held now",
  })) {
    const tile = {
      value: el("dd", { class: "figure" }),
      more: el("dd", { class: "figure-more" }),
      spark: el("dd", { class: "figure-spark" }),
    };
    byId("figures").append(
      el("dl", { class: `tile ${key}` }, el("dt", { text: label }), tile.value, tile.more, tile.spark),
    );
    tiles[key] = tile;
  }
  const set = (key, value, more) => {
    say(tiles[key].value, value);
    say(tiles[key].more, more);
  };
  set("held", NONE, "");

  function show({ totals, window }) {
    const spend = Number(totals.spend_usd),
      saved = Number(totals.saved_usd);
    const refused = Object.entries(totals.by_cause)
      .filter(([cause]) => cause !== "SETTLED" && cause !== "PARTIAL")
      .reduce((all, [, one]) => all + one.orders, 0);
    const served = totals.orders - refused;
    set("spend", sum(totals.spend_usd), `since ${timeOf(totals.since)}`);
    set(
      "saved",
      sum(totals.saved_usd),
      spend + saved
        ? `${percent(saved / (spend + saved))} below the dearest quotes that met the terms`
        : "below the dearest quotes that met the terms",
    );
    set(
      "served",
      count(served),
      totals.orders
        ? `${count(refused)} refused or failed, ${percent(refused / totals.orders)}`
        : "no order yet",
    );
    const speed = window.whole.latency_ms;
    set(
      "latency",
      duration(speed?.p95),
      speed ? `median ${duration(speed.p50)}, p99 ${duration(speed.p99)}` : "no answer in half an hour",
    );
    const busy = window.served.findIndex((orders, at) => orders + window.refused[at] > 0);
    const steps = {
      spend: window.spend_usd,
      saved: window.saved_usd,
      served: window.served,
      latency: window.latency_ms.p95,
    };
    for (const [key, values] of Object.entries(steps))
      fill(tiles[key].spark, sparkline(lately(values, busy)));
  }

  /** What is held on the accounts at the top of those in reach. */
  function showHeld(accounts) {
    const names = new Set(accounts.map((one) => one.account));
    const roots = accounts.filter((one) => !names.has(one.parent));
    const held = roots.reduce((all, one) => all + Number(one.pending_usd), 0);
    const limited = roots.filter((one) => one.available_usd !== null);
    const left = limited.reduce((all, one) => all + Number(one.available_usd), 0);
    set(
      "held",
      sum(held),
      limited.length
        ? `${sum(left)} available in ${limited.length} limited ${limited.length === 1 ? "account" : "accounts"}`
        : "no account has a limit",
    );
  }

  return { show, showHeld };
}

/** What was refused: how often each reject was said, and the counter-offer it most often came with. */
export function showRefusals(refusals) {
  const all = refusals.reduce((sums, one) => sums + one.orders, 0);
  const most = Math.max(1, ...refusals.map((one) => one.orders));
  say(byId("refusals-count"), all ? count(all) : "");
  byId("refusals-empty").hidden = all > 0;
  follow(
    byId("refusals"),
    refusals,
    (one) => one.reject,
    () => el("li"),
    (node, one) => {
      const stamp = `${one.orders} ${most}`;
      if (node.dataset.stamp === stamp) return;
      node.dataset.stamp = stamp;
      const offer = one.counter_offer;
      fill(
        node,
        el(
          "span",
          { class: "refusal-head" },
          el("strong", { text: words(one.reject) }),
          el("code", { text: one.code }),
          el("span", { class: "number", text: count(one.orders) }),
        ),
        bar(`${one.orders} of ${all} refusals`, { kind: "bad", share: one.orders / most }),
        el("span", {
          class: "muted",
          text: offer
            ? `Most often would do: ${Object.keys(offer.terms).map(words).join(" and ")} at ${offer.model}, ${offer.orders === 1 ? "once" : `${count(offer.orders)} times`}, last with ${termsOf(offer.terms)}`
            : "Nothing near would have been served.",
        }),
      );
    },
  );
}
