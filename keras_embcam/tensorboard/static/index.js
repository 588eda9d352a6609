// The tab: TensorBoard imports this module into an empty frame and calls `render`.

import { App } from "./app.js";
import { h } from "./dom.js";
import { FileSource, Host, ServerSource } from "./host.js";

const STYLES = ["./style.css", "./panels.css"];

export async function render() {
  document.documentElement.lang = "en";
  const loaded = STYLES.map((href) => {
    const style = h("link", { rel: "stylesheet", href });
    document.head.append(style);
    return new Promise((resolve) => style.addEventListener("load", resolve));
  });
  await Promise.all(loaded);
  await show(new ServerSource());
}

export async function renderReport() {
  const contents = JSON.parse(document.getElementById("contents").textContent);
  await show(new FileSource(contents), contents.note);
}

async function show(source, note = "") {
  const host = new Host();
  host.followTheme();
  const app = new App(source, host, note);
  document.body.append(app.element);
  await app.load();
  app.grid.element.focus({ preventScroll: true }); // or keys would go elsewhere
}
