// The dashboard: signs in, listens, and hands what it hears to the panels.

import { Refused, forgetKey, get, keepKey, keptKey, listen } from "./api.js";
import { askForm } from "./ask.js";
import { showBatches } from "./batches.js";
import { orderBook } from "./book.js";
import { showBudgets } from "./budgets.js";
import { frontierChart, latencyChart } from "./charts.js";
import { byId, say } from "./dom.js";
import { figures, showRefusals } from "./figures.js";
import { count, timeOf } from "./format.js";
import { orderSheet } from "./order.js";
import { tape } from "./tape.js";
import { themeButton } from "./theme_button.js";

const POLL_MS = 5_000;
/** Accounts whose batches are asked for. */
const MAX_ASKED = 8;
const ANNOUNCE_MS = 10_000;

const sheet = orderSheet();
const panels = {
  book: orderBook(),
  tape: tape(sheet.open),
  figures: figures(),
  latency: latencyChart(),
  frontier: frontierChart(),
  ask: askForm(sheet.open),
};
const heard = { served: 0, refused: 0 };
let open = null;
let caller = null;
let batches = false;
let accounts = [];

function showSummary(summary) {
  ({ caller, batches } = summary);
  panels.figures.show(summary);
  panels.latency.show(summary.window);
  showRefusals(summary.refusals);
  byId("simulated").hidden = !summary.simulated;
  byId("who").hidden = false;
  say(byId("who"), summary.caller.everywhere ? "all accounts" : summary.caller.account);
  const part =
    summary.workers > 1
      ? `Orders, latency and refusals are of one of ${summary.workers} workers; budgets are of all of them.`
      : "Sums are since this server's start; budgets are since their period began.";
  say(
    byId("scope"),
    `Since ${timeOf(summary.totals.since)}. ${part} Saved is against the dearest quote that met the same terms.`,
  );
}

function onEvent(name, values) {
  if (name === "summary") showSummary(values);
  else if (name === "market") {
    panels.book.show(values);
    panels.frontier.show(values.offers);
  } else if (name === "orders") {
    panels.tape.add(values.orders);
    for (const order of values.orders) heard[order.provider ? "served" : "refused"] += 1;
  }
}

function onState(state) {
  const says = byId("connection");
  says.dataset.state = state;
  say(says, { live: "Live", lost: "Connection lost, trying again", off: "Not connected" }[state]);
}

/** Budgets and batches change slower and are asked for, while somebody looks. */
async function poll(signal) {
  while (!signal.aborted) {
    if (!document.hidden) {
      await asked(byId("budgets-error"), budgets);
      if (batches && caller.scopes.includes("use")) await asked(byId("batches-error"), batchesOfAll);
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

async function batchesOfAll() {
  const some = accounts.slice(0, MAX_ASKED).map(({ account }) => account);
  const pages = await Promise.all(
    some.map((account) => get(`/v1/batches?limit=20&account=${encodeURIComponent(account)}`)),
  );
  const all = pages.flatMap((page, at) => page.data.map((batch) => ({ ...batch, account: some[at] })));
  showBatches(all.sort((a, b) => b.created_at - a.created_at).slice(0, 20));
}

async function budgets() {
  ({ accounts } = await get("/v1/accounts"));
  showBudgets(accounts);
  panels.figures.showHeld(accounts);
  panels.ask.allow(
    caller,
    accounts.map((one) => one.account),
  );
}

/** Ask for something and say in its place what went wrong; that nobody answers is said once, at the top. */
async function asked(error, work) {
  try {
    await work();
    say(error, "");
  } catch (failed) {
    if (!(failed instanceof Refused)) throw failed;
    if (failed.status) say(error, failed.message);
  }
}

/** Let in: read what is there, then listen. Raises Refused when the key does not do. */
async function enter() {
  showSummary(await get("/v1/summary"));
  byId("sign-in").hidden = true;
  for (const id of ["desk", "sections"]) byId(id).hidden = false;
  byId("sign-out").hidden = !keptKey();
  panels.latency.redraw();
  panels.tape.add((await get("/v1/orders?limit=100")).orders.reverse());
  sheet.openNamed();
  open = new AbortController();
  const { signal } = open;
  poll(signal);
  listen("/v1/tape/stream?events=orders,summary,market", signal, onEvent, onState).then((refused) => {
    if (refused) leave(refused.message);
  });
}

function leave(message) {
  open?.abort();
  forgetKey();
  if (message) sessionStorage.setItem("negotiator.said", message);
  location.reload(); // nothing of one key's data may stay for the next
}

async function begin() {
  try {
    await enter();
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    const error = byId("sign-in-error");
    const said = sessionStorage.getItem("negotiator.said");
    sessionStorage.removeItem("negotiator.said");
    say(error, keptKey() || !refused.closed || refused.status === 403 ? refused.message : (said ?? ""));
    if (refused.closed) forgetKey();
    onState("off");
    byId("sign-in").hidden = false;
    byId("key").focus();
  }
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  say(byId("sign-in-error"), "");
  if (!/^[\x21-\x7e]+$/.test(key))
    return say(byId("sign-in-error"), "expected a key as it was shown, without spaces");
  keepKey(key);
  return begin();
});
byId("sign-out").addEventListener("click", () => leave(""));
themeButton(byId("theme"), () => {
  panels.latency.redraw();
  panels.frontier.redraw();
});
setInterval(() => {
  if (!heard.served && !heard.refused) return;
  say(byId("announcer"), `${count(heard.served)} orders served, ${count(heard.refused)} refused`);
  heard.served = heard.refused = 0;
}, ANNOUNCE_MS);
begin();
