// A seller for the quote protocol in plain Node, no dependencies: node examples/seller.mjs [port]
// It sells one model, "echo", which repeats the last message; at half price while it has nothing else to do.
// In negotiator.toml:  [[providers]]  kind = "remote"  name = "echo-shop"  base_url = "http://127.0.0.1:8400"
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";

const LIST = { input: 200, output: 800 }; // nano-dollars per token: $0.20 and $0.80 per million
const VALID_FOR_MS = 10_000;
const open = new Map(); // quote id -> { until, maxTokens }
let running = 0;
const usd = (nano) => (nano / 1e9).toFixed(9);

function quote(rfq) {
  const missing = rfq.capabilities.filter((need) => need !== "streaming");
  if (missing.length) return { decline: { code: "UNSUPPORTED", detail: `cannot do ${missing.join(", ")}` } };
  const share = running ? 1 : 0.5;
  const rate = { input: LIST.input * share, output: LIST.output * share };
  const input = Math.ceil(rfq.input_tokens * 1.2), maxTokens = Math.min(rfq.max_tokens ?? 4096, 4096);
  const output = Math.min(rfq.expected_output_tokens || 100, maxTokens);
  const expected = input * rate.input + output * rate.output;
  const id = randomUUID();
  for (const [key, one] of open) if (one.until < Date.now()) open.delete(key);
  open.set(id, { until: Date.now() + VALID_FOR_MS, maxTokens });
  return { quotes: [{
    seller_quote_id: id, model: "echo", valid_for_ms: VALID_FOR_MS,
    rates: { input_usd_per_million: usd(rate.input * 1e6), output_usd_per_million: usd(rate.output * 1e6) },
    expected_usd: usd(expected), ceiling_usd: usd(input * rate.input + maxTokens * rate.output),
    input_tokens: input, expected_output_tokens: output, max_output_tokens: maxTokens,
    latency_ms: { p50: 20, p95: 60 }, ttft_ms: { p50: 5, p95: 20 },
    discounts: running ? [] : [{ kind: "idle", saves_usd: usd(expected), basis: "nothing else is running" }],
  }] };
}

function execute({ seller_quote_id, body }, response) {
  const bought = open.get(seller_quote_id);
  if (!bought || bought.until < Date.now()) return send(response, 410, { error: { message: "this quote is not open" } });
  const words = String(body.messages.at(-1).content).split(/(?<= )/).slice(0, bought.maxTokens);
  const usage = { prompt_tokens: JSON.stringify(body.messages).length >> 2, completion_tokens: words.length };
  const choice = (more, finish_reason = null) => ({ model: "echo", choices: [{ index: 0, ...more, finish_reason }] });
  const message = { role: "assistant", content: words.join("") };
  if (!body.stream) return send(response, 200, { ...choice({ message }, "stop"), usage });
  response.writeHead(200, { "content-type": "text/event-stream" });
  const chunks = words.map((content) => choice({ delta: { content } }));
  for (const chunk of [...chunks, choice({ delta: {} }, "stop"), { choices: [], usage }])
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  response.end("data: [DONE]\n\n");
}

const send = (response, status, body) =>
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));

createServer((request, response) => {
  let text = "";
  request.on("data", (part) => { if ((text += part).length > 1e7) request.destroy(); });
  request.on("end", () => {
    running += request.url === "/execute";
    response.on("close", () => { running -= request.url === "/execute"; });
    try {
      if (request.url === "/quote") send(response, 200, quote(JSON.parse(text)));
      else if (request.url === "/execute") execute(JSON.parse(text), response);
      else send(response, 404, { error: { message: "expected /quote or /execute" } });
    } catch (error) { send(response, 400, { error: { message: String(error) } }); }
  });
}).listen(Number(process.argv[2] ?? 8400), "127.0.0.1", function () {
  console.log(`selling at http://127.0.0.1:${this.address().port}`);
});
