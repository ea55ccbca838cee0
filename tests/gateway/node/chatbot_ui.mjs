// How two releases of chatbot-ui read a stream, with the parser they use. Prints {text, end, ...} as JSON.
//
//   CLIENTS_DIR=folder-with-node_modules CLIENT_KEY=... node chatbot_ui.mjs v3|legacy URL BODY
//   CLIENTS_DIR=folder-with-node_modules node chatbot_ui.mjs v3|legacy - PIECES      a JSON list, each in base64
//
// Both turn the answer into a stream of text, piece by piece as it is read, and each piece is decoded by itself. `v3`
// closes it at the first finish_reason, `legacy` at [DONE]. What cannot be read as a chunk fails the stream, even after
// its close: text that still waits in it is lost then. `end` is "closed"; "failed"; "open" if nothing has closed it by
// the end of the answer, where such a client waits for ever; or "refused" if the status was not 200.

import { createRequire } from "node:module";
import process from "node:process";
import { setImmediate } from "node:timers/promises";

const require = createRequire(`${process.env.CLIENTS_DIR}/`);
const { createParser } = require("eventsource-parser");

const RULES = {
  v3(data, stream) {
    const [choice] = JSON.parse(data).choices;
    if (choice.finish_reason != null) stream.close();
    else stream.enqueue(new TextEncoder().encode(choice.delta.content));
  },
  legacy(data, stream) {
    if (data === "[DONE]") stream.close();
    else stream.enqueue(new TextEncoder().encode(JSON.parse(data).choices[0].delta.content));
  },
};

function textOf(answer, rule, seen) {
  return new ReadableStream({
    async start(stream) {
      const watched = {
        enqueue: (text) => stream.enqueue(text),
        close() {
          seen.end ??= "closed";
          stream.close();
        },
      };
      const parser = createParser((event) => {
        if (event.type !== "event") return;
        try {
          rule(event.data, watched);
        } catch (error) {
          stream.error(error);
        }
      });
      for await (const piece of answer.body) parser.feed(new TextDecoder().decode(piece));
      if (seen.end) return;
      seen.end = "open";
      try {
        stream.close();
      } catch {
        seen.end = "failed"; // it was, and cannot be closed any more
      }
    },
  });
}

async function read(stream, seen) {
  const decoder = new TextDecoder();
  let text = "";
  try {
    for await (const piece of stream) text += decoder.decode(piece, { stream: true });
  } catch (error) {
    return { text, end: "failed", reason: String(error) };
  }
  return { text, end: seen.end };
}

async function refusal(answer) {
  const { error } = await answer.json();
  const shown = new Response("Error", { status: 500, statusText: error.message }); // throws if the message does not fit
  return { text: "", end: "refused", reason: shown.statusText, status: answer.status, code: error.code };
}

async function* paced(pieces) {
  for (const piece of pieces) {
    yield Buffer.from(piece, "base64");
    await setImmediate(); // whoever reads has what came so far
  }
}

const [rules, url, body] = process.argv.slice(2);
const headers = { "Content-Type": "application/json", Authorization: `Bearer ${process.env.CLIENT_KEY}` };
const answer =
  url === "-"
    ? { status: 200, body: paced(JSON.parse(body)) }
    : await fetch(url, { method: "POST", headers, body });
const seen = {};
const result = answer.status === 200 ? await read(textOf(answer, RULES[rules], seen), seen) : await refusal(answer);
process.stdout.write(JSON.stringify(result));
