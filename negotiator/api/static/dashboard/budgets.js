// Budgets: the tree of accounts in reach, each with what is posted, held and available, all below it included.

import { bar, byId, el, fill, follow, say } from "./dom.js";
import { NONE, sum } from "./format.js";

/** Accounts in the order of the tree, each with its depth below the first account in reach. */
function asTree(accounts) {
  const names = new Set(accounts.map((one) => one.account));
  const children = new Map();
  for (const one of accounts) {
    const parent = names.has(one.parent) ? one.parent : null;
    children.set(parent, [...(children.get(parent) ?? []), one]);
  }
  const rows = [];
  const walk = (parent, depth) => {
    for (const one of children.get(parent) ?? []) {
      rows.push({ ...one, depth });
      walk(one.account, depth + 1);
    }
  };
  walk(null, 0);
  return rows;
}

function shares(one) {
  const posted = Number(one.posted_usd),
    pending = Number(one.pending_usd);
  const whole = one.available_usd === null ? posted + pending : posted + pending + Number(one.available_usd);
  return whole
    ? { posted: posted / whole, pending: pending / whole, limited: one.available_usd !== null }
    : { posted: 0, pending: 0, limited: one.available_usd !== null };
}

export function showBudgets(accounts) {
  follow(byId("accounts"), asTree(accounts), (one) => one.account, makeRow, updateRow);
}

function makeRow(one) {
  const period = { total: "", day: "a day", month: "a month" }[one.period];
  return el(
    "tr",
    { role: "row", vars: { "--depth": one.depth } },
    el(
      "th",
      { role: "rowheader", scope: "row" },
      el("span", { class: "name", text: one.account }),
      el("span", {
        class: "by",
        text: one.budget_usd === null ? "no limit of its own" : `${sum(one.budget_usd)} ${period}`,
      }),
    ),
    el("td", { role: "cell", class: "use", "data-label": "Use" }),
    ...["Posted", "Held", "Available"].map((label) =>
      el("td", { role: "cell", class: "number", "data-label": label }),
    ),
  );
}

function updateRow(row, one) {
  const stamp = `${one.posted_usd} ${one.pending_usd} ${one.available_usd}`;
  if (row.dataset.stamp === stamp) return;
  row.dataset.stamp = stamp;
  const { posted, pending, limited } = shares(one);
  const [, use, ...numbers] = row.children;
  const label = limited
    ? `${Math.round(posted * 100)}% posted, ${Math.round(pending * 100)}% held`
    : "no limit of its own";
  fill(
    use,
    limited
      ? bar(
          label,
          { kind: posted > 0.9 ? "bad" : "posted", share: posted },
          { kind: "pending", share: pending },
        )
      : el("span", { class: "muted", text: one.parent ? `within ${one.parent}` : "unlimited" }),
  );
  say(numbers[0], sum(one.posted_usd));
  say(numbers[1], sum(one.pending_usd));
  say(numbers[2], one.available_usd === null ? NONE : sum(one.available_usd));
}
