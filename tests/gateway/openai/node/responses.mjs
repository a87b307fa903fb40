// OpenAI's package for Node against a gateway: `node responses.mjs BASE_URL`, from a folder that has the package installed.
// Prints one line of JSON: what it saw.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const { OpenAI } = await import(pathToFileURL(require.resolve("openai")));
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const script = { rehearsal: { tokens: 20, pace: 0.005 } };

const chat = await client.chat.completions.create({
  model: "rehearsal", messages: [{ role: "user", content: "x" }], stream: true, ...script,
});
let text = "";
for await (const chunk of chat) text += chunk.choices[0]?.delta?.content ?? "";

const numbers = [];
let id;
const begun = await client.responses.create({ model: "rehearsal", input: "x", background: true, stream: true, ...script });
for await (const event of begun) {
  numbers.push(event.sequence_number);
  id ??= event.response?.id;
  if (numbers.length === 9) break;
}
const rest = await client.responses.retrieve(id, { stream: true, starting_after: numbers.at(-1) });
for await (const event of rest) numbers.push(event.sequence_number);
const whole = await client.responses.retrieve(id);

const failures = [];
for (const attempt of [
  () => client.responses.retrieve("resp_unknown"),
  () => client.responses.create({ model: "rehearsal", input: [] }),
  async () => {
    const broken = await client.chat.completions.create(
      {
        model: "rehearsal", messages: [{ role: "user", content: "x" }], stream: true,
        rehearsal: { tokens: 9, fault: "cut", at: 4 },
      },
      { headers: { "x-tailrace-max-attempts": "1" } },
    );
    for await (const _ of broken) { /* until it breaks */ }
  },
]) {
  try {
    await attempt();
    failures.push("none");
  } catch (error) {
    failures.push(error.constructor.name);
  }
}
console.log(JSON.stringify({ text, numbers, output: whole.output_text, status: whole.status, failures }));
