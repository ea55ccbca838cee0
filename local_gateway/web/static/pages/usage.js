// Who used what, and what it cost.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { get } from "../api.js";
import { bars } from "../chart.js";
import { count, daysAgo, money, seconds, short as shortNumber } from "../format.js";
import { command, segments, tile } from "../parts.js";

export const title = "Usage";
export const short = "Usage";

const RANGES = [[7, "7 days"], [30, "30 days"], [90, "90 days"]];
const MEASURES = {
  cost: ["Cost", (sum) => sum.cost, money],
  tokens: ["Tokens", (sum) => sum.prompt_tokens + sum.completion_tokens, shortNumber],
  requests: ["Requests", (sum) => sum.requests, shortNumber],
};
const state = { days: 30, by: "model", measure: "tokens", data: null, asked: "" };

export const enter = (app) => load(app);

async function load(app) {
  const query = `by=${state.by}&since=${daysAgo(state.days - 1)}`;
  state.asked = query;
  try {
    const data = await get(`usage?${query}`);
    if (state.asked === query) state.data = data;
    app.draw();
  } catch (error) {
    app.fail(error);
  }
}

function set(app, changes) {
  Object.assign(state, changes);
  app.draw();
  load(app);
}

export function view(app) {
  const groups = [["model", "Model"], ["target", "Target"], ...(app.session.is_admin ? [["key", "Key"]] : []), ["user", "End user"], ["day", "Day"]]
    .filter(([name]) => !state.data || state.data.groupings.includes(name));
  return html`
    <div class="head">
      <div><h1>Usage</h1><p>${app.session.is_admin ? "All keys." : `The key ${app.session.name}.`} Days are in UTC; costs are in the currency of the prices.</p></div>
      <div class="head-tools">${segments("Range", RANGES, state.days, (days) => set(app, { days }))}</div>
    </div>
    ${state.data ? (state.data.total.requests ? filled(app, groups) : unused()) : nothing}`;
}

function filled(app, groups) {
  const { total, series, rows } = state.data;
  const [name, valueOf, format] = MEASURES[state.measure];
  const label = groups.find(([group]) => group === state.by)?.[1] ?? state.by;
  return html`
    <dl class="tiles">
      ${tile("Requests", shortNumber(total.requests), total.failed ? `${count(total.failed)} failed` : "")}
      ${tile("Prompt tokens", shortNumber(total.prompt_tokens), total.cached_tokens ? `${Math.round((100 * total.cached_tokens) / total.prompt_tokens)} % cached` : "")}
      ${tile("Tokens written", shortNumber(total.completion_tokens))}
      ${tile("Cost", money(total.cost))}
    </dl>
    <section class="panel" aria-labelledby="days">
      <div class="panel-head"><h2 id="days">${name} a day</h2>
        ${segments("What the bars show", Object.entries(MEASURES).map(([key, [text]]) => [key, text]), state.measure,
          (measure) => { state.measure = measure; app.draw(); })}</div>
      <div class="panel-body">${bars(everyDay(series), valueOf, format, name)}</div>
    </section>
    <section class="panel" aria-labelledby="groups">
      <div class="panel-head"><h2 id="groups">By ${label.toLowerCase()}</h2>
        <div class="row">${segments("Group by", groups, state.by, (by) => set(app, { by }))}
          <a class="button small" href="/ui/usage.csv?${state.asked}" download>CSV</a></div></div>
      <div class="scroll" tabindex="0" role="group" aria-labelledby="groups"><table class="cards">
        <thead><tr><th>${label}</th><th class="num">Requests</th><th class="num">Failed</th><th class="num">Prompt tokens</th><th class="num">Cached</th>
          <th class="num">Tokens written</th><th class="num">First token</th><th class="num">Cost</th></tr></thead>
        <tbody>${rows.map((row) => html`
          <tr>
            <td class="wide wrap">${row.group || "–"}</td>
            <td class="num" data-label="Requests">${count(row.requests)}</td>
            <td class="num" data-label="Failed">${count(row.failed)}</td>
            <td class="num" data-label="Prompt tokens">${count(row.prompt_tokens)}</td>
            <td class="num" data-label="Cached">${count(row.cached_tokens)}</td>
            <td class="num" data-label="Tokens written">${count(row.completion_tokens)}</td>
            <td class="num" data-label="First token">${seconds(row.first_token)}</td>
            <td class="num" data-label="Cost">${money(row.cost)}</td>
          </tr>`)}</tbody>
      </table></div>
    </section>
    ${state.data.endpoints.length ? workers(state.data.endpoints) : nothing}`;
}

// What RunPod takes for its workers, whatever keys were charged. Administrators get it.
const workers = (endpoints) => html`
  <section class="panel" aria-labelledby="endpoints">
    <div class="panel-head"><h2 id="endpoints">RunPod's workers</h2>
      <a class="button small" href="/ui/usage.csv?by=endpoint&since=${daysAgo(state.days - 1)}" download>CSV</a></div>
    <div class="scroll" tabindex="0" role="group" aria-labelledby="endpoints"><table class="cards">
      <thead><tr><th>Endpoint</th><th class="num">Starts</th><th class="num">Billed</th><th class="num">Tokens written</th><th class="num">A million tokens</th>
        <th class="num">A cold start</th><th class="num">Cost</th></tr></thead>
      <tbody>${endpoints.map((row) => html`
        <tr>
          <td class="wide wrap">${row.endpoint}</td>
          <td class="num" data-label="Starts">${count(row.starts)}</td>
          <td class="num" data-label="Billed">${seconds(row.billed_seconds)}</td>
          <td class="num" data-label="Tokens written">${count(row.completion_tokens)}</td>
          <td class="num" data-label="A million tokens">${money(row.million_cost)}</td>
          <td class="num" data-label="A cold start">${money(row.cold_start_cost)}</td>
          <td class="num" data-label="Cost">${money(row.cost)}</td>
        </tr>`)}</tbody>
    </table></div>
  </section>`;

// Days without requests are days too.
function everyDay(series) {
  const known = new Map(series.map((each) => [each.group, each]));
  const none = { cost: 0, prompt_tokens: 0, completion_tokens: 0, requests: 0 };
  return Array.from({ length: state.days }, (_, index) => daysAgo(state.days - 1 - index)).map((day) => ({ ...(known.get(day) ?? none), day }));
}

const unused = () => html`
  <section class="panel"><div class="empty">
    <h2>Nothing was used in these days</h2>
    <p>Every request of a known key is recorded here within a second of its end: tokens, times and cost, never what was said. Costs need a
      <code>price</code> for the target in gateway.yaml. The same as a table in the terminal:</p>
    ${command("llama-gateway usage --by model")}
  </div></section>`;
