// The house over HTTP: one key, kept in this tab only; errors as the house says them; a stream that comes back.

const KEY = "negotiator.key";
const LONGEST_WAIT_MS = 15_000;

/** What the house refused: its status, code and, where the market said no, the reject with its counter-offers. */
export class Refused extends Error {
  constructor(status, fault) {
    super(fault?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = fault?.code ?? null;
    this.reject = fault?.reject ?? null;
  }

  /** Whether another key is needed. */
  get closed() {
    return this.status === 401 || this.code === "SCOPE_MISSING" || this.code === "HOST_FORBIDDEN";
  }
}

export const keptKey = () => sessionStorage.getItem(KEY);
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

async function send(method, path, body, signal) {
  const headers = { accept: "application/json" };
  const key = keptKey();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, { message: "the server does not answer" });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error);
}

export const get = async (path) => (await send("GET", path)).json();
export const post = async (path, body) => (await send("POST", path, body)).json();

/**
 * Listen to an event stream until `signal` aborts: `onEvent(name, values)` for each event, `onState` with "live" or
 * "lost" as the connection comes and goes. Returns when the key is refused, with that refusal.
 */
export async function listen(path, signal, onEvent, onState) {
  let wait = 500;
  while (!signal.aborted) {
    try {
      const answer = await send("GET", path, undefined, signal);
      onState("live");
      wait = 500;
      await readEvents(answer.body.getReader(), onEvent);
    } catch (error) {
      if (signal.aborted) return null;
      if (error instanceof Refused && error.closed) return error;
      if (!(error instanceof Refused || error instanceof TypeError || error.name === "NetworkError"))
        throw error;
    }
    if (signal.aborted) return null;
    onState("lost");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
  return null;
}

async function readEvents(reader, onEvent) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const frames = text.split("\n\n");
    text = frames.pop();
    for (const frame of frames) readEvent(frame, onEvent);
  }
}

function readEvent(frame, onEvent) {
  let name = "message";
  const data = [];
  for (const line of frame.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  if (data.length) onEvent(name, JSON.parse(data.join("\n")));
}
