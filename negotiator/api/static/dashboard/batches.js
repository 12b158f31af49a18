// Batches with their progress, where this house has them.

import { bar, byId, el, fill, follow } from "./dom.js";
import { count, duration, percent, sum, timeOf, words } from "./format.js";

/** Show what `GET /v1/batches` answered; the panel is hidden until then. */
export function showBatches(batches) {
  byId("batches").hidden = false;
  byId("batches-empty").hidden = batches.length > 0;
  follow(
    byId("batch-list"),
    batches,
    (batch) => batch.id,
    () => el("li"),
    update,
  );
}

function update(node, batch) {
  const { total = 0, completed = 0, failed = 0 } = batch.request_counts ?? {};
  const { spent_usd: spent, eta_s: left } = batch.negotiator ?? {};
  const stamp = `${batch.status} ${total} ${completed} ${failed} ${spent} ${left}`;
  if (node.dataset.stamp === stamp) return;
  node.dataset.stamp = stamp;
  const more = [
    batch.account,
    `since ${timeOf(batch.created_at * 1000)}`,
    spent && `${sum(spent)} spent`,
    left && `${duration(left * 1000)} left`,
  ];
  const done = total ? (completed + failed) / total : 0;
  fill(
    node,
    el(
      "span",
      { class: "batch-head" },
      el("strong", { text: batch.id }),
      el("span", { class: "by", text: words(batch.status) }),
      el("span", { class: "muted", text: more.filter(Boolean).join(" · ") }),
      el("span", {
        class: "number",
        text: `${count(completed + failed)} of ${count(total)}, ${percent(done)}`,
      }),
    ),
    bar(
      `${completed} done, ${failed} failed of ${total}`,
      { kind: "good", share: total ? completed / total : 0 },
      { kind: "bad", share: total ? failed / total : 0 },
    ),
  );
}
