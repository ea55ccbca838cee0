// The page: who is signed in, which page is shown, and the stream of what happens now.

import { html, nothing, render } from "./vendor/lit-html-3.3.3.min.js";
import { ApiError, get, post } from "./api.js";
import { icon } from "./parts.js";
import { signIn } from "./pages/sign_in.js";
import * as now from "./pages/now.js";
import * as targets from "./pages/targets.js";
import * as usage from "./pages/usage.js";
import * as playground from "./pages/playground.js";
import * as keys from "./pages/keys.js";

const PAGES = { now, targets, usage, playground, keys };

const app = {
  session: null, // {name, is_admin, needs_key}; null: not known yet
  live: null, // the last snapshot of the stream
  liveAt: 0,
  isConnected: false,
  error: "",
  draw,
  reload,
  signOut,
  fail,
};

const pageNames = () => Object.keys(PAGES).filter((name) => name !== "keys" || app.session?.is_admin);

function pageName() {
  const name = location.hash.replace(/^#\/?/, "");
  return pageNames().includes(name) ? name : "now";
}

function draw() {
  const root = document.getElementById("app");
  if (!app.session) return;
  if (!app.session.signed_in) {
    document.title = "Sign in · Gateway";
    render(signIn(app), root);
    return;
  }
  const name = pageName();
  document.title = `${PAGES[name].title} · Gateway`;
  render(frame(name), root);
}

const frame = (name) => html`
  <a class="skip" href="#main" @click=${skip}>Skip to the page</a>
  <div class="frame">
    <header class="side">
      <div class="brand"><img src="/ui/icon.svg" alt="">Gateway</div>
      <nav aria-label="Pages"><ul class="nav">${pageNames().map((each) => link(each, each === name))}</ul></nav>
      <div class="who">${who()}</div>
    </header>
    <main id="main" tabindex="-1">
      ${app.isConnected || !app.live ? nothing : html`<div class="notice warn" role="status">The gateway cannot be reached. Trying again.</div>`}
      ${app.error ? html`<div class="notice bad" role="alert">${app.error}</div>` : nothing}
      ${PAGES[name].view(app)}
      <div class="only-phone who">${who()}</div>
    </main>
  </div>`;

function link(name, isHere) {
  const running = name === "now" ? (app.live?.requests.length ?? 0) : 0;
  return html`<li><a href="#/${name}" aria-current=${isHere ? "page" : nothing}>${icon(name)}<span>${PAGES[name].short}</span>
    ${running ? html`<span class="count" aria-label="${running} running">${running}</span>` : nothing}</a></li>`;
}

function who() {
  if (!app.session.needs_key) {
    return html`<span class="muted">No key has been made, so this gateway answers only on this machine, without one.</span>`;
  }
  return html`
    <span><strong>${app.session.name}</strong> <span class="muted">${app.session.is_admin ? "administrator" : "key"}</span></span>
    <button type="button" class="small" @click=${signOut}>Sign out</button>`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

// The session

async function reload() {
  app.session = await get("session");
  if (app.session.signed_in) {
    listen();
    PAGES[pageName()].enter?.(app);
  }
  draw();
}

async function signOut() {
  await post("session", {}, "DELETE");
  hush();
  app.live = null;
  location.hash = "";
  await reload();
}

function fail(error) {
  if (!app.session) {
    render(html`<div class="sign-in"><main class="panel"><h1>Not there yet</h1><p class="muted">${error.message} Trying again.</p></main></div>`,
      document.getElementById("app"));
    setTimeout(() => reload().catch(fail), 2000);
    return;
  }
  if (error instanceof ApiError && error.status === 401) {
    hush();
    app.session = { ...app.session, signed_in: false };
  } else {
    app.error = error.message;
  }
  draw();
}

// The stream: one for each tab, and none while the tab is hidden.

let source = null;

function listen() {
  if (source || document.hidden) return;
  source = new EventSource("/ui/events");
  source.addEventListener("now", (event) => {
    app.live = JSON.parse(event.data);
    app.liveAt = performance.now();
    app.isConnected = true;
    draw();
  });
  source.addEventListener("error", () => {
    app.isConnected = false;
    if (source?.readyState === EventSource.CLOSED) {
      hush();
      get("session").then((session) => (session.signed_in ? setTimeout(listen, 2000) : reload())).catch(() => setTimeout(listen, 3000));
    }
    draw();
  });
}

function hush() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hush();
  else if (app.session?.signed_in) listen();
});

window.addEventListener("hashchange", () => {
  app.error = "";
  draw();
  PAGES[pageName()].enter?.(app);
  document.getElementById("main")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});

// Ages go on between two snapshots.
setInterval(() => { if (app.live?.requests.length && pageName() === "now" && !document.hidden) draw(); }, 1000);

reload().catch(fail);
