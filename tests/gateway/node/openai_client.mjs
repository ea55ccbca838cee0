// What OpenAI's own client for Node makes of a server. Prints one JSON object.
//
//   CLIENTS_DIR=folder-with-node_modules CLIENT_KEY=... node openai_client.mjs BASE_URL MODEL

import { createRequire } from "node:module";
import process from "node:process";

const require = createRequire(`${process.env.CLIENTS_DIR}/`);
const { OpenAI } = require("openai");

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: process.env.CLIENT_KEY, maxRetries: 2 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

async function streamed(more = {}) {
  const stream = await client.chat.completions.create({ model, messages, stream: true, ...more });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage };
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
  return null;
}

// A stream that is read to its first text and then given up.
async function left() {
  const stream = await client.chat.completions.create({ model: "endless", messages, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;
  }
  return stream.controller.signal.aborted;
}

async function responses() {
  const stream = await client.responses.create({ model, input: "Hi", stream: true });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  return text;
}

const chat = await client.chat.completions.create({ model, messages });
const embeddings = await client.embeddings.create({ model, input: "Hi" });
const models = [];
for await (const each of client.models.list()) models.push(each.id);

const report = {
  chat: chat.choices[0].message.content,
  usage: chat.usage.total_tokens,
  streamed: await streamed(),
  counted: await streamed({ stream_options: { include_usage: true } }),
  helper: await client.chat.completions.stream({ model, messages }).finalContent(),
  responses: await responses(),
  embedding: embeddings.data[0].embedding,
  models,
  model: (await client.models.retrieve(model)).id,
  left: await left(),
  unknown: await refused(() => client.chat.completions.create({ model: "unknown", messages })),
  spent: await refused(() => client.chat.completions.create({ model: "refusing", messages })),
  broken: await refused(() => streamed({ model: "breaking" })),
  forbidden: await refused(() => client.withOptions({ apiKey: "wrong" }).models.list()),
};
process.stdout.write(JSON.stringify(report));
