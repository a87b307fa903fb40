// npm install
// node jobs.js submit MODEL PROMPT [JOB]        stores and queues a job, prints its id
// node jobs.js follow [--json] JOB [POSITION]   prints its answer as it comes, from just after a position
// node jobs.js cancel JOB                       prints the status it has ended with
//
// The server is TAILRACE_REDIS_URL's, the namespace TAILRACE_NAMESPACE. A worker has to run: tailrace worker

import { parseArgs } from "node:util";
import { createClient } from "redis";
import { cancel, stream, submit } from "./tailrace.js";

const { values, positionals } = parseArgs({
  options: { json: { type: "boolean" } },
  allowPositionals: true,
});
const [command, ...words] = positionals;
const namespace = process.env.TAILRACE_NAMESPACE ?? "tailrace";

const client = createClient({ url: process.env.TAILRACE_REDIS_URL });
client.on("error", (error) => console.error(`redis: ${error.message}`));
await client.connect();
try {
  if (command === "submit") {
    const [model, content, job] = words;
    const request = { api: "chat", model, messages: [{ role: "user", content }] };
    console.log(await submit(client, request, { job, namespace }));
  } else if (command === "follow") {
    const [job, after] = words;
    for await (const piece of stream(client, job, { after, namespace })) {
      if (values.json) console.log(JSON.stringify(piece));
      else process.stdout.write(piece.rewound ? `\n(rewound)\n${piece.text}` : piece.text);
    }
  } else if (command === "cancel") {
    console.log(await cancel(client, words[0], { namespace }));
  } else throw new Error("say submit, follow or cancel");
} catch (error) {
  console.error(`${error.constructor.name}: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.destroy();
}
