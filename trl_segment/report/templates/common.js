"use strict";

// Everything that comes from a trace or a store reaches a page as a text node.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Control characters and those that reorder text are written out, so that nobody reads another text than is trained.
const HIDDEN = new RegExp(
  "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f" +
    "\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\ud800-\\udfff]",
  "u",
);

function appendText(parent, text) {
  let plain = "";
  const flush = () => {
    if (plain) parent.append(plain);
    plain = "";
  };
  if (!HIDDEN.test(text)) {
    parent.append(text);
    return;
  }
  for (const character of text) {
    if (HIDDEN.test(character)) {
      flush();
      const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parent.append(make("span", { className: "control", textContent: `U+${code}` }));
    } else {
      plain += character;
    }
  }
  flush();
}

const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
const integer = (value) => value.toLocaleString("en-US");
const decimal = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const short = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString().replace("-", "−"));

// What a word means appears where the pointer or the focus is, and goes with them or with Escape
function connectDefinitions() {
  const shown = byId("definition");
  let term = null;
  let leaving = null;
  const place = () => {
    const box = term.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = shown;
    const below = box.bottom + height + 8 < innerHeight || box.top < height + 8;
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
    Object.assign(shown.style, { left: `${left}px`, top: `${below ? box.bottom + 4 : box.top - height - 4}px` });
  };
  const show = (element) => {
    clearTimeout(leaving);
    term = element;
    shown.textContent = byId(`definition-${term.dataset.term}`).textContent;
    shown.hidden = false;
    place();
  };
  const hide = () => {
    clearTimeout(leaving);
    term = null;
    shown.hidden = true;
  };
  const termOf = (target) => (target instanceof Element ? target.closest("[data-term]") : null);
  document.addEventListener("pointerover", (event) => {
    const pointed = termOf(event.target);
    if (pointed) show(pointed);
    else if (shown.contains(event.target)) clearTimeout(leaving);
    else if (term && term !== document.activeElement) {
      clearTimeout(leaving);
      leaving = setTimeout(hide, 150); // time to reach the definition itself
    }
  });
  document.addEventListener("focusin", (event) => {
    const focused = termOf(event.target);
    if (focused) show(focused);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", () => term && place(), { capture: true, passive: true });
}

// An element that has a definition
function define(element, term) {
  element.dataset.term = term;
  element.setAttribute("aria-describedby", `definition-${term}`);
  return element;
}

function connectTheme() {
  const themes = ["system", "light", "dark"];
  const set = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    byId("theme-name").textContent = theme;
    for (const source of document.querySelectorAll("source[data-dark]")) {
      source.media = { system: "(prefers-color-scheme: dark)", light: "not all", dark: "all" }[theme];
    }
  };
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    set(next);
    // The next page of the report opens in the same one, where the browser lets pages of files remember anything
    try {
      sessionStorage.setItem("trl-segment-theme", next);
    } catch {}
  });
  try {
    const kept = sessionStorage.getItem("trl-segment-theme");
    if (themes.includes(kept)) set(kept);
  } catch {}
}
