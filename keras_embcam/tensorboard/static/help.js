// Keys, and what to do where there is no data.

import { h } from "./dom.js";

const KEYS = [
  ["← →", "epoch before, next epoch"],
  ["Home End", "first, last epoch"],
  ["Space", "play, pause"],
  ["J K", "next, previous example"],
  ["Enter", "open the example"],
  ["↑ ↓", "in an open example: the one before, the next"],
  ["Esc", "back to all examples"],
  ["+ −", "larger, smaller pictures"],
  ["C", "table of classes"],
  ["/", "search"],
  ["?", "these keys"],
];

const CODE = `from keras_embcam.callbacks import EmbeddingCAMLogger

model.fit(train, callbacks=[
    EmbeddingCAMLogger("logs", validation_examples),
])`;

export function showHelp(parent) {
  const open = parent.querySelector("dialog.keys");
  if (open) {
    open.remove();
    return;
  }
  const rows = KEYS.flatMap(([keys, text]) => [h("dt", {}, keys), h("dd", {}, text)]);
  const close = h("button", { onclick: () => dialog.remove() }, "Close");
  const dialog = h(
    "dialog",
    { class: "keys", open: true },
    h("h2", {}, "Keys"),
    h("dl", {}, ...rows),
    close,
  );
  parent.append(dialog);
  close.focus();
}

export function showHint(parent, isNeeded) {
  parent.querySelector(".hint")?.remove();
  if (!isNeeded) return;
  parent.append(
    h(
      "section",
      { class: "hint" },
      h("h2", {}, "No EmbeddingCAM data in these logs"),
      h(
        "p",
        {},
        "Train with the logger, and every validation image shows up here with the heat of every epoch:",
      ),
      h("pre", {}, CODE),
      h(
        "p",
        { class: "soft" },
        "Logs of a version before the tab hold pictures in the Images tab only; num_tab_examples=0 writes no data for this one.",
      ),
    ),
  );
}

export function watchKeys(app) {
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Escape") {
      document.querySelector("dialog.keys")?.remove();
      if (target.matches("input, select")) target.blur();
      else if (app.view.example) app.set({ example: "" });
      return;
    }
    if (target.matches("input[type=search], select")) return;
    if (target.matches("input[type=range]") && /^(Arrow|Home|End|Page)/.test(key))
      return;
    if (run(app, key, target)) event.preventDefault();
  });
}

// Returns whether the key means something here.
function run(app, key, target) {
  const open = Boolean(app.view.example);
  switch (key) {
    case "ArrowRight":
    case "ArrowLeft": {
      const place = app.place + (key === "ArrowRight" ? 1 : -1);
      app.goTo(Math.min(Math.max(place, 0), app.steps.length - 1));
      return true;
    }
    case "Home":
    case "End":
      app.goTo(key === "Home" ? 0 : app.steps.length - 1);
      return true;
    case " ":
      if (target.matches("button")) return false;
      app.timeline.toggle();
      return true;
    case "ArrowDown":
    case "ArrowUp": {
      const down = key === "ArrowDown" ? 1 : -1;
      if (open) app.detail.move(down);
      else app.grid.move(down * app.grid.columns);
      return true;
    }
    case "j":
    case "k":
      if (open) app.detail.move(key === "j" ? 1 : -1);
      else app.grid.move(key === "j" ? 1 : -1);
      return true;
    case "Enter": {
      const card = target.closest(".card");
      if (card) app.set({ example: card.dataset.name });
      return Boolean(card);
    }
    case "+":
    case "=":
    case "-":
      app.set({
        size: Math.min(Math.max(app.view.size + (key === "-" ? -1 : 1), 0), 4),
      });
      return true;
    case "c":
      app.set({ classes: !app.view.classes });
      return true;
    case "/":
      app.toolbar.search.focus();
      return true;
    case "?":
      app.help();
      return true;
    default:
      return false;
  }
}
