// The examples as cards. Only those in sight are in the document.

import { change } from "./arrange.js";
import { difference, fill, h, share } from "./dom.js";

const SIZES = [72, 104, 144, 208, 320]; // CSS pixels that a picture wants
const GAP = 10;
const INNER = 4; // between the runs of a card
const CAPTION = 26;

export class Grid {
  constructor(app) {
    this.app = app;
    this.space = h("div", { class: "space" });
    this.element = h("main", { class: "grid", tabindex: "-1" }, this.space);
    this.empty = h("p", { class: "nothing" });
    this.cards = new Map();
    this.names = [];
    // Rows about to come into sight are drawn ahead while one scrolls.
    this.element.addEventListener("scroll", () => this.update(1));
    new ResizeObserver(() => app.invalidate()).observe(this.element);
  }

  show(names) {
    this.names = names;
  }

  measure() {
    const { runs, view } = this.app;
    const inner = this.element.clientWidth - 2 * GAP;
    const wanted = SIZES[view.size] * runs.length + INNER * (runs.length - 1);
    this.columns = Math.max(1, Math.floor((inner + GAP) / (wanted + GAP)));
    const card = (inner - GAP * (this.columns - 1)) / this.columns;
    this.side = Math.floor((card - INNER * (runs.length - 1)) / runs.length);
    this.width = card;
    this.height = this.side + CAPTION + GAP;
  }

  update(rowsBeyond = 0) {
    if (!this.app.runs.length) return;
    this.measure();
    const numRows = Math.ceil(this.names.length / this.columns);
    this.space.style.height = `${numRows * this.height + GAP}px`;
    const top = this.element.scrollTop;
    const first = Math.max(0, Math.floor(top / this.height) - rowsBeyond);
    const last =
      Math.ceil((top + this.element.clientHeight) / this.height) + rowsBeyond;
    const shown = new Set();
    const stop = Math.min(last * this.columns, this.names.length);
    for (let place = first * this.columns; place < stop; place++) {
      const name = this.names[place];
      shown.add(name);
      let card = this.cards.get(name);
      if (card?.pictures.length !== this.app.runs.length) {
        card?.element.remove();
        card = this.makeCard(name);
      }
      const column = place % this.columns;
      const row = Math.floor(place / this.columns);
      const x = GAP + column * (this.width + GAP);
      const y = GAP + row * this.height;
      card.element.style.transform = `translate(${x}px, ${y}px)`;
      card.element.style.width = `${this.width}px`;
      card.element.dataset.place = place;
      this.draw(card);
    }
    for (const [name, card] of this.cards) {
      if (shown.has(name) || card.element === document.activeElement) continue;
      card.element.remove();
      this.cards.delete(name);
    }
    this.say();
  }

  say() {
    const text = this.names.length ? "" : "No example passes the filters.";
    this.empty.textContent = text;
    if (text && !this.empty.isConnected) this.element.append(this.empty);
    if (!text) this.empty.remove();
  }

  makeCard(name) {
    const pictures = this.app.runs.map(() => h("canvas"));
    const label = h("span", { class: "label" });
    const figures = h("span", { class: "figures" });
    const element = h(
      "div",
      {
        class: "card",
        role: "button",
        tabindex: "0",
        onclick: () => this.app.set({ example: name }),
      },
      h("div", { class: "pictures" }, ...pictures.map((x) => h("div", {}, x))),
      h("div", { class: "caption" }, label, figures),
    );
    element.dataset.name = name;
    const card = { name, element, pictures, label, figures };
    this.cards.set(name, card);
    this.space.append(element);
    return card;
  }

  draw(card) {
    const { app } = this;
    const owner = app.runs.find((run) => run.numbers.has(card.name));
    const number = owner.numbers.get(card.name);
    app.runs.forEach((run, i) => {
      const own = run.numbers.get(card.name);
      card.pictures[i].parentElement.style.height = `${this.side}px`;
      card.pictures[i].parentElement.style.width = `${this.side}px`;
      app.painter.paint(card.pictures[i], run, own, this.side, app.view, app.step);
    });
    const label = owner.label(number);
    card.label.textContent = label || card.name;
    const figures = figuresOf(app, card.name);
    fill(card.figures, ...figures.elements);
    card.element.setAttribute("aria-label", `${card.name}, ${label}: ${figures.text}`);
    card.element.title = `${card.name}\n${figures.text}`;
    card.element.classList.toggle("chosen", card.name === app.view.example);
  }

  // Moves the focus by cards: 1 is the next one, `columns` the one below.
  move(cards) {
    const focused = document.activeElement?.closest?.(".card");
    const place = focused ? Number(focused.dataset.place) + cards : 0;
    if (place < 0 || place >= this.names.length) return;
    const y = Math.floor(place / this.columns) * this.height;
    const { scrollTop, clientHeight } = this.element;
    if (y < scrollTop) this.element.scrollTop = y;
    else if (y + this.height + GAP > scrollTop + clientHeight) {
      this.element.scrollTop = y + this.height + GAP - clientHeight;
    }
    this.update();
    this.cards.get(this.names[place])?.element.focus({ preventScroll: true });
  }
}

// The ratios of an example, with what the order is about, as elements and as text.
export function figuresOf(app, name) {
  const elements = [];
  const texts = [];
  const ratios = [];
  for (const run of app.runs) {
    const number = run.numbers.get(name);
    if (number === undefined) continue;
    const ratio = run.ratio(number, app.step);
    ratios.push(ratio);
    const match = run.firstMatch(number, app.step);
    const parts = [`${run.title}: heat on the object ${share(ratio)}`];
    const shown = [];
    const isLead = run === app.lead;
    if (isLead && app.view.sort === "fall") {
      const fall = change(run, number, app.step, app.view.since);
      shown.push(h("span", { class: fall < 0 ? "bad" : "" }, difference(fall)));
      parts.push(`change ${difference(fall)}`);
    }
    if (match?.right === false) {
      const isAsked = isLead && app.view.sort === "similarity";
      const title = `first match wrong: ${run.label(match.number)}`;
      const text = isAsked ? `✗ ${share(match.similarity)}` : "✗";
      shown.push(h("span", { class: "bad", title }, text));
      parts.push(`${title} (${share(match.similarity)})`);
    }
    if (run.at(app.step)?.empty[number]) {
      shown.push(h("span", { class: "soft" }, "empty"));
      parts.push("no heat");
    } else if (app.hasRatios) {
      const style = app.runs.length > 1 ? `color: ${run.color}` : "";
      shown.push(h("b", { style }, share(ratio)));
    }
    elements.push(h("span", { class: "figure" }, ...shown));
    texts.push(parts.join(", "));
  }
  if (ratios.length === 2 && app.hasRatios) {
    const text = difference(ratios[1] - ratios[0]);
    elements.push(h("span", { class: "soft delta", title: "difference" }, text));
    texts.push(`difference ${text}`);
  }
  return { elements, text: texts.join("\n") };
}
