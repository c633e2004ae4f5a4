// Sessions: the data of the form in pieces over a WebSocket, results as they come.

import { addressOf, message, readable, results } from "./page.js";

const section = document.getElementById("stream");
const DATA = ["text", "image", "audio", "video", "other"];
let socket = null;

section.innerHTML = `
  <h2>Session</h2>
  <p>Sends the data above in pieces, and shows results as they come.</p>
  <label>Bytes of a piece <input id="piece-bytes" type="number" min="1" value="3200"></label>
  <label>Milliseconds between pieces <input id="piece-interval" type="number" min="0" value="100"></label>
  <button type="button" id="open">Open a session</button>
  <button type="button" id="close" disabled>Close</button>
  <p id="session-state" role="status"></p>
  <div id="session-media"></div>
  <pre id="transcript" hidden></pre>
  <details open><summary>Messages</summary><pre id="messages"></pre></details>`;

const element = (id) => document.getElementById(id);
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function show(text, failed = false) {
  element("session-state").textContent = text;
  element("session-state").className = failed ? "failed" : "";
}

function note(arrow, value) {
  const box = element("messages");
  box.append(`${arrow} ${readable(value)}\n`);
  box.scrollTop = box.scrollHeight;
}

// Returns the base64 of pieces of data that is in base64; each holds whole bytes.
export function cut(data, bytes) {
  const binary = atob(data);
  const found = [];
  for (let at = 0; at === 0 || at < binary.length; at += bytes) found.push(btoa(binary.slice(at, at + bytes)));
  return found;
}

// Returns the messages of a session that sends all data of one message in pieces.
export function messagesOf(whole, bytes) {
  const streams = Object.entries(whole.payload).map(([name, one]) => {
    const kind = DATA.find((kind) => kind in one);
    return { name, one, kind, pieces: cut(one[kind], bytes) };
  });
  const count = Math.max(1, ...streams.map((stream) => stream.pieces.length));
  return Array.from({ length: count }, (_, at) => {
    const status = count === 1 ? 3 : at === 0 ? 0 : at === count - 1 ? 2 : 1;
    const payload = {};
    for (const { name, one, kind, pieces } of streams) {
      if (at >= pieces.length) continue;
      const ends = at === pieces.length - 1;
      payload[name] = { ...one, [kind]: pieces[at], seq: at, status: ends ? (at === 0 ? 3 : 2) : at === 0 ? 0 : 1 };
    }
    const header = { ...whole.header, status };
    return at === 0 ? { header, parameter: whole.parameter, payload } : { header, payload };
  });
}

function receive(event) {
  const received = JSON.parse(event.data);
  const { code, message: words, status } = received.header;
  element("session-media").append(...results(received.payload));
  for (const one of Object.values(received.payload || {})) {
    if (one.text === undefined) continue;
    element("transcript").hidden = false;
    element("transcript").append(typeof one.text === "string" ? `${one.text}\n` : `${JSON.stringify(one.text)}\n`);
  }
  note("←", received);
  show(code ? `code ${code}: ${words}` : `status ${status}`, code !== 0);
}

async function send(messages, interval) {
  for (const one of messages) {
    if (socket?.readyState !== WebSocket.OPEN) return;
    while (socket.bufferedAmount > 1 << 20) await wait(10);  // the server reads no faster than the engine
    socket.send(JSON.stringify(one));
    note("→", one);
    if (one !== messages.at(-1)) await wait(interval);
  }
}

async function open() {
  const messages = messagesOf(await message(0), Math.max(1, Number(element("piece-bytes").value)));
  const url = new URL(await addressOf("GET"), location.href);
  url.protocol = url.protocol.replace("http", "ws");
  for (const id of ["messages", "transcript", "session-media"]) element(id).replaceChildren();
  element("transcript").hidden = true;
  show("Connecting …");
  socket = new WebSocket(url);
  busy(true);
  socket.onopen = () => send(messages, Number(element("piece-interval").value));
  socket.onmessage = receive;
  socket.onclose = ({ code, reason }) => {
    note("×", { code, reason });
    if (code === 1006) show("The connection failed, or was refused.", true);
    busy(false);
  };
}

function busy(yes) {
  element("open").disabled = yes;
  element("close").disabled = !yes;
}

element("open").addEventListener("click", () => open().catch((error) => show(error.message, true)));
element("close").addEventListener("click", () => socket?.close());
document.addEventListener("described", ({ detail }) => { section.hidden = !detail.about.sessions; });
