// Runs, order, filters and how the heat is drawn.

import { SORTS } from "./arrange.js";
import { COLORMAPS } from "./colormaps.js";
import { fill, h, setOptions } from "./dom.js";

const MANY_RUNS = 6;

export class Toolbar {
  constructor(app) {
    this.app = app;
    const choose = (name) => (event) => app.set({ [name]: event.target.value });
    const list = (name, title) =>
      h("select", { "aria-label": title, title, onchange: choose(name) });
    this.sort = list("sort", "Order");
    this.since = list("since", "Fall since");
    this.by = list("by", "Run that sorts and filters");
    this.label = list("label", "Class");
    this.colors = list("colors", "Colours of the heat");
    const names = Object.keys(COLORMAPS).map((name) => [name, name]);
    setOptions(this.colors, names, app.view.colors);
    this.search = h("input", {
      type: "search",
      placeholder: "Name or label",
      "aria-label": "Name or label",
      oninput: (event) => app.set({ search: event.target.value }),
    });
    this.flags = ["wrong", "outside", "empty", "truth", "found", "classes"].map(
      (name) => {
        const press = () => app.set({ [name]: !app.view[name] });
        return [
          name,
          h("button", { class: "flag", "aria-pressed": "false", onclick: press }),
        ];
      },
    );
    const flag = Object.fromEntries(this.flags);
    flag.wrong.append("first match wrong");
    flag.outside.append("heat outside the box");
    flag.outside.title = "less than half of the heat is on the object";
    flag.empty.append("empty");
    flag.empty.title = "no heat at all";
    flag.truth.append(h("i", { class: "box true" }), "true");
    flag.found.append(h("i", { class: "box found" }), "found");
    flag.classes.append("Classes");
    const range = (name, title, max) =>
      h("input", {
        type: "range",
        min: 0,
        max,
        title,
        "aria-label": title,
        oninput: (event) => app.set({ [name]: Number(event.target.value) }),
      });
    this.heat = range("heat", "Strength of the heat", 100);
    this.size = range("size", "Size of the pictures", 4);
    this.runs = h("div", { class: "runs" });
    this.count = h("span", { class: "count soft", role: "status" });
    this.sinceField = h("label", {}, "since", this.since);
    this.byField = h("label", {}, "of", this.by);
    const help = h("button", {
      class: "help",
      title: "Keys (?)",
      onclick: () => app.help(),
    });
    help.append("?");
    this.element = h(
      "header",
      { class: "toolbar" },
      h(
        "div",
        { class: "row" },
        this.runs,
        h("span", { class: "gap" }),
        h("label", {}, "Heat", this.heat),
        this.colors,
        h("label", {}, "Boxes", flag.truth, flag.found),
        h("label", {}, "Size", this.size),
        flag.classes,
        help,
      ),
      h(
        "div",
        { class: "row" },
        h("label", {}, "Sort", this.sort),
        this.sinceField,
        this.byField,
        h("label", {}, "Show", this.label),
        flag.wrong,
        flag.outside,
        flag.empty,
        this.search,
        this.count,
      ),
    );
  }

  update() {
    const { app } = this;
    const { view } = app;
    const several = app.runs.length > 1;
    const sorts = SORTS.filter(([name]) => several || name !== "difference");
    setOptions(this.sort, sorts, view.sort);
    const steps = app.lead ? app.lead.steps : [];
    const unit = app.lead?.at(app.step)?.unit === "step" ? "step" : "epoch";
    const since = steps.map((step) => [String(step), `${unit} ${step}`]);
    setOptions(this.since, [["", "the update before"], ...since], view.since);
    this.sinceField.hidden = view.sort !== "fall";
    const by = app.runs.map((run) => [run.name, run.title]);
    setOptions(this.by, by, app.lead?.name ?? "");
    this.byField.hidden = !several;
    const labels = app.labels.map(([label, count]) => [label, `${label} (${count})`]);
    setOptions(this.label, [["", "all classes"], ...labels], view.label);
    this.label.parentElement.hidden = !labels.length;
    for (const [name, button] of this.flags) {
      button.setAttribute("aria-pressed", String(view[name]));
    }
    this.colors.value = view.colors;
    if (this.search.value !== view.search) this.search.value = view.search;
    this.heat.value = view.heat;
    this.size.value = view.size;
    const shown = app.names.length.toLocaleString("en");
    const all = app.numNames.toLocaleString("en");
    const measured = app.lead?.examples.num_measured ?? 0;
    const rest =
      measured > app.numNames ? `, of ${measured.toLocaleString("en")} measured` : "";
    this.count.textContent = `${shown === all ? all : `${shown} of ${all}`} examples${rest}`;
    this.updateRuns();
  }

  updateRuns() {
    const { app } = this;
    const key = JSON.stringify([
      app.known.map((run) => run.name),
      app.runs.map((r) => r.name),
    ]);
    if (this.runs.dataset.key === key) return;
    this.runs.dataset.key = key;
    const buttons = app.known.map((run) =>
      h(
        "button",
        {
          class: "run",
          title: run.name,
          "aria-pressed": String(app.runs.includes(run)),
          onclick: () => app.toggleRun(run),
        },
        h("i", { class: "dot", style: `background: ${run.color}` }),
        run.title,
      ),
    );
    if (buttons.length <= MANY_RUNS) {
      fill(this.runs, ...buttons);
      return;
    }
    const open = this.runs.querySelector("details")?.open ?? false;
    const title = `Runs: ${app.runs.length} of ${buttons.length}`;
    const chosen = buttons.filter((x) => x.getAttribute("aria-pressed") === "true");
    fill(
      this.runs,
      h(
        "details",
        { open },
        h("summary", {}, title),
        h("div", { class: "menu" }, ...buttons),
      ),
      ...chosen.map((x) =>
        h("span", { class: "name" }, ...x.cloneNode(true).childNodes),
      ),
    );
  }
}
