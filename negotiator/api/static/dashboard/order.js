// One order, opened: what was asked, both rounds with every quote and why it lost, the decision, attempts, settlement.

import { get } from "./api.js";
import { byId, el, fill, pair } from "./dom.js";
import { NONE, cost, duration, percent, quality, termsOf, timeOf, words } from "./format.js";

/** The sheet; `open(order)` shows an order by `order_id` and `account`. */
export function orderSheet() {
  const sheet = byId("order"),
    body = byId("order-body");
  let asked = 0;

  byId("order-close").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet) sheet.close();
  });
  sheet.addEventListener("close", () => {
    asked += 1;
    if (location.hash.startsWith("#order=")) history.replaceState(null, "", location.pathname);
  });

  async function open({ order_id: id, account }) {
    const mine = (asked += 1);
    byId("order-title").textContent = `Order ${id}`;
    fill(body, el("p", { class: "muted", text: "Reading its history …" }));
    if (!sheet.open) sheet.showModal();
    body.scrollTop = 0;
    const query = account ? `?account=${encodeURIComponent(account)}` : "";
    history.replaceState(
      null,
      "",
      `#order=${encodeURIComponent(id)}${account ? `&account=${encodeURIComponent(account)}` : ""}`,
    );
    try {
      const found = await get(`/v1/orders/${encodeURIComponent(id)}${query}`);
      if (mine === asked) fill(body, whole(found));
    } catch (error) {
      if (mine === asked) fill(body, el("p", { class: "error", role: "alert", text: error.message }));
    }
  }

  /** Open the order that the address names, if it names one. */
  function openNamed() {
    if (!location.hash.startsWith("#order=")) return;
    const named = new URLSearchParams(location.hash.slice(1));
    open({ order_id: named.get("order"), account: named.get("account") });
  }

  return { open, openNamed };
}

function whole(order) {
  return [
    el(
      "dl",
      { class: "facts" },
      pair("State", el("span", { class: order.reject ? "bad" : "good", text: words(order.state) })),
      pair("Account", order.account),
      pair("Received", timeOf(order.received_at)),
      pair("Policy", words(order.policy ?? NONE)),
      order.task && pair("Task", order.task),
    ),
    decision(order),
    order.reject && refused(order.reject),
    ...order.rounds.map((round, index) => roundOf(order, round, index)),
    attempts(order),
    settlement(order.settlement),
  ].filter(Boolean);
}

const part = (title, ...children) => el("section", { class: "part" }, el("h3", { text: title }), ...children);

/** What the house chose, in a sentence. */
function decision(order) {
  const quotes = order.rounds.at(-1)?.quotes ?? [];
  const won = quotes.find((quote) => quote.won);
  if (!won) return null;
  const met = quotes.filter((quote) => quote.won || quote.loss?.startsWith("L1 ")).length;
  const next = quotes.find((quote) => quote.quote_id === order.runners_up[0]);
  const than = next ? `; next in line was ${next.model} at ${cost(next.expected_usd)}` : "";
  return part(
    "Decision",
    el(
      "p",
      {},
      el("strong", { text: `${won.provider}/${won.model}` }),
      ` at ${cost(won.expected_usd)} expected and ${cost(won.ceiling_usd)} at most, of ${met} of ${quotes.length} quotes that met the terms${than}.`,
    ),
    won.discounts.length > 0 &&
      el(
        "ul",
        { class: "plain" },
        won.discounts.map((one) =>
          el("li", {
            class: "good",
            text: `${words(one.kind)}: saves ${cost(one.saves_usd)}${one.basis ? ` (${one.basis})` : ""}`,
          }),
        ),
      ),
  );
}

function refused(reject) {
  return part(
    "Refused",
    el(
      "p",
      {},
      el("strong", { class: "bad", text: `${reject.code} ${words(reject.name)}` }),
      `: ${reject.message}`,
    ),
    reject.counter_offers.length > 0 &&
      el(
        "ul",
        { class: "plain" },
        reject.counter_offers.map((offer) =>
          el("li", {
            text: `would do: ${termsOf(offer.terms)}, ${offer.provider}/${offer.model} at ${cost(offer.expected_usd)} expected`,
          }),
        ),
      ),
  );
}

/** Why a quote lost: what it missed, what was full, or what its room was worth to others. */
function reason(quote) {
  const scarce = Number(quote.shadow_usd) > 0 ? `room worth ${cost(quote.shadow_usd)}` : null;
  return [words(quote.loss ?? NONE), quote.limit, scarce].filter(Boolean).join(", ");
}

/** What a second round asked for, and what moved. */
function bargain({ targets = [], changed = [] }) {
  if (!targets.length && !changed.length) return null;
  const wished = targets.map((one) => {
    const wishes = [
      one.ceiling_usd && `at most ${cost(one.ceiling_usd)}`,
      one.latency_ms_p95 && `within ${duration(one.latency_ms_p95)}`,
    ];
    return `${one.provider} was asked for ${wishes.filter(Boolean).join(" and ")}`;
  });
  const moved = changed.map(({ provider, model, tier, ...terms }) => {
    const each = Object.entries(terms).map(
      ([name, [before, now]]) => `${MOVES[name](before)} to ${MOVES[name](now)}`,
    );
    return `${provider}/${model}, ${tier}: ${each.join(", ")}`;
  });
  const lines = [...wished, ...(moved.length ? moved : ["nobody moved"])];
  return el(
    "ul",
    { class: "plain muted" },
    lines.map((text) => el("li", { text })),
  );
}

const MOVES = {
  expected_usd: (usd) => (usd === null ? "unquoted" : cost(usd)),
  ceiling_usd: (usd) => (usd === null ? "unquoted" : `at most ${cost(usd)}`),
  latency_ms_p95: (ms) => (ms === null ? "unquoted" : duration(ms)),
};

function roundOf(order, round, index) {
  const title = order.rounds.length > 1 ? `Round ${index + 1}` : "Quotes";
  const rows = round.quotes.map((quote) =>
    el(
      "tr",
      { class: quote.won ? "won" : null },
      el(
        "th",
        { scope: "row" },
        el("span", { class: "name", text: quote.model }),
        el("span", { class: "by", text: `${quote.provider}, ${quote.tier}` }),
      ),
      el("td", { class: "number", text: cost(quote.expected_usd) }),
      el("td", { class: "number", text: cost(quote.ceiling_usd) }),
      el("td", { class: "number", text: quality(quote.quality) }),
      el("td", { class: "number", text: duration(quote.latency_ms_p95) }),
      el("td", {}, quote.won ? el("strong", { class: "good", text: "won" }) : reason(quote)),
    ),
  );
  const heads = [
    ["Seller", ""],
    ["Expected", "number"],
    ["At most", "number"],
    ["Quality", "number"],
    ["p95", "number"],
    ["Outcome", ""],
  ];
  return part(
    title,
    bargain(round),
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      el(
        "table",
        { class: "quotes" },
        el("caption", { class: "visually-hidden", text: `${title}: what each seller offered` }),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            heads.map(([text, kind]) => el("th", { scope: "col", class: kind, text })),
          ),
        ),
        el("tbody", {}, rows),
      ),
    ),
    round.declines.length > 0 &&
      el(
        "details",
        {},
        el("summary", { text: `${round.declines.length} declined` }),
        el(
          "ul",
          { class: "plain" },
          round.declines.map((one) =>
            el("li", {
              text: `${one.provider}/${one.model}: ${words(one.code)}${one.detail ? ` (${one.detail})` : ""}`,
            }),
          ),
        ),
      ),
  );
}

function attempts(order) {
  if (!order.attempts.length) return null;
  return part(
    "Attempts",
    el(
      "ol",
      { class: "plain attempts" },
      order.attempts.map((one) =>
        el(
          "li",
          {},
          el("strong", { class: one.outcome === "ok" ? "good" : "bad", text: words(one.outcome) }),
          ` ${one.provider}/${one.model}, ${one.tier}: ${cost(one.billed_usd)} billed in ${duration(one.latency_ms)}${one.detail ? ` (${one.detail})` : ""}`,
        ),
      ),
    ),
  );
}

function settlement(values) {
  if (!values) return null;
  const hold = Number(values.hold_usd);
  const used = hold ? ` (${percent(Number(values.posted_usd) / hold)} of the hold)` : "";
  return part(
    "Settlement",
    el(
      "dl",
      { class: "facts" },
      pair("Held", cost(values.hold_usd)),
      pair("Posted", `${cost(values.posted_usd)}${used}`),
      pair("Released", cost(values.released_usd)),
      Number(values.house_usd) > 0 && pair("Borne by the house", cost(values.house_usd)),
    ),
  );
}
