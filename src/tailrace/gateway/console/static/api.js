// The native API, as this page uses it. The key stays in this tab (sessionStorage) and travels in a header only.

const KEY = "tailrace.key";
const TOKEN_S = 300;

/** Where the API is: beside this folder, whatever prefix a proxy has put before both. */
const BASE = new URL("../", import.meta.url);

/** What the gateway has refused; `status` 0: nobody answered. `waitMs`: how long it wants to be left alone. */
export class Refused extends Error {
  constructor(status, code, message, waitMs = 0) {
    super(message);
    [this.status, this.code, this.waitMs] = [status, code, waitMs];
  }
}

export class Api {
  /** `clock` hears what time the server has. */
  constructor(clock) {
    this.clock = clock;
    this.key = sessionStorage.getItem(KEY);
    this.tokens = new Map();
  }

  useKey(key) {
    this.key = key === "" ? null : key;
    this.tokens.clear();
    if (this.key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, this.key);
  }

  /** The jobs that have not ended, and the last so many that have, where the gateway lists those too. */
  jobs(ended) {
    return this.#ask("GET", `v1/jobs?limit=200&ended=${ended}`);
  }

  /** Where a job stands, without its text where the gateway knows how to leave it out. */
  job(id) {
    return this.#ask("GET", `v1/jobs/${encodeURIComponent(id)}?output=false`);
  }

  cancel(id) {
    return this.#ask("POST", `v1/jobs/${encodeURIComponent(id)}/cancel`);
  }

  /** The address of a job's events. An EventSource cannot send a key: with one, a token for this job stands in the address. */
  async events(id, after) {
    const url = new URL(`v1/jobs/${encodeURIComponent(id)}/events`, BASE);
    url.searchParams.set("after", after);
    if (this.key !== null) url.searchParams.set("token", await this.#token(id));
    return url;
  }

  dropToken(id) {
    this.tokens.delete(id);
  }

  async #token(id) {
    const known = this.tokens.get(id);
    if (known !== undefined && known.until > Date.now()) return known.token;
    const body = { expires_in_s: TOKEN_S };
    const { token } = await this.#ask("POST", `v1/jobs/${encodeURIComponent(id)}/tokens`, body);
    this.tokens.set(id, { token, until: Date.now() + (TOKEN_S - 30) * 1000 });
    return token;
  }

  async #ask(method, path, body) {
    const headers = { Accept: "application/json" };
    if (this.key !== null) headers.Authorization = `Bearer ${this.key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const asked = Date.now();
    let answer;
    try {
      answer = await fetch(new URL(path, BASE), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(15000),
      });
    } catch {
      throw new Refused(0, "unreachable", "The gateway does not answer");
    }
    this.clock.heard(Date.parse(answer.headers.get("Date") ?? ""), asked, Date.now());
    const said = await answer.json().catch(() => ({}));
    if (answer.ok) return said;
    const wait = Number(answer.headers.get("Retry-After") ?? 0) * 1000 || 0;
    throw new Refused(answer.status, said.error?.code ?? null, said.error?.message ?? `HTTP ${answer.status}`, wait);
  }
}
