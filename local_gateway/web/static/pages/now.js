// What runs at this moment, and what has just ended.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { post } from "../api.js";
import { clock, count, money, seconds, speed } from "../format.js";
import { command, pill, tile } from "../parts.js";

export const title = "Now";
export const short = "Now";
const cancelled = new Set();
let announced = { text: "", at: 0 };

export function view(app) {
  const live = app.live ?? { requests: [], recent: [] };
  const { requests, recent } = live;
  const elapsed = app.live ? (performance.now() - app.liveAt) / 1000 : 0;
  const writing = requests.filter((each) => each.state === "streaming");
  const waiting = requests.length - writing.length;
  return html`
    <div class="head"><div><h1>Now</h1><p>${said(requests.length, waiting)}</p>
      <p class="visually-hidden" role="status">${announce(said(requests.length, waiting))}</p></div></div>
    <dl class="tiles">
      ${tile("Running", count(requests.length))}
      ${tile("Waiting for a target", count(waiting))}
      ${tile("Speed", speed(writing.reduce((sum, each) => sum + (each.speed ?? 0), 0)), "tokens/s")}
      ${tile("Cost of what runs", money(requests.reduce((sum, each) => sum + each.cost, 0)))}
    </dl>
    <section class="panel" aria-labelledby="running">
      <div class="panel-head"><h2 id="running">Running</h2></div>
      ${requests.length ? running(requests, elapsed, app) : nothingRuns(app)}
    </section>
    ${recent.length ? html`
      <section class="panel" aria-labelledby="ended">
        <div class="panel-head"><h2 id="ended">Just ended</h2></div>
        ${ended(recent)}
      </section>` : nothing}`;
}

const said = (running, waiting) => (!running ? "Nothing is running." : `${running} running${waiting ? `, ${waiting} waiting` : ""}.`);

// A screen reader is told at most every few seconds: it should not be talked over.
function announce(text) {
  if (performance.now() - announced.at > 4000 || !announced.text) announced = { text, at: performance.now() };
  return announced.text;
}

const running = (requests, elapsed, app) => html`
  <div class="scroll" tabindex="0" role="group" aria-labelledby="running"><table class="cards">
    <thead><tr><th>Model</th><th>State</th><th>Key</th><th class="num">Age</th><th class="num">Tokens</th><th class="num">Cost so far</th>
      <th><span class="visually-hidden">Cancel</span></th></tr></thead>
    <tbody>${requests.map((each) => html`
      <tr>
        <td class="wide"><span class="wrap">${each.model}</span><span class="sub wrap">${each.target ? `→ ${each.target}` : "no target yet"}</span></td>
        <td class="wide">${stateOf(each, elapsed)}</td>
        <td data-label="Key"><div class="cut">${each.key || "–"}</div></td>
        <td class="num" data-label="Age">${seconds(each.age + elapsed)}</td>
        <td class="num" data-label="Tokens">${count(each.tokens)}</td>
        <td class="num" data-label="Cost so far">${money(each.cost)}</td>
        <td class="wide end">
          <button type="button" class="small danger" ?disabled=${cancelled.has(each.id)} @click=${() => cancel(each, app)}
                  aria-label="Cancel the request of ${each.key || "this machine"} to ${each.model}">
            ${cancelled.has(each.id) ? "Cancelling…" : "Cancel"}</button>
        </td>
      </tr>`)}</tbody>
  </table></div>`;

function stateOf(each, elapsed) {
  if (each.state === "cold") return pill("warn", `cold start ${seconds(each.waited + elapsed)}`, true);
  if (each.state === "waiting") return pill("", each.target ? `reading ${seconds(each.waited + elapsed)}` : "queued", true);
  return pill("busy", each.speed ? `${speed(each.speed)} tok/s` : "answering", true);
}

async function cancel(each, app) {
  cancelled.add(each.id);
  app.draw();
  try {
    await post(`requests/${each.id}/cancel`);
  } catch (error) {
    cancelled.delete(each.id);
    if (error.status !== 404) app.fail(error);  // it ended by itself
  }
}

const OUTCOMES = {
  ok: ["good", "ok"], client_left: ["", "client left"], cancelled: ["", "cancelled"], client_error: ["warn", "client error"],
  refused: ["warn", "refused"], target_error: ["bad", "target error"],
};

const ended = (recent) => html`
  <div class="scroll" tabindex="0" role="group" aria-labelledby="ended"><table class="cards">
    <thead><tr><th>Time</th><th>Model</th><th>Outcome</th><th>Key</th><th class="num">First token</th><th class="num">Took</th>
      <th class="num">Tokens</th><th class="num">Cost</th></tr></thead>
    <tbody>${recent.map((each) => html`
      <tr>
        <td class="nowrap muted" data-label="Time">${clock(each.time)}</td>
        <td class="wide"><span class="wrap">${each.model || "–"}</span><span class="sub wrap">${each.target ? `→ ${each.target}` : ""}${each.is_cold ? " · cold start" : ""}</span></td>
        <td data-label="Outcome">${outcome(each)}</td>
        <td data-label="Key"><div class="cut">${each.key || "–"}</div></td>
        <td class="num" data-label="First token">${seconds(each.first_token)}</td>
        <td class="num" data-label="Took">${seconds(each.seconds)}</td>
        <td class="num" data-label="Tokens">${count(each.prompt_tokens)} + ${count(each.completion_tokens)}</td>
        <td class="num" data-label="Cost">${money(each.cost)}</td>
      </tr>`)}</tbody>
  </table></div>`;

function outcome(each) {
  const [kind, text] = OUTCOMES[each.outcome] ?? ["", each.outcome];
  return pill(kind, each.outcome === "ok" ? text : `${text} ${each.status}`);
}

const nothingRuns = (app) => html`
  <div class="empty">
    <p>A request appears here while it waits, while a worker starts for it, and while its answer is written. Send one:</p>
    ${command(curl(app))}
    <p>Or talk to a model in the <a href="#/playground">playground</a>.</p>
  </div>`;

function curl(app) {
  const model = app.live?.models.find((each) => !each.name.endsWith("*"))?.name ?? "llama";
  return [
    `curl ${location.origin}/v1/chat/completions`,
    "-H 'Content-Type: application/json'",
    ...(app.session.needs_key ? ['-H "Authorization: Bearer $GATEWAY_API_KEY"'] : []),
    `-d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
  ].join(" \\\n  ");
}
