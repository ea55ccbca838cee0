// Requests to the gateway's own page routes. The session is a cookie that scripts cannot read.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function get(path) {
  return answerOf(await fetch(`/ui/${path}`, { headers: { accept: "application/json" } }));
}

export async function post(path, body = {}, method = "POST") {
  const init = { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return answerOf(await fetch(`/ui/${path}`, init));
}

async function answerOf(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, messageOf(body) ?? `The gateway answered ${response.status}.`);
  return body;
}

export const messageOf = (body) => body?.error?.message ?? null;

// Streams a chat. Calls `onEvent` with every parsed event; returns the response's headers. Throws ApiError.
export async function streamChat(body, signal, onEvent) {
  const response = await fetch("/ui/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) await answerOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return response.headers;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (!data || data === "[DONE]") continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(response.status, messageOf(parsed) ?? "The stream ended with an error.");
      onEvent(parsed, response.headers);
    }
  }
}
