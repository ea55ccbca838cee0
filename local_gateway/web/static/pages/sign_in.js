// The key goes to the gateway once, and a session comes back. It is kept nowhere in the page.

import { html, nothing } from "../vendor/lit-html-3.3.3.min.js";
import { post } from "../api.js";

const state = { error: "", isBusy: false };

export const signIn = (app) => html`
  <div class="sign-in">
    <main class="panel">
      <div class="brand"><img src="/ui/icon.svg" alt="">Gateway</div>
      <div>
        <h1>Sign in</h1>
        <p class="muted">With a key of this gateway. Any key sees its own requests; one made with <code>--admin</code> sees all.</p>
      </div>
      <form @submit=${(event) => submit(event, app)}>
        <label>Key
          <input name="key" type="password" autocomplete="off" spellcheck="false" required placeholder="lg-…"
                 aria-invalid=${state.error ? "true" : nothing} aria-describedby=${state.error ? "sign-in-error" : nothing}>
        </label>
        ${state.error ? html`<div class="notice bad" id="sign-in-error" role="alert">${state.error}</div>` : nothing}
        <button class="primary" ?disabled=${state.isBusy}>Sign in</button>
      </form>
      <p class="muted">No key yet? <code>llama-gateway keys create NAME --admin</code> makes one where the gateway runs.</p>
    </main>
  </div>`;

async function submit(event, app) {
  event.preventDefault();
  const form = event.target;
  state.isBusy = true;
  state.error = "";
  app.draw();
  try {
    await post("session", { key: form.elements.key.value.trim() });
    form.reset();
    state.isBusy = false;
    await app.reload();
  } catch (error) {
    state.isBusy = false;
    state.error = error.message;
    app.draw();
  }
}
