// Ask all sellers for a quote, then take one: as quoted, or on the terms of a counter-offer.

import { post } from "./api.js";
import { byId, el, fill, say } from "./dom.js";
import { cost, duration, quality, termsOf, timeOf, words } from "./format.js";

const SHOWN = 8;
const FEW = 4;

/** The form; `onOpen(order)` opens the history of an order that was bought. */
export function askForm(onOpen) {
  const form = byId("ask-form"),
    answer = byId("ask-answer");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = read(form);
    await waiting(form.querySelector("button"), byId("ask-error"), async () => {
      const book = await post("/v1/quotes", asked);
      fill(
        answer,
        book.reject ? refusal(book.reject, asked) : quotes(book, asked),
        book.reject && quotes(book, asked),
      );
    });
  });

  function quotes(book, asked) {
    if (!book.quotes.length) return null;
    const shown = book.quotes.slice(0, book.best ? SHOWN : FEW);
    return el(
      "div",
      {},
      el("h3", { text: book.best ? "Quotes" : "Nearest quotes" }),
      el(
        "ol",
        { class: "plain takes" },
        shown.map((quote) =>
          el(
            "li",
            {},
            el(
              "span",
              { class: "take-what" },
              el("strong", { text: quote.model }),
              " ",
              el("span", { class: "by", text: `${quote.provider}, ${quote.tier}` }),
              el("span", {
                class: "muted",
                text: quote.eligible
                  ? facts(quote)
                  : quote.misses
                      .map((miss) => `${words(miss.term)}: asked ${miss.asked}, offers ${miss.offered}`)
                      .join("; "),
              }),
            ),
            el("span", { class: "number", text: cost(quote.expected_usd) }),
            quote.eligible
              ? take("Take", `Take ${quote.model} at ${cost(quote.expected_usd)}`, asked, quote, {})
              : el("span", { class: "muted", text: "misses" }),
          ),
        ),
      ),
      book.quotes.length > shown.length &&
        el("p", { class: "muted", text: `${book.quotes.length - shown.length} more quotes.` }),
    );
  }

  const facts = (quote) =>
    `at most ${cost(quote.ceiling_usd)}, quality ${quality(quote.quality.mean)}, p95 ${duration(quote.latency_ms.p95)}`;

  function refusal(reject, asked) {
    return el(
      "div",
      { class: "no" },
      el("h3", { class: "bad", text: `${reject.code} ${words(reject.name)}` }),
      el("p", { text: reject.message }),
      reject.counter_offers.length > 0 &&
        el(
          "ul",
          { class: "plain takes" },
          reject.counter_offers.map((offer) =>
            el(
              "li",
              {},
              el(
                "span",
                { class: "take-what" },
                "Would do: ",
                el("strong", { text: termsOf(offer.terms) }),
                el("span", {
                  class: "muted",
                  text: `${offer.provider}/${offer.model}, at most ${cost(offer.ceiling_usd)}, until ${timeOf(offer.valid_until)}`,
                }),
              ),
              el("span", { class: "number", text: cost(offer.expected_usd) }),
              take("Take offer", `Take the offer: ${termsOf(offer.terms)}`, asked, offer, offer.terms),
            ),
          ),
        ),
    );
  }

  function take(text, label, asked, offer, changed) {
    const button = el("button", { type: "button", "aria-label": label, text });
    button.addEventListener("click", () =>
      waiting(button, byId("ask-error"), async () => {
        const order = { ...asked, terms: { ...asked.terms, ...changed }, quote_id: offer.quote_id };
        fill(answer, bought(await post("/v1/orders", order)));
        byId("ask-bought").focus();
      }),
    );
    return button;
  }

  function bought(done) {
    const { negotiator: deal, choices } = done;
    const account = form.elements.account.value || null;
    return el(
      "div",
      { class: "yes", id: "ask-bought", tabindex: -1 },
      el("h3", {
        class: "good",
        text: `Bought from ${deal.provider}/${deal.model} for ${cost(deal.cost_usd)}`,
      }),
      el("p", { class: "muted", text: `saved ${cost(deal.saved_usd)}, in ${duration(deal.latency_ms)}` }),
      el("blockquote", { text: choices[0].message.content ?? "" }),
      el("button", {
        type: "button",
        text: "Open its history",
        on: { click: () => onOpen({ order_id: deal.order_id, account }) },
      }),
    );
  }

  /** Whose money may be spent: others' accounts are only for who has the scope admin. */
  function allow(caller, accounts) {
    const mayBuy = caller.scopes.includes("use");
    form.querySelector("button").disabled = !mayBuy;
    if (!mayBuy) say(byId("ask-error"), "this key may look but not buy: it lacks the scope 'use'");
    const choice = form.elements.account;
    byId("ask-account-line").hidden = !caller.scopes.includes("admin") || accounts.length < 2;
    if (choice.options.length === accounts.length + 1) return;
    const before = choice.value;
    fill(
      choice,
      el("option", { value: "", text: `${caller.account} (own)` }),
      accounts
        .filter((name) => name !== caller.account)
        .map((name) => el("option", { value: name, text: name })),
    );
    choice.value = accounts.includes(before) ? before : "";
  }

  return { allow };
}

/** The form as a chat body with terms; what is left empty is not said. */
function read(form) {
  const values = new FormData(form);
  const terms = { tiers: values.getAll("tiers") };
  if (!terms.tiers.length) delete terms.tiers;
  for (const name of ["budget_usd", "account"]) {
    const text = String(values.get(name) ?? "").trim();
    if (text) terms[name] = text;
  }
  for (const name of ["min_quality", "deadline_ms"]) {
    const text = String(values.get(name) ?? "").trim();
    if (text) terms[name] = number(text);
  }
  const asked = { model: "auto", messages: [{ role: "user", content: values.get("prompt") }], terms };
  const tokens = String(values.get("max_tokens") ?? "").trim();
  if (tokens) asked.max_tokens = number(tokens);
  return asked;
}

/** A number, or the text itself: then the house says what is wrong with it. */
const number = (text) => (Number.isNaN(Number(text)) ? text : Number(text));

async function waiting(button, error, work) {
  say(error, "");
  button.disabled = true;
  try {
    await work();
  } catch (failed) {
    say(
      error,
      failed.reject?.counter_offers?.length
        ? `${failed.message}. Ask again to see what would do.`
        : failed.message,
    );
  } finally {
    button.disabled = false;
  }
}
