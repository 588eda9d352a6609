// A table of the classes: number, mean ratio, Recall@1 and the three worst.

import { fill, h, share } from "./dom.js";

const SIDE = 40;
const NUM_WORST = 3;

export class Classes {
  constructor(app) {
    this.app = app;
    this.order = "ratio";
    this.head = h("tr");
    this.body = h("tbody");
    this.element = h(
      "aside",
      { class: "classes", "aria-label": "Classes" },
      h("table", {}, h("thead", {}, this.head), this.body),
    );
    this.rows = new Map();
    // Pictures are drawn for the rows in sight only.
    this.watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) entry.target.inSight = entry.isIntersecting;
        this.paint();
      },
      { root: this.element },
    );
  }

  sortBy(order) {
    this.order = order;
    this.app.invalidate();
  }

  update() {
    const { app } = this;
    this.element.hidden = !app.view.classes;
    if (this.element.hidden) return;
    const column = (order, text, style = "") =>
      h(
        "th",
        { scope: "col", "aria-sort": this.order === order ? "ascending" : null },
        h("button", { style, onclick: () => this.sortBy(order) }, text),
      );
    const several = app.runs.length > 1;
    const columns = app.runs.flatMap((run, i) => {
      const style = several ? `color: ${run.color}` : "";
      const kept = run === app.lead ? "" : i;
      return [
        column(`ratio${kept}`, "heat", style),
        column(`recall${kept}`, "R@1", style),
      ];
    });
    fill(
      this.head,
      column("label", "class"),
      column("count", "n"),
      ...columns,
      h("th", { scope: "col" }, "worst"),
    );
    const figures = app.classes().map((row) => ({ ...row, means: this.measure(row) }));
    fill(
      this.body,
      ...figures.sort((a, b) => this.compare(a, b)).map((x) => this.draw(x)),
    );
    this.paint();
  }

  measure({ names }) {
    return this.app.runs.map((run) => {
      const numbers = names.map((name) => run.numbers.get(name));
      return run.summarize(
        numbers.filter((x) => x !== undefined),
        this.app.step,
      );
    });
  }

  compare(a, b) {
    if (this.order === "label") {
      return a.label.localeCompare(b.label, undefined, { numeric: true });
    }
    if (this.order === "count") return b.names.length - a.names.length;
    const [, kind, place] = this.order.match(/^(ratio|recall)(\d*)$/);
    const run = place === "" ? this.app.runs.indexOf(this.app.lead) : Number(place);
    const key = kind === "ratio" ? "mean_ratio" : "recall_at_1";
    const value = (row) => row.means[run]?.[key] ?? NaN;
    const [first, second] = [value(a), value(b)];
    if (Number.isNaN(first) || Number.isNaN(second)) {
      return Number.isNaN(first) - Number.isNaN(second);
    }
    return first - second;
  }

  draw({ label, names, means }) {
    const { app } = this;
    let row = this.rows.get(label);
    if (!row) {
      const press = () => app.set({ label: app.view.label === label ? "" : label });
      row = {
        element: h("tr"),
        name: h(
          "button",
          { class: "link", title: "Show this class", onclick: press },
          label,
        ),
        pictures: Array.from({ length: NUM_WORST }, () => h("canvas")),
      };
      row.element.row = row;
      this.rows.set(label, row);
      this.watcher.observe(row.element);
    }
    row.worst = names
      .map((name) => [name, app.lead.ratio(app.lead.numbers.get(name), app.step)])
      .filter(([, ratio]) => Number.isFinite(ratio))
      .sort((a, b) => a[1] - b[1])
      .slice(0, NUM_WORST);
    const pictures = row.worst.map(([name, ratio], i) =>
      h(
        "button",
        {
          class: "worst",
          title: `${name}: ${share(ratio)}`,
          onclick: () => app.set({ example: name }),
        },
        row.pictures[i],
      ),
    );
    row.element.classList.toggle("chosen", app.view.label === label);
    fill(
      row.element,
      h("th", { scope: "row" }, row.name),
      h("td", {}, String(names.length)),
      ...means.flatMap((x) => [
        h("td", {}, share(x.mean_ratio)),
        h("td", {}, share(x.recall_at_1)),
      ]),
      h("td", {}, h("div", { class: "pictures" }, ...pictures)),
    );
    return row.element;
  }

  paint() {
    const { app } = this;
    if (this.element.hidden || !app.lead) return;
    const view = { ...app.view, truth: false, found: false };
    for (const { inSight, row } of this.body.children) {
      if (!inSight) continue;
      row.worst.forEach(([name], i) => {
        const number = app.lead.numbers.get(name);
        app.painter.paint(row.pictures[i], app.lead, number, SIDE, view, app.step);
      });
    }
  }
}
