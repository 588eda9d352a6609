// Runs: what was read of them so far, and what can be asked of it.

import {
  EXAMPLES,
  UPDATES,
  readExamples,
  readFigures,
  readMaps,
  readPairs,
  unpack,
} from "./format.js";

const STEPS_AT_ONCE = 64;
const BYTES_AT_ONCE = 2e6;

// Returns the last of the rising steps that is not above a step, else null.
function lastUpTo(steps, step) {
  let low = 0;
  for (let high = steps.length; low < high;) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low ? steps[low - 1] : null;
}

export class Run {
  // changed() is called when something has arrived; complain(text) when it cannot be read.
  constructor(name, source, changed, complain) {
    this.name = name;
    this.source = source;
    this.changed = changed;
    this.complain = (error) => complain(`${name}: ${error.message}`);
    this.examples = null;
    this.steps = [];
    this.figures = new Map();
    this.maps = new Map();
    this.pairs = new Map();
    this.pictures = [];
    this.asked = new Set();
    this.known = [];
  }

  // Reads what is new. `listed` is what the source lists for this run.
  async update(listed) {
    try {
      if (!this.examples && listed.examples.length) await this.readTable(listed);
      if (!this.examples) return;
      const steps = listed.updates.map(([step]) => step);
      const added = steps.filter((step) => !this.known.includes(step));
      this.known.push(...added);
      for (let i = 0; i < added.length; i += STEPS_AT_ONCE) {
        await this.readSteps(added.slice(i, i + STEPS_AT_ONCE));
      }
    } catch (error) {
      this.complain(error);
    }
  }

  async readTable(listed) {
    const steps = [listed.examples.at(-1)];
    const [[, blob]] = await this.source.read(this.name, EXAMPLES, "examples", steps);
    this.examples = readExamples(blob);
    this.numbers = new Map(this.examples.names.map((name, i) => [name, i]));
    this.source
      .read(this.name, EXAMPLES, "thumbnails", steps)
      .then(([[, files]]) => {
        const { ends, bytes } = unpack(files).arrays;
        this.files = { ends: ends.data, bytes: bytes.data };
        this.changed();
      })
      .catch(this.complain);
  }

  async readSteps(steps) {
    for (const [step, blob] of await this.source.read(
      this.name,
      UPDATES,
      "figures",
      steps,
    )) {
      try {
        const figures = readFigures(blob);
        if (figures.key !== this.examples.key) continue; // of other examples, before
        this.figures.set(step, figures);
      } catch (error) {
        this.complain(new Error(`update ${step}: ${error.message}`));
      }
    }
    this.steps = [...this.figures.keys()].sort((a, b) => a - b);
    this.changed();
  }

  // The update that stands at a step: its own, or the last before it.
  at(step) {
    return this.figures.get(lastUpTo(this.steps, step));
  }

  mapsAt(step) {
    const own = lastUpTo(this.steps, step);
    if (own === null) return null;
    if (!this.maps.has(own)) this.askForMaps([own]);
    return this.maps.get(own);
  }

  // Heat of wrong first matches by the example's number, null until it has arrived.
  pairsAt(step) {
    const own = lastUpTo(this.steps, step);
    if (own === null) return null;
    if (!this.pairs.has(own)) this.ask("pairs", [own], readPairs, this.pairs);
    return this.pairs.get(own) ?? null;
  }

  askForMaps(steps) {
    return this.ask("maps", steps, readMaps, this.maps);
  }

  async ask(part, steps, decode, store) {
    const missing = steps.filter((step) => !this.asked.has(`${part} ${step}`));
    missing.forEach((step) => this.asked.add(`${part} ${step}`));
    if (!missing.length) return;
    try {
      for (const [step, blob] of await this.source.read(
        this.name,
        UPDATES,
        part,
        missing,
      )) {
        try {
          store.set(step, decode(blob));
        } catch (error) {
          this.complain(new Error(`update ${step}: ${error.message}`));
        }
      }
      this.changed();
    } catch (error) {
      this.complain(error);
    }
  }

  // Reads the maps of all steps, little by little, so that the slider finds them.
  async readAhead(isWanted) {
    for (let i = 0; i < this.steps.length && isWanted();) {
      const any = this.maps.values().next().value;
      const count = any ? Math.ceil(BYTES_AT_ONCE / (any.data.length || 1)) : 1;
      await this.askForMaps(this.steps.slice(i, i + Math.min(count, STEPS_AT_ONCE)));
      i += Math.min(count, STEPS_AT_ONCE);
    }
  }

  // The picture of an example, null until it is decoded.
  picture(number) {
    if (this.pictures[number] === undefined && this.files) {
      this.pictures[number] = null;
      const { ends, bytes } = this.files;
      const file = bytes.slice(number ? ends[number - 1] : 0, ends[number]);
      const type = file[0] === 0x89 ? "image/png" : "image/jpeg";
      createImageBitmap(new Blob([file], { type })).then(
        (bitmap) => {
          this.pictures[number] = bitmap;
          this.changed();
        },
        () => this.complain(new Error(`the picture of example ${number} is damaged`)),
      );
    }
    return this.pictures[number] ?? null;
  }

  ratio(number, step) {
    return this.at(step)?.ratios[number] ?? NaN;
  }

  label(number) {
    return this.examples.labels?.[number] ?? "";
  }

  // Nearest other examples: [{number, similarity, right}], right null without labels.
  matches(number, step) {
    const figures = this.at(step);
    if (!figures || number === undefined) return [];
    const found = [];
    for (let rank = 0; rank < figures.numNeighbors; rank++) {
      const place = number * figures.numNeighbors + rank;
      const other = figures.neighbors[place];
      if (other < 0) continue;
      const right = this.examples.labels
        ? this.label(other) === this.label(number)
        : null;
      found.push({ number: other, similarity: figures.similarities[place], right });
    }
    return found;
  }

  firstMatch(number, step) {
    return this.matches(number, step)[0] ?? null;
  }

  // Means over all that was measured; over what is shown where they were not logged.
  mean(name, step) {
    const figures = this.at(step);
    if (!figures) return NaN;
    if (name in figures.values || name === "uniform_ratio") {
      return figures.values[name] ?? NaN;
    }
    figures.means ??= this.summarize(
      this.examples.names.map((_, i) => i),
      step,
    );
    return figures.means[name];
  }

  // Mean ratio and Recall@1 of some examples.
  summarize(numbers, step) {
    const figures = this.at(step);
    let [sum, count, right, judged] = [0, 0, 0, 0];
    for (const number of figures ? numbers : []) {
      if (Number.isFinite(figures.ratios[number])) {
        sum += figures.ratios[number];
        count++;
      }
      const match = this.firstMatch(number, step);
      if (match && match.right !== null) {
        right += match.right;
        judged++;
      }
    }
    return { mean_ratio: sum / count, recall_at_1: right / judged };
  }
}
