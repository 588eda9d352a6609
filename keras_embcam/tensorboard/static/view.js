// What the user has chosen, and its short form in the address.

export const DEFAULTS = {
  runs: null, // names, null for the first two
  step: null, // null for the last
  sort: "ratio",
  since: "", // step to which a fall is measured, "" for the update before
  by: "", // run that sorts and filters, "" for the first
  label: "",
  wrong: false,
  outside: false,
  empty: false,
  search: "",
  heat: 70,
  colors: "turbo",
  truth: true,
  found: true,
  size: 2,
  classes: false,
  example: "",
};

export function encode(view) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (name === "runs") view.runs?.forEach((run) => query.append("run", run));
    else if (view[name] !== value) query.set(name, view[name]);
  }
  return query.toString();
}

export function decode(text) {
  const query = new URLSearchParams(text);
  const view = { ...DEFAULTS };
  if (query.has("run")) view.runs = query.getAll("run");
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const given = query.get(name);
    if (given === null || name === "runs") continue;
    if (typeof value === "boolean") view[name] = given === "true";
    else if (typeof value === "number" || name === "step") {
      if (given !== "" && Number.isFinite(Number(given))) view[name] = Number(given);
    } else view[name] = given;
  }
  view.heat = Math.min(Math.max(view.heat, 0), 100);
  view.size = Math.min(Math.max(Math.round(view.size), 0), 4);
  return view;
}
