// Which examples are shown, and in which order.

export const SORTS = [
  ["ratio", "worst: least heat on the object"],
  ["high", "best: most heat on the object"],
  ["fall", "largest fall of that heat"],
  ["similarity", "most similar wrong match"],
  ["difference", "largest difference of the runs"],
  ["label", "label"],
  ["name", "as logged"],
];

// More heat beside the object than on it.
const OUTSIDE = 0.5;

// The ratio's change to a step from an earlier one, or from the update before.
export function change(run, number, step, since) {
  let before = since === "" ? null : Number(since);
  if (before === null) {
    const place = run.steps.findLastIndex((own) => own <= step);
    if (place < 1) return NaN;
    before = run.steps[place - 1];
  }
  return run.ratio(number, step) - run.ratio(number, before);
}

// The largest difference of the ratio of an example between the runs.
export function spread(runs, name, step) {
  const ratios = runs
    .map((run) => run.ratio(run.numbers.get(name), step))
    .filter(Number.isFinite);
  return ratios.length > 1 ? Math.max(...ratios) - Math.min(...ratios) : NaN;
}

// Small values come first; NaN, which is not defined, last.
function rank(lead, runs, view, step) {
  const number = (name) => lead.numbers.get(name);
  switch (view.sort) {
    case "high":
      return (name) => -lead.ratio(number(name), step);
    case "fall":
      return (name) => change(lead, number(name), step, view.since);
    case "similarity":
      return (name) => {
        const match = lead.firstMatch(number(name), step);
        return match?.right === false ? -match.similarity : NaN;
      };
    case "difference":
      return (name) => -spread(runs, name, step);
    case "name":
    case "label":
      return () => 0;
    default:
      return (name) => lead.ratio(number(name), step);
  }
}

// Names of all examples of the runs, those of the first run first.
export function unite(runs) {
  return [...new Set(runs.flatMap((run) => run.examples.names))];
}

export function isKept(lead, number, view, step) {
  if (number === undefined) return false;
  const label = lead.label(number);
  if (view.label !== "" && label !== view.label) return false;
  const text = view.search.toLowerCase();
  const name = lead.examples.names[number].toLowerCase();
  if (!name.includes(text) && !label.toLowerCase().includes(text)) return false;
  if (view.wrong && lead.firstMatch(number, step)?.right !== false) return false;
  if (view.outside && !(lead.ratio(number, step) < OUTSIDE)) return false;
  if (view.empty && !lead.at(step)?.empty[number]) return false;
  return true;
}

// Returns names.
export function arrange(lead, runs, view, step) {
  const filters = view.label + view.search || view.wrong || view.outside || view.empty;
  const names = unite(runs).filter(
    (name) => !filters || isKept(lead, lead.numbers.get(name), view, step),
  );
  if (view.sort === "label") {
    const collator = new Intl.Collator(undefined, { numeric: true });
    const owner = (name) => runs.find((run) => run.numbers.has(name));
    const label = (name) => owner(name).label(owner(name).numbers.get(name));
    const labels = new Map(names.map((name) => [name, label(name)]));
    return names.sort((a, b) => collator.compare(labels.get(a), labels.get(b)));
  }
  const measure = rank(lead, runs, view, step);
  const ranks = new Map(
    names.map((name) => {
      const value = measure(name);
      return [name, Number.isNaN(value) ? Infinity : value];
    }),
  );
  // Equal ranks keep the order; Infinity minus Infinity would be NaN.
  return names.sort((a, b) => {
    const [first, second] = [ranks.get(a), ranks.get(b)];
    return first === second ? 0 : first - second;
  });
}
