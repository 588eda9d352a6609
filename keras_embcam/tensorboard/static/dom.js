// Elements without a framework. Text always becomes a text node, never HTML: labels
// and names come from users' data.

export function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "polyline", "line", "rect", "circle"].includes(tag);
  const element = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child != null));
}

// Options are [value, text]; rebuilt only where they differ, or an open list closes.
export function setOptions(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    fill(select, ...options.map(([name, text]) => h("option", { value: name }, text)));
  }
  select.value = value;
}

export function share(value, digits = 2) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

export function difference(value) {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(2);
  if (text === "0.00") return "±0.00";
  return (value > 0 ? "+" : "−") + text;
}
