// Which models there are, who answers for each, and how those are.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { count, seconds } from "../format.js";
import { command, pill } from "../parts.js";

export const title = "Models and targets";
export const short = "Targets";

const BREAKERS = {
  closed: ["good", "ready"], half_open: ["warn", "on probation"], open: ["bad", "left alone"],
  rate_limited: ["warn", "busy"], config_error: ["bad", "refuses our key"],
};

export function view(app) {
  const models = app.live?.models ?? [];
  return html`
    <div class="head"><div><h1>Models and targets</h1>
      <p>Smaller priorities are asked first; a target that fails is left alone for a while.</p></div></div>
    ${models.map((model) => html`
      <section class="panel" aria-label="Model ${model.name}">
        <div class="panel-head">
          <div class="model-head"><h2 class="wrap">${model.name}</h2><span class="muted wrap">${model.description}</span></div>
          <div class="facts">${model.facts.map((fact) => html`<span>${fact}</span>`)}</div>
        </div>
        <div class="scroll" tabindex="0" role="group" aria-label="Targets of ${model.name}"><table class="cards even">
          <thead><tr><th>Target</th><th>State</th><th class="num">Priority</th><th class="num">In flight</th><th class="num">Workers</th>
            <th class="num">Queue</th><th class="num">Cold start</th></tr></thead>
          <tbody>${model.targets.map((each) => row(app.live.targets[each.name], each))}</tbody>
        </table></div>
      </section>`)}
    ${app.session.is_admin && models.length ? html`
      <section class="panel" aria-labelledby="more">
        <div class="panel-head"><h2 id="more">Ask all of them</h2></div>
        <div class="empty"><p>This asks every target how it is, and whether it takes our key. The configuration is read again when it changes.</p>
          ${command("llama-gateway check")}</div>
      </section>` : nothing}`;
}

function row(target, { name, priority }) {
  if (!target) return nothing;
  const [kind, text] = stateOf(target);
  const health = target.health;
  return html`
    <tr>
      <td class="wide"><span class="wrap">${name}</span><span class="sub wrap">${target.type}${health?.detail ? ` · ${health.detail}` : ""}</span></td>
      <td data-label="State">${pill(kind, text)}${target.available_in ? html`<span class="sub">for ${seconds(target.available_in)}</span>` : nothing}</td>
      <td class="num" data-label="Priority">${priority}</td>
      <td class="num" data-label="In flight">${count(target.in_flight)}</td>
      <td class="num" data-label="Workers">${workers(health)}</td>
      <td class="num" data-label="Queue">${count(health?.queued)}</td>
      <td class="num" data-label="Cold start">${target.cold_starts.number
        ? html`${seconds(target.cold_starts.mean)}<span class="sub">of ${count(target.cold_starts.number)}</span>` : "–"}</td>
    </tr>`;
}

function stateOf(target) {
  if (target.breaker === "closed" && target.health && !target.health.is_ok) return ["warn", "cannot be reached"];
  if (target.breaker === "closed" && target.health?.ready === 0 && !target.health.starting) return ["", "asleep"];
  if (target.breaker === "closed" && target.health?.ready === 0) return ["warn", "starting"];
  return BREAKERS[target.breaker] ?? ["", target.breaker];
}

function workers(health) {
  if (!health || health.ready == null) return "–";
  return `${health.ready}${health.starting ? ` + ${health.starting} starting` : ""}`;
}
