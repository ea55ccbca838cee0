// Pieces that several pages show.

import { html, nothing, svg } from "./vendor/lit-html-3.3.3.min.js";

export const tile = (label, value, unit = "") => html`
  <div class="tile"><dt>${label}</dt><dd>${value}${unit ? html` <small>${unit}</small>` : nothing}</dd></div>`;

export const pill = (kind, text, beats = false) => html`<span class="pill ${kind} ${beats ? "beats" : ""}">${text}</span>`;

export const segments = (label, options, chosen, choose) => html`
  <div class="segments" role="group" aria-label=${label}>
    ${options.map(([value, text]) => html`
      <button type="button" aria-pressed=${value === chosen} @click=${() => choose(value)}>${text}</button>`)}
  </div>`;

// A command that can be copied.
export const command = (text) => html`
  <div class="command"><pre>${text}</pre>${copyButton(text)}</div>`;

export const copyButton = (text) => html`
  <button type="button" class="small" @click=${(event) => copy(text, event.currentTarget)}>Copy</button>`;

async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1600);
}

const ICONS = {
  now: svg`<path d="M3 12h4l3-8 4 16 3-8h4"/>`,
  targets: svg`<rect x="3" y="4" width="18" height="6" rx="2"/><rect x="3" y="14" width="18" height="6" rx="2"/><path d="M7 7h.01M7 17h.01"/>`,
  usage: svg`<path d="M4 20V10M10 20V4M16 20v-7M22 20H2"/>`,
  playground: svg`<path d="M21 12a8 8 0 0 1-8 8H4l2-3a8 8 0 1 1 15-5Z"/>`,
  keys: svg`<circle cx="8" cy="15" r="4"/><path d="m11 12 9-9M16 7l3 3"/>`,
};
export const icon = (name) => html`<svg viewBox="0 0 24 24" aria-hidden="true">${ICONS[name]}</svg>`;
