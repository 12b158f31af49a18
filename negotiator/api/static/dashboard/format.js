// Numbers as people read them. Money comes as exact decimal strings and is only shortened here, for the eye.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const NONE = "–";

/** A count: 12,345. */
export const count = (value) => whole.format(value);

/** What one order costs: six places below a cent, so that a column of them lines up. */
export function cost(usd) {
  const value = Number(usd);
  if (value > 0 && value < 0.0000005) return "<$0.000001";
  return `$${value >= 100 ? cents.format(value) : value.toFixed(6)}`;
}

/** A sum of money: cents from a dollar on, four places below. */
export function sum(usd) {
  const value = Number(usd);
  if (value === 0) return "$0.00";
  return `$${Math.abs(value) >= 1 ? cents.format(value) : value.toFixed(4)}`;
}

/** A price per million tokens. */
export function rate(usd) {
  const value = Number(usd);
  return value !== 0 && value < 0.1 ? value.toFixed(3) : value.toFixed(2);
}

/** A share from 0 to 1 as a percentage. */
export const percent = (share, places = 0) => `${(share * 100).toFixed(places)}%`;

/** A duration: 840 ms, 2.4 s, 75 s. */
export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

/** The time of day of an instant. */
export const timeOf = (instant) => clock.format(new Date(instant));

/** The same without seconds. */
export const minuteOf = (instant) => minute.format(new Date(instant));

/** `BUDGET_TOO_LOW`, `L3 BELOW_QUALITY`, `uncached_input_tokens` as words: "budget too low". */
export const words = (name) =>
  name
    .replace(/^[DL]\d+ /, "")
    .replace(/_(usd|ms)$/, "")
    .replaceAll("_", " ")
    .toLowerCase();

/** A quality: 0.87. */
export const quality = (value) => Number(value).toFixed(2);

const TERMS = {
  budget_usd: (value) => `budget $${value}`,
  min_quality: (value) => `quality ${value}`,
  deadline_ms: (value) => `deadline ${duration(value)}`,
  ttft_ms: (value) => `first token within ${duration(value)}`,
};

/** A list of names, or that there is none. */
const named = (value) => [value].flat().join(", ") || "nothing";

/** Terms of a counter-offer as a phrase: "budget $0.003, deadline 4.0 s". */
export const termsOf = (terms) =>
  Object.entries(terms)
    .map(([name, value]) => (TERMS[name] ? TERMS[name](value) : `${words(name)} ${named(value)}`))
    .join(", ");
