// What surrounds the page: TensorBoard with its server, or a report on the disk.

import { split } from "./format.js";

const ADDRESS_KEY = "p.embcam.view="; // TensorBoard keeps what begins so in its address

// Blobs from the server part.
export class ServerSource {
  async list() {
    const response = await fetch("./runs");
    if (!response.ok) throw new Error("TensorBoard does not answer.");
    return (await response.json()).runs;
  }

  async read(run, tag, part, steps) {
    const query = new URLSearchParams({ run, tag, part, steps: steps.join(",") });
    const response = await fetch(`./blobs?${query}`);
    if (!response.ok) throw new Error(await response.text());
    return split(await response.arrayBuffer());
  }
}

// Blobs from script elements of the report itself, in base64.
export class FileSource {
  constructor(contents) {
    this.contents = contents;
  }

  async list() {
    return this.contents.runs;
  }

  async read(run, tag, part, steps) {
    const numbers = this.contents.blobs[run][tag][part] ?? {};
    return steps
      .filter((step) => step in numbers)
      .map((step) => {
        const element = document.getElementById(`blob-${numbers[step]}`);
        const bytes = Uint8Array.from(atob(element.textContent.trim()), (x) =>
          x.charCodeAt(0),
        );
        return [step, bytes];
      });
  }
}

// TensorBoard's window around the frame that this page lives in, else null.
function findTensorBoard() {
  try {
    if (window.parent !== window && window.parent.document.body) return window.parent;
  } catch {
    // A frame of somebody else's page.
  }
  return null;
}

export class Host {
  constructor() {
    this.tensorBoard = findTensorBoard();
    this.window = this.tensorBoard ?? window;
  }

  readAddress() {
    const hash = this.window.location.hash.slice(1);
    if (!this.tensorBoard) return hash;
    const part = hash.split("&").find((text) => text.startsWith(ADDRESS_KEY));
    return part ? decodeURIComponent(part.slice(ADDRESS_KEY.length)) : "";
  }

  writeAddress(view) {
    const { location, history } = this.window;
    let hash = view;
    if (this.tensorBoard) {
      const parts = location.hash.slice(1).split("&");
      if (parts[0] !== "embcam") return; // another tab is on top
      const others = parts.filter((part) => !part.startsWith(ADDRESS_KEY));
      hash = [...others, ...(view ? [ADDRESS_KEY + encodeURIComponent(view)] : [])];
      hash = hash.join("&");
    }
    const address = location.pathname + location.search + (hash ? `#${hash}` : "");
    history.replaceState(history.state, "", address);
  }

  get address() {
    return this.window.location.href;
  }

  onAddress(action) {
    this.window.addEventListener("hashchange", action);
  }

  // TensorBoard sends this message when its reload button is pressed or its timer ends.
  onReload(action) {
    if (!this.tensorBoard) return;
    const channel = new MessageChannel();
    channel.port1.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.isReply) return;
      const reply = { ...message, payload: null, error: null, isReply: true };
      channel.port1.postMessage(JSON.stringify(reply));
      if (message.type === "experimental.DataReloaded") action();
    };
    window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
  }

  followTheme() {
    const query = window.matchMedia("(prefers-color-scheme: dark)");
    const body = this.tensorBoard?.document.body;
    const apply = () => {
      const dark = body ? body.classList.contains("dark-mode") : query.matches;
      document.documentElement.dataset.theme = dark ? "dark" : "light";
    };
    query.addEventListener("change", apply);
    if (body) {
      const options = { attributes: true, attributeFilter: ["class"] };
      new MutationObserver(apply).observe(body, options);
    }
    apply();
  }
}
