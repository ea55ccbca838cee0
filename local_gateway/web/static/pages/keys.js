// Keys: made, limited, revoked. A secret is shown once, here, and kept nowhere.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { get, post } from "../api.js";
import { count, day, money } from "../format.js";
import { copyButton, pill } from "../parts.js";

export const title = "Keys";
export const short = "Keys";

const state = { keys: null, made: null, error: "", revoking: null, showsRevoked: false };

export const enter = (app) => load(app);

async function load(app) {
  try {
    state.keys = (await get("keys")).keys;
    app.draw();
  } catch (error) {
    app.fail(error);
  }
}

export function view(app) {
  const keys = (state.keys ?? []).filter((key) => state.showsRevoked || key.state !== "revoked");
  const numRevoked = (state.keys ?? []).filter((key) => key.state === "revoked").length;
  return html`
    <div class="head">
      <div><h1>Keys</h1><p>Stored as hashes. As soon as there is one, every request needs one.</p></div>
      <div class="head-tools"><button type="button" class="primary" @click=${() => open("make-key")}>Make a key</button></div>
    </div>
    ${state.made ? made(app) : nothing}
    <section class="panel" aria-label="Keys">
      ${state.keys === null ? nothing : keys.length ? table(keys, app) : html`
        <div class="empty"><h2>There is no key yet</h2>
          <p>The gateway answers on this machine only, and asks for none. With the first key it asks for one at every request, also of this page:
            make that one an administrator's, and sign in with it.</p></div>`}
    </section>
    ${numRevoked ? html`<p class="row"><button type="button" class="plain small" @click=${() => { state.showsRevoked = !state.showsRevoked; app.draw(); }}>
      ${state.showsRevoked ? "Hide" : "Show"} ${numRevoked} revoked</button></p>` : nothing}
    ${makeDialog(app)} ${revokeDialog(app)}`;
}

const made = (app) => html`
  <section class="panel" role="status" aria-label="The new key">
    <div class="panel-head"><h2>The key of ${state.made.name}</h2>
      <button type="button" class="small" @click=${() => { state.made = null; app.draw(); }}>Done</button></div>
    <div class="panel-body"><p class="muted">It is not shown again. Copy it now.</p>
      <div class="command"><pre>${state.made.secret}</pre>${copyButton(state.made.secret)}</div></div>
  </section>`;

const table = (keys, app) => html`
  <div class="scroll" tabindex="0" role="group" aria-label="All keys"><table class="cards">
    <thead><tr><th>Name</th><th>State</th><th>Models</th><th>Limits</th><th class="num">Spent</th><th>Expires</th><th><span class="visually-hidden">Revoke</span></th></tr></thead>
    <tbody>${keys.map((key) => html`
      <tr>
        <td class="wide"><span class="wrap">${key.name}</span><span class="sub"><span class="mono">${key.prefix}…</span> since ${day(key.created)}</span></td>
        <td data-label="State">${state_(key)}</td>
        <td data-label="Models" class="wrap">${key.models.join(", ") || "all"}</td>
        <td data-label="Limits">${limits(key)}</td>
        <td class="num" data-label="Spent">${key.budget == null ? money(key.spent) : html`${money(key.spent)} of ${money(key.budget)}<span class="sub">a ${key.period}</span>`}</td>
        <td data-label="Expires" class="nowrap">${key.expires ? day(key.expires) : "never"}</td>
        <td class="wide end">${key.state === "active" ? html`
          <button type="button" class="small danger" @click=${() => { state.revoking = key; app.draw(); open("revoke-key"); }} aria-label="Revoke the key ${key.name}">Revoke</button>` : nothing}</td>
      </tr>`)}</tbody>
  </table></div>`;

function state_(key) {
  if (key.state !== "active") return pill("bad", key.state);
  return key.is_admin ? pill("busy", "administrator") : pill("good", "active");
}

function limits(key) {
  const all = [key.max_rpm && `${count(key.max_rpm)} requests/min`, key.max_tpm && `${count(key.max_tpm)} tokens/min`, key.max_concurrency && `${key.max_concurrency} at once`];
  return all.filter(Boolean).join(", ") || "none";
}

const open = (id) => document.getElementById(id).showModal();
const close = (event) => event.currentTarget.closest("dialog").close();

const makeDialog = (app) => html`
  <dialog id="make-key" aria-labelledby="make-title">
    <form @submit=${(event) => make(event, app)}>
      <h2 id="make-title">Make a key</h2>
      ${state.error ? html`<div class="notice bad" role="alert">${state.error}</div>` : nothing}
      <label>Name <input name="name" required maxlength="100" autocomplete="off" placeholder="whose it is, or what for"></label>
      <label>Models <span class="hint">Separated by commas; a name may end in *. Empty: all.</span>
        <input name="models" autocomplete="off" placeholder="llama, gpt-*"></label>
      <div class="fields">
        <label>Requests a minute <input name="max_rpm" inputmode="numeric" pattern="[0-9]*" placeholder="no limit"></label>
        <label>Tokens a minute <input name="max_tpm" inputmode="numeric" pattern="[0-9]*" placeholder="no limit"></label>
        <label>Requests at once <input name="max_concurrency" inputmode="numeric" pattern="[0-9]*" placeholder="no limit"></label>
        <label>Expires <input name="expires" type="date"></label>
        <label>Budget <input name="budget" inputmode="decimal" pattern="[0-9]*[.]?[0-9]*" placeholder="no limit"></label>
        <label>Budget for a <select name="period"><option value="month">month</option><option value="day">day</option></select></label>
      </div>
      <label class="check"><input type="checkbox" name="is_admin" .checked=${!app.session.needs_key} ?disabled=${!app.session.needs_key}> Administrator: sees all, makes and revokes keys</label>
      <div class="row"><button type="button" class="plain" @click=${close}>Cancel</button><button class="primary">Make the key</button></div>
    </form>
  </dialog>`;

async function make(event, app) {
  event.preventDefault();
  const form = event.target;
  const fields = Object.fromEntries(new FormData(form));
  const number = (name) => (fields[name] === "" ? null : Number(fields[name]));
  state.error = "";
  try {
    state.made = await post("keys", {
      name: fields.name,
      models: fields.models.split(",").map((name) => name.trim()).filter(Boolean),
      max_rpm: number("max_rpm"), max_tpm: number("max_tpm"), max_concurrency: number("max_concurrency"), budget: number("budget"),
      period: fields.period,
      expires: fields.expires ? Date.parse(fields.expires) / 1000 : null,
      is_admin: form.elements.is_admin.checked,
    });
    form.reset();
    form.closest("dialog").close();
    if (!app.session.needs_key) await app.reload();  // this page is signed in with the first key
    await load(app);
  } catch (error) {
    state.error = error.message;
    app.draw();
  }
}

const revokeDialog = (app) => html`
  <dialog id="revoke-key" aria-labelledby="revoke-title">
    <form method="dialog" @submit=${() => revoke(app)}>
      <h2 id="revoke-title">Revoke the key ${state.revoking?.name ?? ""}?</h2>
      <p class="muted">Its requests are refused within two seconds, for good. What it used stays in the accounts.</p>
      <div class="row"><button type="button" class="plain" @click=${close}>Keep it</button><button class="danger">Revoke</button></div>
    </form>
  </dialog>`;

async function revoke(app) {
  try {
    await post(`keys/${state.revoking.id}/revoke`);
    await load(app);
  } catch (error) {
    app.fail(error);
  }
}
