// Making elements. Texts become text nodes, always: there is no way from here to markup.

import { curve } from "./rates.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties (`class`, `on` = listeners, attributes) and children (nodes, texts; null is left out). */
export function h(tag, properties = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Change a text only if it is another one: what does not change is not laid out again, nor read out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function toggle(element, attribute, on, value = "") {
  if (on && element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
  else if (!on && element.hasAttribute(attribute)) element.removeAttribute(attribute);
}

/** Make an element's children these, moving as little as possible: focus and scroll stay where they are. */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

/** A small curve, and the area below it. */
export function sparkline(width, height) {
  const line = h("svg:path", {});
  const area = h("svg:path", { class: "area" });
  const svg = h("svg:svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  let drawn = "";
  function draw(values, slots) {
    const path = curve(values, width, height, slots);
    if (path === drawn) return;
    drawn = path;
    line.setAttribute("d", path);
    area.setAttribute("d", path === "" ? "" : `${path}V${height}H${path.slice(1, path.indexOf(" "))}Z`);
  }
  return { svg, draw };
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(label, text, said) {
  const button = h("button", { type: "button", class: "quiet", on: { click: copy } }, label);
  let back = null;
  async function copy() {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
      said("Copied");
    } catch {
      button.textContent = "Not allowed";
    }
    clearTimeout(back);
    back = setTimeout(() => (button.textContent = label), 1500);
  }
  return button;
}
