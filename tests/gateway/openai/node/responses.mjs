// OpenAI's package for Node against a gateway: `node responses.mjs SCENARIO BASE_URL MODEL [ARGUMENTS]`, from a folder that
// has the packages of package.json installed. Prints what it saw: one line of JSON, `begin` one line for each event.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const { OpenAI } = require("openai");
const { zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const [scenario, baseURL, model, ...given] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const once = { headers: { "x-tailrace-max-attempts": "1" } };
const weather = {
  type: "function",
  name: "weather",
  description: "The weather of a place.",
  strict: true,
  parameters: {
    type: "object",
    properties: { place: { type: "string" } },
    required: ["place"],
    additionalProperties: false,
  },
};

async function all(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

const numbers = (events) => events.map((event) => event.sequence_number);
const deltas = (events) =>
  events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");

async function until(ask, done) {
  for (;;) {
    const found = await ask();
    if (done(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** What the package throws: its class, status, code and param. */
async function failure(attempt) {
  try {
    await attempt();
    return null;
  } catch (error) {
    const { status = null, code = null, param = null } = error;
    return { name: error.constructor.name, status, code, param };
  }
}

const scenarios = {
  async answers() {
    const asked = { model, input: "Hello", rehearsal: { text: "Water runs." } };
    const whole = await client.responses.create({ ...asked, metadata: { who: "me" } });
    const streamed = await all(client.responses.create({ ...asked, stream: true }));
    const helped = client.responses.stream(asked);
    const final = await helped.finalResponse();
    const items = [];
    for await (const item of client.responses.inputItems.list(whole.id)) items.push(item.content[0].text);
    return {
      text: whole.output_text, status: whole.status, metadata: whole.metadata, usage: whole.usage.output_tokens,
      streamed: deltas(streamed), numbers: numbers(streamed), types: streamed.map((event) => event.type),
      final: final.output_text, items,
    };
  },

  async tools() {
    const streamed = client.responses.stream({ model, input: "Weather in Ulm?", tools: [weather] });
    const fragments = [];
    streamed.on("response.function_call_arguments.delta", (event) => fragments.push(event.delta));
    const first = await streamed.finalResponse();
    const call = first.output.at(-1);
    const second = await client.responses.create({
      model, previous_response_id: first.id, tools: [weather], rehearsal: { text: "It rains." },
      input: [{ type: "function_call_output", call_id: call.call_id, output: "Rain." }],
    });
    const verse = z.object({ title: z.string(), lines: z.array(z.string()) });
    const parsed = await client.responses.parse({ model, input: "A verse", text: { format: zodTextFormat(verse, "verse") } });
    return {
      name: call.name, arguments: call.arguments, fragments: fragments.join(""), text: second.output_text,
      title: typeof parsed.output_parsed.title, lines: Array.isArray(parsed.output_parsed.lines),
    };
  },

  async background() {
    const script = { rehearsal: { tokens: 400, pace: 0.01 } };
    const begun = await client.responses.create({ model, input: "Count", background: true, ...script });
    const partial = await until(
      () => client.responses.retrieve(begun.id),
      (now) => now.output_text.includes(" token3"),
    );
    const cancelled = [await client.responses.cancel(begun.id), await client.responses.cancel(begun.id)];
    const kept = await client.responses.retrieve(begun.id);
    await client.responses.delete(begun.id);
    return {
      begun: begun.status, background: begun.background, partial: partial.status,
      cancelled: cancelled.map((response) => response.status), text: kept.output_text,
      deleted: await failure(() => client.responses.retrieve(begun.id)),
    };
  },

  /** One line for each event as it comes; whoever started this kills it. */
  async begin() {
    const script = { rehearsal: { tokens: 200, pace: 0.01 } };
    for await (const event of await client.responses.create({ model, input: "x", background: true, stream: true, ...script }))
      console.log(JSON.stringify(event));
  },

  async resume() {
    const [id, after] = [given[0], Number(given[1])];
    const running = (await client.responses.retrieve(id)).status;
    const rest = await all(client.responses.retrieve(id, { stream: true, starting_after: after }));
    const again = await all(client.responses.retrieve(id, { stream: true }));
    const helped = client.responses.stream({ response_id: id, starting_after: after });
    const seen = [];
    helped.on("event", (event) => seen.push(event.sequence_number));
    const final = await helped.finalResponse();
    return { running, rest, again, helped: seen, text: final.output_text, status: final.status };
  },

  async errors() {
    const broken = { rehearsal: { tokens: 9, fault: "cut", at: 4 } };
    const refused = { rehearsal: { fault: "status", code: 429, retry_after: 0 } };
    const failed = await all(
      client.responses.create({ model, input: "x", background: true, stream: true, ...broken }, once),
    );
    const kept = await client.responses.retrieve(failed[0].response.id);
    return {
      unknown: await failure(() => client.responses.retrieve("resp_unknown")),
      wrong: await failure(() => client.responses.create({ model, input: [] })),
      refused: await failure(() => client.responses.create({ model, input: "x", ...refused }, once)),
      last: failed.at(-1).type, kept: kept.status, code: kept.error.code, text: kept.output_text,
    };
  },

  async chat() {
    const asked = { model, messages: [{ role: "user", content: "x" }], stream: true };
    const script = { rehearsal: { tokens: 20, pace: 0.005 } };
    const chunks = await all(client.chat.completions.create({ ...asked, ...script }));
    const said = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "");
    const broken = { rehearsal: { tokens: 9, fault: "cut", at: 4 } };
    return {
      text: said.join(""),
      broken: await failure(() => all(client.chat.completions.create({ ...asked, ...broken }, once))),
    };
  },
};

const said = await scenarios[scenario]();
if (said !== undefined) console.log(JSON.stringify(said));
