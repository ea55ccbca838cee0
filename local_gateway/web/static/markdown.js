// A model's Markdown as DOM nodes. A model writes what it likes, so nothing of it may run, load or send anything:
// HTML of its own is shown as the text it is, an image as its description (its address could carry a conversation
// away), links lead to the web and to mail only. DOMPurify is the second lock, the page's policy the third.

import { Marked } from "./vendor/marked-18.2.1.min.js";

const escape = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const markdown = new Marked({
  async: false,
  breaks: true,
  gfm: true,
  renderer: { html: ({ text }) => escape(text), image: ({ text }) => `<em>${escape(text || "image")}</em>` },
});

const RULES = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "img", "picture", "video", "audio", "source", "iframe"],
  FORBID_ATTR: ["style", "id", "name", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

window.DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A" && node.hasAttribute("href")) {
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
});

export function renderMarkdown(element, text) {
  const fragment = window.DOMPurify.sanitize(markdown.parse(text), RULES);
  for (const block of fragment.querySelectorAll("pre, table")) block.tabIndex = 0;  // what scrolls can be reached by keyboard
  element.replaceChildren(fragment);
}
