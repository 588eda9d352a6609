// One example: large, over all updates, with its matches.

import { change } from "./arrange.js";
import { difference, fill, h, share } from "./dom.js";

const SMALL = 76; // CSS pixels
const WIDE = 1600; // a window from which on the other pictures are larger

export class Detail {
  constructor(app) {
    this.app = app;
    this.title = h("h2");
    this.body = h("div", { class: "detail-body" });
    const button = (text, title, action, name = "") =>
      h("button", { title, class: name, "aria-label": title, onclick: action }, text);
    this.copy = button("Copy link", "Copy a link to this view", () => this.copyLink());
    this.element = h(
      "aside",
      { class: "detail", role: "dialog", "aria-label": "Example", tabindex: "-1" },
      h(
        "div",
        { class: "detail-head" },
        button("← All examples", "Back to all examples (Esc)", () =>
          app.set({ example: "" }),
        ),
        this.title,
        h("span", { class: "gap" }),
        this.copy,
        button("↑", "Example before (↑)", () => this.move(-1)),
        button("↓", "Next example (↓)", () => this.move(1)),
      ),
      this.body,
    );
    this.key = "";
    this.paints = [];
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(this.app.host.address);
      this.copy.textContent = "Copied";
    } catch {
      this.copy.textContent = "The address above is the link";
    }
    setTimeout(() => (this.copy.textContent = "Copy link"), 2000);
  }

  // To the example before or behind in the order of the grid.
  move(places) {
    const { names, view } = this.app;
    const place = names.indexOf(view.example) + places;
    if (place >= 0 && place < names.length) this.app.set({ example: names[place] });
  }

  update() {
    const { app } = this;
    const isWide = window.innerWidth >= WIDE;
    this.large = isWide ? 380 : 240;
    this.match = isWide ? 168 : 112;
    const name = app.view.example;
    const runs = app.runs.filter((run) => run.numbers.has(name));
    this.element.hidden = !name;
    if (!name) return;
    this.title.textContent = /^\d+$/.test(name) ? `example ${name}` : name;
    const at = this.body.querySelector(".strip")?.scrollLeft ?? 0;
    this.paints = [];
    fill(this.body, ...runs.map((run) => this.drawRun(run, run.numbers.get(name))));
    if (!runs.length) this.body.append("No chosen run has this example.");
    this.paints.forEach((paint) => paint());
    for (const strip of this.body.querySelectorAll(".strip")) strip.scrollLeft = at;
    if (this.key !== `${name} ${app.step}`) {
      this.key = `${name} ${app.step}`;
      this.body.querySelectorAll(".strip").forEach(showNow);
    }
  }

  // A canvas that is painted once it stands in the document.
  picture(run, number, side, step, heat = undefined, options = {}) {
    const canvas = h("canvas");
    const view = { ...this.app.view, ...options };
    this.paints.push(() =>
      this.app.painter.paint(canvas, run, number, side, view, step, heat),
    );
    const style = `width: ${side}px; height: ${side}px`;
    return h("div", { class: "picture", style }, canvas);
  }

  drawRun(run, number) {
    const { app } = this;
    const ratio = run.ratio(number, app.step);
    const label = run.label(number);
    const facts = [
      [
        "label",
        label
          ? h(
              "button",
              {
                class: "link",
                title: "Show this class",
                onclick: () => app.set({ label, example: "" }),
              },
              label,
            )
          : "–",
      ],
      ["heat on the object", share(ratio)],
      ["since the update before", difference(change(run, number, app.step, ""))],
    ];
    if (run.at(app.step)?.empty[number]) facts.push(["heat", "none at all"]);
    const match = run.firstMatch(number, app.step);
    if (match && match.right !== null) {
      facts.push([
        "first match",
        h(
          "span",
          { class: match.right ? "good" : "bad" },
          match.right ? "right" : "wrong",
        ),
      ]);
    }
    const rows = facts.flatMap(([key, value]) => [
      h("dt", {}, key),
      h("dd", {}, value),
    ]);
    return h(
      "section",
      { class: "detail-run" },
      h(
        "h3",
        {},
        h("i", { class: "dot", style: `background: ${run.color}` }),
        run.title,
      ),
      h(
        "div",
        { class: "detail-top" },
        this.picture(run, number, this.large, app.step),
        h("dl", {}, ...rows),
        this.drawMatches(run, number),
      ),
      this.drawStrip(run, number),
    );
  }

  drawStrip(run, number) {
    const { app } = this;
    const now = run.steps.findLast((step) => step <= app.step);
    const cells = run.steps.map((step) =>
      h(
        "button",
        {
          class: "cell",
          "aria-current": step === now ? "step" : null,
          title: `${step}: heat on the object ${share(run.ratio(number, step))}`,
          onclick: () => app.goTo(app.steps.indexOf(step)),
        },
        this.picture(run, number, SMALL, step, undefined, {
          found: false,
          truth: false,
        }),
        h("span", {}, String(step)),
        h("span", { class: "soft" }, share(run.ratio(number, step))),
      ),
    );
    return h(
      "div",
      { class: "strip", role: "group", "aria-label": "All epochs" },
      ...cells,
    );
  }

  drawMatches(run, number) {
    const { app } = this;
    const matches = run.matches(number, app.step);
    if (!matches.length) return null;
    const cells = matches.map((match) => {
      const judged = match.right === null ? "" : match.right ? "right" : "wrong";
      const name = run.examples.names[match.number];
      return h(
        "button",
        {
          class: `match ${judged}`,
          style: `width: ${this.match + 6}px`, // with the frame
          title: name,
          onclick: () => app.set({ example: name }),
        },
        this.picture(run, match.number, this.match, app.step, undefined, {
          found: false,
        }),
        h("span", { class: "label" }, run.label(match.number) || name),
        h("span", { class: "soft" }, share(match.similarity)),
      );
    });
    const blocks = [
      h("h4", {}, "Nearest examples"),
      h("div", { class: "matches" }, ...cells),
    ];
    const pairs = matches[0].right === false ? run.pairsAt(app.step) : null;
    const pair = pairs?.get(number);
    if (pair) {
      const options = { found: false, truth: false };
      const heat = (i) => ({ ...pair, data: pair.maps[i] });
      blocks.push(
        h("h4", {}, "Heat of the pair: what made it the first match"),
        h(
          "div",
          { class: "matches pair" },
          this.picture(run, number, this.match, app.step, heat(0), options),
          h("span", { class: "soft" }, `${share(matches[0].similarity)}`),
          this.picture(run, matches[0].number, this.match, app.step, heat(1), options),
        ),
      );
    } else if (pairs?.size) {
      const rule = "Heat of the pair is logged for the most similar wrong matches only.";
      blocks.push(h("p", { class: "soft" }, rule));
    }
    return h("div", { class: "neighbors" }, ...blocks);
  }
}

function showNow(strip) {
  const cell = strip.querySelector("[aria-current]");
  if (!cell) return;
  const left = cell.offsetLeft - strip.offsetLeft;
  strip.scrollLeft = left - strip.clientWidth / 2 + cell.clientWidth / 2;
}
