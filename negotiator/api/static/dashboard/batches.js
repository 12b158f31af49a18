// Batches with their progress, where this house has them.

import { bar, byId, el, fill, follow } from "./dom.js";
import { count, percent, timeOf, words } from "./format.js";

/** Show what `GET /v1/batches` answered; the panel is hidden while there is no such route. */
export function showBatches(batches) {
  byId("batches").hidden = batches === null;
  if (batches === null) return;
  byId("batches-empty").hidden = batches.length > 0;
  follow(byId("batch-list"), batches, (batch) => batch.id, () => el("li"), update);
}

function update(node, batch) {
  const { total = 0, completed = 0, failed = 0 } = batch.request_counts ?? {};
  const stamp = `${batch.status} ${total} ${completed} ${failed}`;
  if (node.dataset.stamp === stamp) return;
  node.dataset.stamp = stamp;
  const done = total ? (completed + failed) / total : 0;
  fill(node,
    el("span", { class: "batch-head" }, el("strong", { text: batch.id }), el("span", { class: "by", text: words(batch.status) }),
      el("span", { class: "muted", text: batch.created_at ? `since ${timeOf(batch.created_at * 1000)}` : "" }),
      el("span", { class: "number", text: `${count(completed + failed)} of ${count(total)}, ${percent(done)}` })),
    bar(`${completed} done, ${failed} failed of ${total}`, { kind: "good", share: total ? completed / total : 0 }, { kind: "bad", share: total ? failed / total : 0 }));
}
