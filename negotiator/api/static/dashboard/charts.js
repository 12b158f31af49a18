// The two charts: latency quantiles over the last half hour, and what offers cost against how good they are.

/* global uPlot */
import { byId, el, fill } from "./dom.js";
import { cost, duration, minuteOf, quality } from "./format.js";
import { typicalUsd } from "./book.js";

const HEIGHT = 240;
const LEAST_STEPS = 19;

/** A token's colour in the theme that is on: canvas wants that one, the token has both. */
function colour(name) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const font = (px) => `${px}px ${getComputedStyle(document.body).fontFamily}`;

const axis = (given) => ({
  stroke: colour("--muted"),
  font: font(11),
  grid: { stroke: colour("--line"), width: 1, ...(given.filter && { filter: given.filter }) },
  ticks: { show: false },
  ...given,
});

/** A chart that is made when it has data, follows its place's width, and is made anew when colours change. */
function chart(id, options) {
  const place = byId(id);
  let plot = null,
    data = null;
  const make = () => {
    plot?.destroy();
    plot = null;
    if (data && place.clientWidth)
      plot = new globalThis.uPlot(
        { width: place.clientWidth, height: HEIGHT, legend: { show: false }, ...options() },
        data,
        place,
      );
  };
  new ResizeObserver(() => {
    if (plot && Math.abs(plot.width - place.clientWidth) > 1)
      plot.setSize({ width: place.clientWidth, height: HEIGHT });
    else if (!plot) make();
  }).observe(place);
  return {
    redraw: make,
    show(values, anew = false) {
      data = values;
      if (plot && !anew) plot.setData(data);
      else make();
    },
  };
}

const swatch = (kind, text) => el("span", { class: `swatch ${kind}`, text });

/** Latency quantiles, step by step. */
export function latencyChart() {
  const line = (label, name, width = 1.5) => ({
    label,
    stroke: colour(name),
    width,
    spanGaps: true,
    points: { show: false },
  });
  const drawn = chart("latency", () => ({
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (_, low, high) => [0, Math.max(1000, high * 1.1)] } },
    axes: [
      axis({ incrs: [60, 120, 300, 600], values: (_, ticks) => ticks.map((tick) => minuteOf(tick * 1000)) }),
      axis({ size: 46, values: (_, ticks) => ticks.map((tick) => (tick ? duration(tick) : "0")) }),
    ],
    series: [{}, line("p50", "--line-1", 2), line("p95", "--line-2"), line("p99", "--line-3")],
  }));
  return {
    redraw: drawn.redraw,
    show(window) {
      const busy = window.served.findIndex((orders) => orders > 0);
      const first = Math.min(busy < 0 ? Infinity : Math.max(0, busy - 1), window.served.length - LEAST_STEPS);
      const at = window.served.map((_, index) => (window.from_ms + (index + 1) * window.step_ms) / 1000);
      const { p50, p95, p99 } = window.latency_ms;
      drawn.show([at, p50, p95, p99].map((values) => values.slice(first, -1)));
      const whole = window.whole.latency_ms;
      fill(
        byId("latency-says"),
        swatch("one", `p50 ${duration(whole?.p50)}`),
        swatch("two", `p95 ${duration(whole?.p95)}`),
        swatch("three", `p99 ${duration(whole?.p99)}`),
        el("span", { text: `first token, p95 ${duration(window.whole.ttft_ms?.p95)}` }),
      );
    },
  };
}

/** Offers that no other beats in both price and quality, cheapest first. */
export function frontierOf(points) {
  const best = [];
  for (const point of [...points].sort((a, b) => a.usd - b.usd || b.quality - a.quality)) {
    if (!best.length || point.quality > best.at(-1).quality) best.push(point);
  }
  return best;
}

/** Offers as points: price of a typical request (logarithmic) against quality; the frontier is the line above them. */
export function frontierChart() {
  let points = [],
    best = [];
  const dots = (name) => ({
    stroke: colour(name),
    paths: () => null,
    points: { show: true, size: 7, fill: colour(name), width: 0 },
  });
  const drawn = chart("frontier", () => ({
    cursor: { points: { size: 10 }, y: false },
    scales: {
      x: { time: false, distr: 3, range: (_, low, high) => [low / 3, high * 2] },
      y: { range: (_, low, high) => [Math.max(0, low - 0.03), high + 0.03] },
    },
    axes: [
      axis({
        values: (_, ticks) => ticks.map((tick) => (tick ? `$${Number(tick.toPrecision(1))}` : "")),
        space: 50,
        filter: (_, ticks) => ticks.map((tick) => (/^1/.test(tick.toExponential()) ? tick : null)),
      }),
      axis({ size: 42, values: (_, ticks) => ticks.map((tick) => (tick > 1 ? "" : quality(tick))) }),
    ],
    series: [
      {},
      dots("--strong-line"),
      {
        ...dots("--line-1"),
        paths: globalThis.uPlot.paths.stepped({ align: 1 }),
        width: 1.5,
        spanGaps: true,
      },
    ],
    hooks: { draw: [label], setCursor: [(plot) => name(plot.cursor.idx)] },
  }));

  /** Names beside the points of the frontier, as far as they do not run into one another. */
  function label(plot) {
    const { ctx } = plot,
      ratio = devicePixelRatio;
    ctx.save();
    ctx.font = font(11 * ratio);
    ctx.fillStyle = colour("--ink");
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    const taken = [];
    for (const point of [...best].reverse()) {
      const text = point.model.split("/").at(-1),
        width = ctx.measureText(text).width;
      const x = plot.valToPos(point.usd, "x", true),
        y = plot.valToPos(point.quality, "y", true);
      const most = plot.bbox.left + plot.bbox.width - width;
      const box = {
        left: Math.max(plot.bbox.left + 2 * ratio, Math.min(most, x - width / 2)),
        top: y - 9 * ratio,
        width,
      };
      if (
        taken.some(
          (one) =>
            Math.abs(one.top - box.top) < 13 * ratio &&
            one.left < box.left + width &&
            box.left < one.left + one.width,
        )
      )
        continue;
      taken.push(box);
      ctx.fillText(text, box.left, box.top);
    }
    ctx.restore();
  }

  function name(index) {
    const point = index === null || index === undefined ? null : points[index];
    if (point)
      fill(
        byId("frontier-says"),
        el(
          "span",
          {},
          el("strong", { text: point.model }),
          ` ${point.provider}, ${point.tier}: ${cost(point.usd)}, quality ${quality(point.quality)}`,
        ),
      );
    else
      fill(
        byId("frontier-says"),
        swatch("one", "frontier: none is cheaper and better"),
        swatch("grey", "other offers"),
      );
  }

  let shape = "";
  return {
    redraw: drawn.redraw,
    show(offers) {
      points = offers
        .map((offer) => ({ ...offer, usd: typicalUsd(offer), quality: offer.quality.mean }))
        .filter((point) => point.usd > 0)
        .sort((a, b) => a.usd - b.usd);
      best = frontierOf(points);
      const now = points.map((point) => `${point.usd} ${point.quality}`).join();
      if (now === shape) return;
      shape = now;
      const first = new Set(best);
      drawn.show([
        points.map((p) => p.usd),
        points.map((p) => (first.has(p) ? null : p.quality)),
        points.map((p) => (first.has(p) ? p.quality : null)),
      ]);
      name(null);
      fill(byId("frontier-table"), table(best));
    },
  };
}

const table = (best) =>
  el(
    "table",
    {},
    el("caption", { class: "visually-hidden", text: "Offers that none beats in both price and quality" }),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        ["Offer", "Tier", "Typical", "Quality"].map((text) => el("th", { scope: "col", text })),
      ),
    ),
    el(
      "tbody",
      {},
      best.map((point) =>
        el(
          "tr",
          {},
          el("th", { scope: "row", text: `${point.provider}/${point.model}` }),
          el("td", { text: point.tier }),
          el("td", { class: "number", text: cost(point.usd) }),
          el("td", { class: "number", text: quality(point.quality) }),
        ),
      ),
    ),
  );
