// The tape: orders as they end, the newest first; each opens its whole history.

import { byId, el, follow } from "./dom.js";
import { cost, duration, termsOf, timeOf, words } from "./format.js";

const SHOWN = 80;

const isServed = (order) => order.provider !== null;

/** The panel; `onOpen(order)` when one is pressed. */
export function tape(onOpen) {
  const state = { orders: [], show: "", paused: false, waiting: [] };
  const pause = byId("tape-pause");

  byId("tape-show").addEventListener("change", (event) => {
    state.show = event.target.value;
    draw();
  });
  pause.addEventListener("click", () => {
    state.paused = !state.paused;
    pause.setAttribute("aria-pressed", String(state.paused));
    if (!state.paused) add(state.waiting.splice(0));
    label();
  });

  function label() {
    const waiting = state.waiting.length;
    pause.textContent = state.paused ? (waiting ? `Resume (${waiting})` : "Resume") : "Pause";
  }

  /** Take in orders, oldest first. */
  function add(orders) {
    if (state.paused) {
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
    const shown = state.orders.filter((order) => !state.show || isServed(order) === (state.show === "served")).slice(0, SHOWN);
    follow(byId("orders"), shown, keyOf, (order) => entry(order, onOpen));
    const empty = byId("orders-empty");
    empty.hidden = shown.length > 0;
    if (state.orders.length) empty.textContent = "No such order among the last ones.";
  }

  return { add };
}

const keyOf = (order) => `${order.account}\n${order.order_id}\n${order.at}`;

function entry(order, onOpen) {
  const served = isServed(order);
  const button = el("button", { type: "button", class: "entry", on: { click: () => onOpen(order) } },
    el("span", { class: "entry-head" },
      el("time", { datetime: order.at, text: timeOf(order.at) }),
      el("span", { class: "account", text: order.account }),
      el("span", { class: "number", text: served ? cost(order.cost_usd) : "" })),
    served ? winner(order) : refusal(order),
    losers(order));
  return el("li", { class: served ? "served" : "refused" }, button);
}

function winner(order) {
  const more = [order.tier === "standard" ? null : order.tier, duration(order.latency_ms), order.attempts > 1 ? `${order.attempts} attempts` : null];
  return el("span", { class: "entry-what" },
    el("strong", { text: order.model }), " ", el("span", { class: "by", text: order.provider }),
    el("span", { class: "entry-more", text: more.filter(Boolean).join(" · ") }));
}

function refusal(order) {
  return el("span", { class: "entry-what" },
    el("strong", { class: "bad", text: order.reject ? `Refused: ${words(order.reject)}` : words(order.state) }),
    order.counter_offer && el("span", { class: "entry-offer", text: `would do: ${termsOf(order.counter_offer.terms)}, ${order.counter_offer.model}` }));
}

function losers(order) {
  if (!order.losers.length) return null;
  const said = order.losers.slice(0, 3).map((one) => `${one.model} ${cost(one.expected_usd)} ${words(one.loss)}`);
  const others = order.quotes - said.length - (isServed(order) ? 1 : 0);
  if (others > 0) said.push(`${others} more`);
  return el("span", { class: "entry-losers", text: `${isServed(order) ? "over " : ""}${said.join("; ")}` });
}
