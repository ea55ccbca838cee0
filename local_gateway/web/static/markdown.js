// A model's Markdown as DOM nodes. A model writes what it likes, so nothing of it may run, load or send anything:
// no HTML of its own, no images (their addresses can carry a conversation away), links to the web and mail only.

import { marked } from "./vendor/marked-18.2.1.min.js";

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
  const fragment = window.DOMPurify.sanitize(marked.parse(text, { async: false, breaks: true, gfm: true }), RULES);
  for (const block of fragment.querySelectorAll("pre, table")) block.tabIndex = 0;  // what scrolls can be reached by keyboard
  element.replaceChildren(fragment);
}
