// Draws an example on a canvas: picture, heat, outlines and boxes.

import { COLORMAPS } from "./colormaps.js";
import { blend } from "./heat.js";

const MAX_KEPT = 1500; // pictures at the size at which they were drawn last
const TRUE_COLOR = "#00ff00";
const FOUND_COLOR = "#ffffff";

// A canvas that is `side` CSS pixels wide or high, the other one as the picture is.
function fit(canvas, picture, side) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const factor = (side * ratio) / Math.max(picture.width, picture.height);
  const width = Math.max(1, Math.round(picture.width * factor));
  const height = Math.max(1, Math.round(picture.height * factor));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  canvas.style.width = `${width / ratio}px`;
  canvas.style.height = `${height / ratio}px`;
}

export class Painter {
  constructor() {
    this.kept = new Map();
    this.isWaiting = false; // whether something had not arrived when it was painted
  }

  // The picture's pixels at the canvas's size.
  pixels(canvas, context, run, number, picture) {
    const key = `${run.name}/${number}/${canvas.width}x${canvas.height}`;
    let base = this.kept.get(key);
    if (base) this.kept.delete(key);
    else {
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      base = context.getImageData(0, 0, canvas.width, canvas.height);
    }
    this.kept.set(key, base); // the one that was used last stands at the end
    if (this.kept.size > MAX_KEPT) this.kept.delete(this.kept.keys().next().value);
    return base;
  }

  // Draws the example `number` of a run. `heat` is {height, width, data}, from `start`.
  paint(canvas, run, number, side, view, step, heat = undefined) {
    const picture = number === undefined ? null : run.picture(number);
    if (!picture) {
      this.isWaiting ||= number !== undefined;
      canvas.width = canvas.height = 1;
      canvas.style.width = canvas.style.height = `${side}px`;
      return;
    }
    fit(canvas, picture, side);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const base = this.pixels(canvas, context, run, number, picture);
    const maps = heat ?? run.mapsAt(step);
    this.isWaiting ||= !maps;
    if (maps && view.heat > 0) {
      const size = maps.height * maps.width;
      const map = heat
        ? maps.data
        : maps.data.subarray(number * size, (number + 1) * size);
      const out = context.createImageData(canvas.width, canvas.height);
      const colors = COLORMAPS[view.colors] ?? COLORMAPS.turbo;
      blend(base, out, map, maps.height, maps.width, view.heat / 100, colors);
      context.putImageData(out, 0, 0);
    } else context.putImageData(base, 0, 0);
    if (view.truth) {
      for (const box of run.examples.boxes[number]) frame(context, box, TRUE_COLOR, 2);
      for (const line of run.examples.outlines[number]) trace(context, line);
    }
    const found = view.found && !heat && run.at(step)?.found;
    if (found && Number.isFinite(found[4 * number])) {
      const box = found.subarray(4 * number, 4 * number + 4);
      frame(context, box, FOUND_COLOR, 1);
    }
  }
}

// A box of shares, its line inside, with a shade that shows it on any ground.
function frame(context, [x1, y1, x2, y2], color, thickness) {
  const { width, height } = context.canvas;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const line = thickness * ratio;
  const left = Math.round(x1 * width);
  const top = Math.round(y1 * height);
  const right = Math.round(x2 * width);
  const bottom = Math.round(y2 * height);
  const draw = (inset, lineWidth, style) => {
    context.lineWidth = lineWidth;
    context.strokeStyle = style;
    context.strokeRect(
      left + inset,
      top + inset,
      Math.max(right - left - 2 * inset, 0),
      Math.max(bottom - top - 2 * inset, 0),
    );
  };
  draw(line + ratio / 2, ratio, "rgb(0 0 0 / 45%)");
  draw(line / 2, line, color);
}

function trace(context, points) {
  const { width, height } = context.canvas;
  context.beginPath();
  for (let i = 0; i < points.length; i += 2) {
    context.lineTo(points[i] * width, points[i + 1] * height);
  }
  context.closePath();
  context.lineWidth = Math.min(window.devicePixelRatio || 1, 2);
  context.strokeStyle = TRUE_COLOR;
  context.stroke();
}
