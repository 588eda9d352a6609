// Puts the parts together: what is known, what is chosen, what is drawn.

import { arrange, unite } from "./arrange.js";
import { Classes } from "./classes.js";
import { Detail } from "./detail.js";
import { fill, h } from "./dom.js";
import { Grid } from "./grid.js";
import { showHelp, showHint, watchKeys } from "./help.js";
import { Painter } from "./painter.js";
import { Run } from "./runs.js";
import { Timeline } from "./timeline.js";
import { Toolbar } from "./toolbar.js";
import { DEFAULTS, decode, encode } from "./view.js";

const NUM_COLORS = 6; // --run-0 .. in style.css
const NUM_AT_FIRST = 2;
const ADDRESS_PAUSE = 250; // milliseconds; browsers limit how often it may change

export class App {
  constructor(source, host, note = "") {
    this.source = source;
    this.host = host;
    this.view = decode(host.readAddress());
    this.known = []; // runs that have examples
    this.runs = []; // those that are shown
    this.steps = [];
    this.names = [];
    this.labels = [];
    this.numNames = 0;
    this.place = 0;
    this.troubles = new Set();
    this.painter = new Painter();
    this.toolbar = new Toolbar(this);
    this.timeline = new Timeline(this);
    this.grid = new Grid(this);
    this.detail = new Detail(this);
    this.table = new Classes(this);
    this.message = h("div", { class: "message", role: "alert", hidden: true });
    this.element = h(
      "div",
      { class: "app", "aria-busy": "true" },
      this.toolbar.element,
      this.timeline.element,
      this.message,
      note ? h("div", { class: "note" }, note) : null,
      h(
        "div",
        { class: "content" },
        this.grid.element,
        this.table.element,
        this.detail.element,
      ),
    );
    host.onAddress(() => {
      if (host.readAddress() === encode(this.view)) return;
      this.view = decode(host.readAddress());
      this.chooseRuns();
    });
    host.onReload(() => this.load());
    watchKeys(this);
  }

  // Reads what there is, at the start and whenever TensorBoard has read the logs again.
  async load() {
    if (this.loading) return this.loading;
    this.loading = this.readRuns()
      .catch((error) => this.complain(error.message))
      .finally(() => (this.loading = null));
    return this.loading;
  }

  async readRuns() {
    this.listed = await this.source.list();
    const names = Object.keys(this.listed).filter(
      (name) => this.listed[name].examples.length,
    );
    this.known = names.map(
      (name) =>
        this.known.find((run) => run.name === name) ??
        new Run(
          name,
          this.source,
          () => this.invalidate(true),
          (x) => this.complain(x),
        ),
    );
    const titles = shorten(names);
    this.known.forEach((run, i) => {
      run.title = titles[i];
      run.color = `var(--run-${i % NUM_COLORS})`;
    });
    document.documentElement.classList.toggle("without-data", !names.length);
    showHint(this.element, !names.length);
    await this.chooseRuns();
  }

  async chooseRuns() {
    const wanted =
      this.view.runs ?? this.known.slice(0, NUM_AT_FIRST).map((run) => run.name);
    const chosen = this.known.filter((run) => wanted.includes(run.name));
    await Promise.all(chosen.map((run) => run.update(this.listed[run.name])));
    this.runs = chosen.filter((run) => run.examples);
    this.invalidate(true);
    for (const run of this.runs) run.readAhead(() => this.runs.includes(run));
  }

  toggleRun(run) {
    const names = this.runs.map((own) => own.name);
    const kept = names.includes(run.name)
      ? names.filter((name) => name !== run.name)
      : [...names, run.name];
    if (!kept.length) return;
    this.set({
      runs: this.known.map((own) => own.name).filter((name) => kept.includes(name)),
    });
    this.chooseRuns();
  }

  set(values) {
    Object.assign(this.view, values);
    clearTimeout(this.addressTimer);
    const write = () => this.host.writeAddress(encode(this.view));
    this.addressTimer = setTimeout(write, ADDRESS_PAUSE);
    if ("example" in values && values.example) this.detail.element.scrollTop = 0;
    const order = [
      "sort",
      "label",
      "wrong",
      "outside",
      "empty",
      "search",
      "by",
      "since",
    ];
    if (order.some((name) => name in values)) this.grid.element.scrollTop = 0;
    this.invalidate(true);
  }

  // To the update at a place of the slider; the last one follows a growing log.
  goTo(place) {
    const last = place >= this.steps.length - 1;
    this.set({ step: last ? null : this.steps[Math.max(place, 0)] });
  }

  // Draws at the next frame; all that was asked for until then at once.
  invalidate(everything = false) {
    this.everything ||= everything;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const all = this.everything;
      this.everything = false;
      this.draw(all);
    });
  }

  draw(everything) {
    if (!this.runs.length) return;
    if (everything) this.derive();
    this.painter.isWaiting = false;
    this.toolbar.update();
    this.timeline.update();
    this.detail.update();
    this.element.classList.toggle("with-detail", Boolean(this.view.example));
    if (!this.view.example) this.grid.update();
    this.table.update();
    this.element.setAttribute("aria-busy", this.painter.isWaiting);
  }

  derive() {
    const { view } = this;
    this.lead = this.runs.find((run) => run.name === view.by) ?? this.runs[0];
    const steps = new Set(this.runs.flatMap((run) => run.steps));
    this.steps = [...steps].sort((a, b) => a - b);
    const last = this.steps.length - 1;
    const before = this.steps.findLastIndex((step) => step <= view.step);
    this.place = view.step === null ? Math.max(last, 0) : Math.max(before, 0);
    this.step = this.steps[this.place];
    this.hasRatios = this.runs.some((run) =>
      run.at(this.step)?.ratios.some(Number.isFinite),
    );
    this.numNames = unite(this.runs).length;
    const counts = new Map();
    for (const label of this.lead.examples.labels ?? []) {
      counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    const collator = new Intl.Collator(undefined, { numeric: true });
    this.labels = [...counts].sort((a, b) => collator.compare(a[0], b[0]));
    this.names = arrange(this.lead, this.runs, view, this.step);
    this.grid.show(this.names);
  }

  // [{label, names}] of the run that leads.
  classes() {
    const { names, labels } = this.lead.examples;
    const groups = new Map();
    names.forEach((name, i) => {
      const label = labels?.[i] ?? "";
      groups.set(label, [...(groups.get(label) ?? []), name]);
    });
    return [...groups].map(([label, own]) => ({ label, names: own }));
  }

  complain(text) {
    this.troubles.add(text);
    const shown = [...this.troubles].slice(-3);
    const more = this.troubles.size - shown.length;
    const lines = shown.map((trouble) => h("p", {}, trouble));
    fill(this.message, ...lines, more ? h("p", {}, `and ${more} more`) : null);
    this.message.hidden = false;
  }

  help() {
    showHelp(this.element);
  }

  reset() {
    const { runs, step } = this.view;
    this.set({ ...DEFAULTS, runs, step });
  }
}

// Names without the folders that all of them share at either end.
function shorten(names) {
  if (names.length < 2)
    return names.map((name) => name.replace(/\/?validation$/, "") || name);
  const parts = names.map((name) => name.split("/"));
  const shortest = Math.min(...parts.map((x) => x.length));
  const same = (get) => parts.every((x) => get(x) === get(parts[0]));
  let start = 0;
  while (start < shortest - 1 && same((x) => x[start])) start++;
  let end = 0;
  while (end < shortest - 1 - start && same((x) => x.at(-1 - end))) end++;
  return parts.map((x) => x.slice(start, x.length - end).join("/"));
}
