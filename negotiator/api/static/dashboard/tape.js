// The tape: orders as they end, the newest first; each opens its whole history.

import { byId, el, follow, say } from "./dom.js";
import { cost, duration, termsOf, timeOf, words } from "./format.js";

const SHOWN = 80;

const isServed = (order) => order.provider !== null;

/** The panel; `onOpen(order)` when one is pressed. */
export function tape(onOpen) {
  const state = { orders: [], show: "", paused: false, held: false, waiting: [] };
  const pause = byId("tape-pause");
  const place = byId("orders");

  byId("tape-show").addEventListener("change", (event) => {
    state.show = event.target.value;
    draw();
  });
  pause.addEventListener("click", () => {
    state.paused = !state.paused;
    pause.setAttribute("aria-pressed", String(state.paused));
    release();
  });
  // What is pointed at or has the focus must not move away.
  for (const [event, held] of Object.entries({
    pointerenter: true,
    pointerleave: false,
    focusin: true,
    focusout: false,
  })) {
    place.addEventListener(event, () => {
      state.held = held;
      release();
    });
  }

  function release() {
    if (!state.paused && !state.held) add(state.waiting.splice(0));
    label();
  }

  function label() {
    const waiting = state.waiting.length ? ` (${state.waiting.length})` : "";
    say(pause, state.paused ? `Resume${waiting}` : "Pause");
    say(byId("tape-held"), state.held && !state.paused && waiting ? `held while you look${waiting}` : "");
  }

  /** Take in orders, oldest first. */
  function add(orders) {
    if (state.paused || state.held) {
      state.waiting = [...state.waiting, ...orders].slice(-SHOWN * 4);
      label();
      return;
    }
    const known = new Set(state.orders.map(keyOf));
    const fresh = orders.filter((order) => !known.has(keyOf(order))).reverse();
    state.orders = [...fresh, ...state.orders].slice(0, SHOWN * 4);
    draw();
  }

  function draw() {
    const shown = state.orders
      .filter((order) => !state.show || isServed(order) === (state.show === "served"))
      .slice(0, SHOWN);
    follow(place, shown, keyOf, (order) => entry(order, onOpen));
    const empty = byId("orders-empty");
    empty.hidden = shown.length > 0;
    if (state.orders.length) empty.textContent = "No such order among the last ones.";
  }

  return { add };
}

const keyOf = (order) => `${order.account}\n${order.order_id}\n${order.at}`;

function entry(order, onOpen) {
  const served = isServed(order);
  const more = served
    ? [
        order.tier === "standard" ? null : order.tier,
        order.attempts > 1 ? `${order.attempts} attempts` : null,
        `billed ${cost(order.cost_usd)}`,
        duration(order.latency_ms),
      ]
    : [];
  const button = el(
    "button",
    { type: "button", class: "entry", on: { click: () => onOpen(order) } },
    el(
      "span",
      { class: "entry-head" },
      el("time", { datetime: order.at, text: timeOf(order.at) }),
      el("span", { class: "account", text: order.account }),
      el("span", { class: "more", text: more.filter(Boolean).join(" · ") }),
    ),
    served ? winner(order) : refusal(order),
    losers(order),
  );
  return el("li", { class: served ? "served" : "refused" }, button);
}

const winner = (order) =>
  el(
    "span",
    { class: "entry-row winner" },
    el(
      "span",
      {},
      el("strong", { text: order.model }),
      " ",
      el("span", { class: "by", text: order.provider }),
    ),
    el("span", { class: "number", text: cost(order.expected_usd) }),
  );

function refusal(order) {
  return [
    el(
      "span",
      { class: "entry-row" },
      el("strong", {
        class: "bad",
        text: order.reject ? `Refused: ${words(order.reject)}` : words(order.state),
      }),
    ),
    order.counter_offer &&
      el("span", {
        class: "entry-offer",
        text: `Would do: ${termsOf(order.counter_offer.terms)}, ${order.counter_offer.model}`,
      }),
  ];
}

/** The best of those that met the terms, and the cheapest of those that did not. */
function losers(order) {
  const next = order.losers.find((one) => one.loss.startsWith("L1 "));
  const out = order.losers.find((one) => !one.loss.startsWith("L1 "));
  return [next, out]
    .filter(Boolean)
    .map((one) =>
      el(
        "span",
        { class: "entry-row loser" },
        el("span", { text: `${one.model}, ${words(one.loss)}` }),
        el("span", { class: "number", text: cost(one.expected_usd) }),
      ),
    );
}
