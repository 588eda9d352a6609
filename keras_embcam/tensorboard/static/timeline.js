// One slider over all updates, the curves of the runs above it, and a play button.

import { fill, h, share } from "./dom.js";

const CURVES = [
  ["mean_ratio", "heat on the object", ""],
  ["uniform_ratio", "if spread evenly", "1 4"],
  ["recall_at_1", "Recall@1", "6 4"],
];
const HEIGHT = 64;
const THUMB = 8; // half of the slider's thumb, in CSS pixels
const PAUSE = 400; // milliseconds between the steps while it plays

export class Timeline {
  constructor(app) {
    this.app = app;
    this.timer = null;
    this.playButton = h("button", {
      class: "play",
      onclick: () => this.toggle(),
    });
    this.label = h("output", { class: "step" });
    this.plot = h("svg", { class: "curves", "aria-hidden": "true" });
    this.slider = h("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "Epoch",
      oninput: () => app.goTo(Number(this.slider.value)),
    });
    this.legend = h("table", { class: "legend" });
    this.element = h(
      "section",
      { class: "timeline", "aria-label": "Epochs" },
      h("div", { class: "control" }, this.playButton, this.label),
      h("div", { class: "track" }, this.plot, this.slider),
      this.legend,
    );
    this.plot.addEventListener("pointerdown", (event) => this.jump(event));
    this.plot.addEventListener("pointermove", (event) => {
      if (event.buttons) this.jump(event);
    });
    new ResizeObserver(() => this.drawCurves()).observe(this.plot);
    this.showPlaying();
  }

  jump(event) {
    const box = this.plot.getBoundingClientRect();
    const at = (event.clientX - box.left - THUMB) / (box.width - 2 * THUMB);
    const last = this.app.steps.length - 1;
    this.app.goTo(Math.min(Math.max(Math.round(at * last), 0), last));
  }

  toggle() {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      if (this.app.place === this.app.steps.length - 1) this.app.goTo(0);
      this.timer = setInterval(() => {
        if (this.app.place < this.app.steps.length - 1)
          this.app.goTo(this.app.place + 1);
        else this.toggle();
      }, PAUSE);
    }
    this.showPlaying();
  }

  showPlaying() {
    const path = this.timer ? "M5 3h4v14H5zM11 3h4v14h-4z" : "M5 2.5v15l12-7.5z";
    fill(this.playButton, h("svg", { viewBox: "0 0 20 20" }, h("path", { d: path })));
    this.playButton.title = this.timer ? "Pause (space)" : "Play (space)";
    this.playButton.setAttribute("aria-label", this.timer ? "Pause" : "Play");
  }

  update() {
    const { app } = this;
    const last = app.steps.length - 1;
    this.slider.max = Math.max(last, 0);
    this.slider.value = app.place;
    this.slider.disabled = last < 1;
    const unit = app.lead?.at(app.step)?.unit === "step" ? "Step" : "Epoch";
    fill(this.label, h("small", {}, unit), h("b", {}, String(app.step ?? "–")));
    this.slider.setAttribute("aria-label", unit);
    this.slider.setAttribute("aria-valuetext", `${unit} ${app.step}`);
    this.drawCurves();
    this.drawLegend();
  }

  drawLegend() {
    const { app } = this;
    const sample = (dashes) =>
      h(
        "svg",
        { viewBox: "0 0 22 6", class: "sample" },
        h("line", { x1: 0, x2: 22, y1: 3, y2: 3, "stroke-dasharray": dashes }),
      );
    const heads = CURVES.map(([, title, dashes]) => h("th", {}, sample(dashes), title));
    const rows = app.runs.map((run) =>
      h(
        "tr",
        {},
        h(
          "td",
          { class: "name", title: run.name },
          h("i", { class: "dot", style: `background: ${run.color}` }),
          run.title,
        ),
        ...CURVES.map(([name]) => h("td", {}, share(run.mean(name, app.step)))),
      ),
    );
    fill(this.legend, h("tr", {}, h("th"), ...heads), ...rows);
  }

  drawCurves() {
    const { app } = this;
    const width = this.plot.clientWidth;
    const last = app.steps.length - 1;
    if (!width || last < 0) return;
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const x = (place) => THUMB + ((width - 2 * THUMB) * place) / Math.max(last, 1);
    const y = (value) => 3 + (HEIGHT - 6) * (1 - value);
    const lines = [0, 0.5, 1].map((value) =>
      h("line", {
        class: "rule",
        x1: THUMB,
        x2: width - THUMB,
        y1: y(value),
        y2: y(value),
      }),
    );
    const at = x(app.place);
    lines.push(h("line", { class: "now", x1: at, x2: at, y1: 0, y2: HEIGHT }));
    for (const run of app.runs) {
      for (const [name, , dashes] of CURVES) {
        const points = [];
        const steps = app.steps.map((step, place) => [step, place]);
        for (const [step, place] of steps.filter(([step]) => run.figures.has(step))) {
          const value = run.mean(name, step);
          if (Number.isFinite(value)) points.push([x(place), y(value)]);
        }
        const style = `stroke: ${run.color}`;
        const text = points
          .map((point) => point.map((v) => v.toFixed(1)).join())
          .join(" ");
        lines.push(h("polyline", { points: text, style, "stroke-dasharray": dashes }));
        const here = run.mean(name, app.step);
        if (Number.isFinite(here)) {
          lines.push(
            h("circle", { cx: at, cy: y(here), r: 3, style: `fill: ${run.color}` }),
          );
        }
      }
    }
    fill(this.plot, ...lines);
  }
}
