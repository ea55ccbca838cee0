// One conversation with one model: its messages, and the answer that is being written.

import { streamChat } from "./api.js";
import { renderMarkdown } from "./markdown.js";

const DRAW_EVERY = 80; // ms

export class Conversation {
  // `draw` is called with what changes the page before it is drawn.
  constructor(draw) {
    this.model = "";
    this.messages = []; // {role, text, reasoning, tools, node, stats, error}
    this.abort = null;
    this._draw = draw;
  }

  get isBusy() {
    return this.abort !== null;
  }

  clear() {
    this.stop();
    this.messages = [];
  }

  // Closing the connection is what cancels the work, down to the GPU.
  stop() {
    this.abort?.abort();
  }

  async ask(text, { system, temperature, maxTokens }) {
    this.messages.push({ role: "user", text });
    const answer = { role: "assistant", text: "", reasoning: "", tools: new Map(), node: document.createElement("div"), stats: {}, error: "" };
    answer.node.className = "markdown";
    const sent = this._toSend(system);
    this.messages.push(answer);
    this.abort = new AbortController();
    this._draw(() => {});
    const began = performance.now();
    const body = { model: this.model, messages: sent };
    if (temperature !== "") body.temperature = Number(temperature);
    if (maxTokens !== "") body.max_tokens = Number(maxTokens);
    try {
      await streamChat(body, this.abort.signal, (event, headers) => this._take(answer, event, headers, began));
    } catch (error) {
      answer.error = error.name === "AbortError" ? "Stopped." : error.message;
    }
    this.abort = null;
    clearTimeout(this._timer);
    this._timer = null;
    this._draw(() => this._finish(answer, began));
  }

  _toSend(system) {
    const said = this.messages
      .filter((each) => each.role === "user" || (each.text && !each.error))
      .map(({ role, text }) => ({ role, content: text }));
    return system ? [{ role: "system", content: system }, ...said] : said;
  }

  _take(answer, event, headers, began) {
    const { stats } = answer;
    stats.target ||= headers.get("x-gateway-target") ?? "";
    stats.requestId = headers.get("x-request-id") ?? "";
    if (event.usage) stats.usage = event.usage;
    const delta = event.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    const calls = delta.tool_calls ?? [];
    if (!delta.content && !thought && !calls.length) return;
    stats.firstToken ??= (performance.now() - began) / 1000;
    stats.pieces = (stats.pieces ?? 0) + 1;
    stats.lastAt = performance.now();
    answer.reasoning += thought;
    answer.text += delta.content ?? "";
    for (const call of calls) {
      const known = answer.tools.get(call.index) ?? { name: "", arguments: "" };
      known.name += call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
      answer.tools.set(call.index, known);
    }
    this._later(answer, began);
  }

  // A fast model sends more events than a page should be drawn for.
  _later(answer, began) {
    if (this._timer) return;
    this._timer = setTimeout(() => {
      this._timer = null;
      this._draw(() => this._finish(answer, began));
    }, DRAW_EVERY);
  }

  _finish(answer, began) {
    const { stats } = answer;
    renderMarkdown(answer.node, answer.text);
    stats.seconds = (performance.now() - began) / 1000;
    stats.tokens = stats.usage?.completion_tokens ?? stats.pieces ?? 0;
    stats.promptTokens = stats.usage?.prompt_tokens ?? null;
    const writing = stats.firstToken == null ? 0 : ((stats.lastAt ?? 0) - began) / 1000 - stats.firstToken;
    stats.speed = writing > 0.05 && stats.tokens > 1 ? (stats.tokens - 1) / writing : null;
  }
}

// A stream that was opened while a worker starts does not name its target in its head; the picture of what happens does.
// When the request has ended, what was accounted for it is there too.
export function complete(stats, live) {
  if (!stats.requestId || !live) return stats;
  const isThis = (each) => each.id === stats.requestId;
  const ended = live.recent.find(isThis);
  stats.target ||= (ended ?? live.requests.find(isThis))?.target ?? "";
  stats.cost ??= ended?.cost ?? null;
  return stats;
}

// What an answer cost, by the target's prices until it is accounted; null while that is not known.
export function costOf(stats, prices) {
  if (stats.cost != null) return stats.cost;
  const price = prices[stats.target];
  if (!price || stats.promptTokens == null) return null;
  const cached = stats.usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const tokens = (stats.promptTokens - cached) * price.prompt + cached * (price.cached ?? price.prompt) + stats.tokens * price.completion;
  return tokens / 1e6 + price.gpu_second * stats.seconds;
}
