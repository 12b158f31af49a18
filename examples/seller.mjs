// A seller for the quote protocol in plain Node, no dependencies: node examples/seller.mjs [port]
// It sells one model, "echo", which answers with the last message; half price while it has nothing to do.
// Point the market at it:  [[providers]]  kind = "remote"  name = "echo-shop"  base_url = "http://127.0.0.1:8400"
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";

const LIST = { input: 0.2, output: 0.8 }; // US dollars per million tokens
const VALID_FOR_MS = 10_000;
const open = new Map(); // quote id -> { rates, until, maxTokens }
let running = 0;

const usd = (amount) => amount.toFixed(9);
const cost = (tokens, rate) => Math.round(tokens * rate * 1000) / 1e9; // whole nano-dollars

function quote(rfq) {
  const wants = rfq.capabilities.filter((need) => need !== "streaming");
  if (wants.length) return { decline: { code: "UNSUPPORTED", detail: `cannot do ${wants.join(", ")}` } };
  const idle = running === 0;
  const rates = { input: LIST.input * (idle ? 0.5 : 1), output: LIST.output * (idle ? 0.5 : 1) };
  const tokens = Math.ceil(rfq.input_tokens * 1.2);
  const maxTokens = Math.min(rfq.max_tokens ?? 4096, 4096);
  const expected = Math.min(rfq.expected_output_tokens || 100, maxTokens);
  const price = cost(tokens, rates.input) + cost(expected, rates.output);
  const id = randomUUID();
  for (const [key, one] of open) if (one.until < Date.now()) open.delete(key);
  open.set(id, { rates, until: Date.now() + VALID_FOR_MS, maxTokens });
  return { quotes: [{
    seller_quote_id: id, model: "echo", tier: "standard",
    rates: { input_usd_per_million: usd(rates.input), output_usd_per_million: usd(rates.output) },
    expected_usd: usd(price), ceiling_usd: usd(cost(tokens, rates.input) + cost(maxTokens, rates.output)),
    input_tokens: tokens, expected_output_tokens: expected, max_output_tokens: maxTokens,
    latency_ms: { p50: 20, p95: 60 }, ttft_ms: { p50: 5, p95: 20 }, valid_for_ms: VALID_FOR_MS,
    discounts: idle ? [{ kind: "idle", saves_usd: usd(price), basis: "nothing else is running" }] : [],
  }] };
}

function execute({ seller_quote_id, body }, response) {
  const bought = open.get(seller_quote_id);
  if (!bought || bought.until < Date.now())
    return send(response, 410, { error: { message: "this quote is not open", code: "quote_expired" } });
  const last = body.messages.at(-1).content;
  const words = (typeof last === "string" ? last : "").split(/(?<= )/).slice(0, bought.maxTokens);
  const usage = { prompt_tokens: JSON.stringify(body.messages).length >> 2, completion_tokens: words.length };
  usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
  if (!body.stream) {
    const choice = { index: 0, message: { role: "assistant", content: words.join("") }, finish_reason: "stop" };
    return send(response, 200, { object: "chat.completion", model: "echo", choices: [choice], usage });
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  const event = (more) => response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", ...more })}\n\n`);
  for (const content of words) event({ choices: [{ index: 0, delta: { content }, finish_reason: null }] });
  event({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
  event({ choices: [], usage });
  response.end("data: [DONE]\n\n");
}

function send(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

createServer((request, response) => {
  let text = "";
  request.on("data", (chunk) => { if ((text += chunk).length > 1e7) request.destroy(); });
  request.on("end", () => {
    try {
      const asked = JSON.parse(text);
      if (request.url === "/quote") return send(response, 200, quote(asked));
      if (request.url !== "/execute") return send(response, 404, { error: { message: "no such path" } });
      running += 1;
      response.on("close", () => { running -= 1; });
      execute(asked, response);
    } catch (error) {
      send(response, 400, { error: { message: String(error) } });
    }
  });
}).listen(Number(process.argv[2] ?? 8400), "127.0.0.1", function () {
  console.log(`selling at http://127.0.0.1:${this.address().port}`);
});
