// Talk to a model, or to two with the same words.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { get } from "../api.js";
import { Conversation, complete, costOf } from "../conversation.js";
import { count, money, seconds, speed } from "../format.js";
import { command } from "../parts.js";

export const title = "Playground";
export const short = "Playground";

const state = { models: null, prices: {}, talks: [], system: "", temperature: "", maxTokens: "" };

export async function enter(app) {
  try {
    const { models, prices } = await get("models");
    Object.assign(state, { models, prices });
    if (!state.talks.length) state.talks = [new Conversation((change) => drawAndFollow(app, change))];
    for (const talk of state.talks) if (!models.includes(talk.model)) talk.model = models[0] ?? "";
    app.draw();
  } catch (error) {
    app.fail(error);
  }
}

export function view(app) {
  const [first] = state.talks;
  const isTwo = state.talks.length === 2;
  return html`
    <div class="head">
      <div><h1>Playground</h1><p>What is said here stays in this tab. It is accounted like any other request.</p></div>
      <div class="head-tools">
        <button type="button" @click=${() => { state.talks.forEach((talk) => talk.clear()); app.draw(); }} ?disabled=${!first?.messages.length}>Start anew</button>
        <button type="button" aria-pressed=${isTwo} @click=${() => toggle(app)}>${isTwo ? "One model" : "Two side by side"}</button>
      </div>
    </div>
    ${state.models === null ? nothing : state.models.length ? html`
      <div class="talks ${isTwo ? "two" : ""}">${state.talks.map((talk, index) => column(talk, index, app))}</div>
      ${composer(app)}` : html`
      <section class="panel"><div class="empty"><h2>There is no model to talk to</h2>
        <p>This key may use none of the models here, or no target lists any. Which there are:</p>
        ${command(`curl ${location.origin}/v1/models -H "Authorization: Bearer $GATEWAY_API_KEY"`)}</div></section>`}`;
}

function toggle(app) {
  if (state.talks.length === 2) {
    state.talks.pop().stop();
  } else {
    const other = new Conversation((change) => drawAndFollow(app, change));
    other.model = state.models?.find((name) => name !== state.talks[0].model) ?? state.models?.[0] ?? "";
    state.talks.push(other);
  }
  app.draw();
}

// A box that shows the newest words goes on showing them; one that was scrolled up stays where it is.
function drawAndFollow(app, change) {
  const boxes = [...document.querySelectorAll(".messages")];
  const following = boxes.filter((box) => box.scrollHeight - box.scrollTop - box.clientHeight < 48);
  change();
  app.draw();
  for (const box of following) box.scrollTop = box.scrollHeight;
}

const column = (talk, index, app) => html`
  <section class="panel talk" aria-label="Conversation ${index + 1}">
    <div class="talk-head">
      <select aria-label="Model of conversation ${index + 1}" @change=${(event) => { talk.model = event.target.value; app.draw(); }}>
        ${state.models.map((name) => html`<option value=${name} ?selected=${name === talk.model}>${name}</option>`)}
      </select>
      ${talk.isBusy ? html`<button type="button" class="small danger" @click=${() => talk.stop()}>Stop</button>` : nothing}
    </div>
    <div class="messages" tabindex="0" role="group" aria-label="Messages of conversation ${index + 1}">
      ${talk.messages.length ? talk.messages.map((message) => shown(message, talk, app.live)) : html`
        <p class="muted">Ask something below; <kbd>Enter</kbd> sends it, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line.</p>`}
    </div>
  </section>`;

function shown(message, talk, live) {
  if (message.role === "user") return html`<div class="message user">${message.text}</div>`;
  const isLast = message === talk.messages.at(-1);
  const isWaiting = talk.isBusy && isLast && message.stats.firstToken == null;
  return html`
    <div class="message">
      ${message.reasoning ? html`<details ?open=${!message.text}><summary>Reasoning</summary>${message.reasoning}</details>` : nothing}
      ${isWaiting ? html`<p class="muted">Waiting for the first token…</p>` : message.node}
      ${[...message.tools.values()].map((call) => html`<div class="tool"><strong>${call.name}</strong> <code>${call.arguments}</code></div>`)}
      ${message.error ? html`<p class="error">${message.error}</p>` : nothing}
      ${message.stats.firstToken == null ? nothing : stats(complete(message.stats, live))}
    </div>`;
}

const stats = (of) => html`
  <div class="stats">
    <span>first token ${seconds(of.firstToken)}</span>
    ${of.speed ? html`<span>${speed(of.speed)} tok/s</span>` : nothing}
    <span>${of.promptTokens == null ? "" : `${count(of.promptTokens)} + `}${count(of.tokens)} tokens</span>
    ${costOf(of, state.prices) ? html`<span>cost ${money(costOf(of, state.prices))}</span>` : nothing}
    ${of.target ? html`<span>${of.target}</span>` : nothing}
  </div>`;

const composer = (app) => html`
  <form class="panel composer" @submit=${(event) => { event.preventDefault(); send(event.target, app); }}>
    <textarea name="text" rows="2" aria-label="Message" placeholder="Ask something" @keydown=${(event) => onKey(event, app)}></textarea>
    <div class="row">
      <button class="primary" ?disabled=${state.talks.some((talk) => talk.isBusy)}>${state.talks.length === 2 ? "Ask both" : "Ask"}</button>
    </div>
    <details>
      <summary>Instructions and sampling</summary>
      <div class="fields">
        <label>Instructions <textarea rows="2" .value=${state.system} @input=${(event) => { state.system = event.target.value; }}></textarea></label>
        <label>Temperature <input inputmode="decimal" .value=${state.temperature} placeholder="the model's" @input=${(event) => { state.temperature = event.target.value.trim(); }}></label>
        <label>Tokens at most <input inputmode="numeric" .value=${state.maxTokens} placeholder="the model's" @input=${(event) => { state.maxTokens = event.target.value.trim(); }}></label>
      </div>
    </details>
  </form>`;

function onKey(event, app) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(event.target.form, app);
}

function send(form, app) {
  const field = form.elements.text;
  const text = field.value.trim();
  if (!text || state.talks.some((talk) => talk.isBusy)) return;
  field.value = "";
  for (const talk of state.talks) talk.ask(text, state);
  for (const box of document.querySelectorAll(".messages")) box.scrollTop = box.scrollHeight;
}
