// A pane of growing text. Only text nodes are made, whatever the text holds.

import { h } from "./dom.js";
import { room } from "./blocks.js";

export class TextPane {
  constructor(attributes = {}) {
    // Each text decides its own direction, and none reaches out of its block.
    this.element = h("div", { class: "text", dir: "auto", translate: "no", ...attributes });
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    [this.block, this.node, this.held, this.shown, this.part, this.edition] = [null, null, 0, 0, null, 0];
  }

  /** Show a part of a run's output: what is new of it, or all of it if it is another one or text was taken back. */
  show(part) {
    if (part !== this.part || part?.edition !== this.edition) {
      this.clear();
      [this.part, this.edition] = [part, part?.edition ?? 0];
    }
    if (part === null || this.shown === part.pieces.length) return false;
    this.append(part.pieces.slice(this.shown).join(""));
    this.shown = part.pieces.length;
    return true;
  }

  append(text) {
    let rest = text;
    while (rest !== "") {
      if (this.block === null) {
        this.node = document.createTextNode("");
        this.block = h("div", { class: "block", dir: "auto" }, this.node);
        this.element.append(this.block);
        this.held = 0;
      }
      const { take, full } = room(this.held, rest);
      this.node.appendData(rest.slice(0, take));
      this.held += take;
      rest = rest.slice(take);
      if (full) {
        this.block.classList.add("full");
        this.block = null;
      }
    }
  }
}
