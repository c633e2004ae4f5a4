// The page to try a service: it reads the service's description, makes a form of it, signs and sends requests.

const element = (id) => document.getElementById(id);
const address = location.pathname.replace(/\/try$/, "");
const KINDS = ["text", "image", "audio", "video", "other"];
let described = null;

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Returns a path with a signature for this method, or as it is where the sender has a key, or none is needed.
export async function signed(path, method) {
  const apiKey = element("api-key").value.trim();
  if (!apiKey) return path;
  if (!crypto.subtle) throw new Error("This browser signs only on pages of https or localhost.");
  const date = new Date().toUTCString();
  const text = `host: ${location.host}\ndate: ${date}\n${method} ${path} HTTP/1.1`;
  const encoder = new TextEncoder();
  const secret = encoder.encode(element("api-secret").value.trim());
  const key = await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const made = base64(new Uint8Array(await crypto.subtle.sign("HMAC", key, encoder.encode(text))));
  const stated = `api_key="${apiKey}", algorithm="hmac-sha256", headers="host date request-line", signature="${made}"`;
  return `${path}?${new URLSearchParams({ host: location.host, date, authorization: btoa(stated) })}`;
}

// Returns the path of the service for a WebSocket, which cannot send headers: with a signature, a token or a ticket.
export async function addressOf(method) {
  const key = element("key").value.trim();
  if (key.startsWith("at.")) return `${described.route}?${new URLSearchParams({ access_token: key })}`;
  if (!key) return signed(described.route, method);
  const response = await fetch("/api/v1/tickets", {
    method: "POST",
    body: JSON.stringify({ scopes: ["models:call"], once: true }),
    headers: { ...headers(), "Content-Type": "application/json" },
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail || response.statusText);
  return `${described.route}?${new URLSearchParams({ ticket: body.ticket })}`;
}

function headers() {
  const key = element("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function show(text, failed = false) {
  element("state").textContent = text;
  element("state").className = failed ? "failed" : "";
}

function labelled(name, schema, input) {
  const label = document.createElement("label");
  label.append(schema.title || name, input);
  if (schema.description) label.append(Object.assign(document.createElement("small"), { textContent: schema.description }));
  return label;
}

function parameterField(name, schema) {
  let input;
  if (schema.enum || schema.type === "boolean") {
    input = document.createElement("select");
    input.append(new Option("", ""));
    for (const value of schema.enum || ["true", "false"]) input.append(new Option(value, value));
  } else {
    input = document.createElement("input");
    if (schema.type === "number" || schema.type === "integer") Object.assign(input, { type: "number", step: "any" });
  }
  if (schema.default !== undefined) input.value = String(schema.default);
  if (schema.const !== undefined) Object.assign(input, { value: String(schema.const), disabled: true });
  Object.assign(input.dataset, { parameter: name, type: schema.type || "string" });
  return labelled(name, schema, input);
}

function dataField(name, schema, kind) {
  const input = document.createElement(kind === "text" ? "textarea" : "input");
  if (kind !== "text") Object.assign(input, { type: "file", accept: kind === "other" ? "" : `${kind}/*` });
  Object.assign(input.dataset, { data: name, kind });
  return labelled(`${name} (${kind})`, schema, input);
}

const propertiesOf = (schema) => (schema && schema.properties) || {};

function resultSchema(name) {
  const given = described.schema.properties?.parameter;
  return propertiesOf(propertiesOf(propertiesOf(given)[described.about.parameter])[name]);
}

async function describe() {
  show("Loading the description …");
  const path = `${address}/openapi.json`;
  const response = await fetch(await signed(path, "GET"), { headers: headers() });
  const body = await response.json();
  if (!response.ok) throw new Error(body.message || body.error_description || body.header?.message || response.statusText);
  const [route] = Object.keys(body.paths);
  const schema = body.paths[route].post.requestBody.content["application/json"].schema;
  described = { route, schema, about: body["x-athena"], body };
  element("title").textContent = body.info.title;
  document.title = `Try ${body.info.title}`;
  element("about").textContent = [body.info.description, `POST ${route}`].filter(Boolean).join(" · ");
  fill("parameters", Object.entries(propertiesOf(propertiesOf(propertiesOf(schema).parameter)[described.about.parameter]))
    .filter(([, one]) => one.type !== "object")
    .map(([name, one]) => parameterField(name, one)));
  fill("payload", Object.entries(propertiesOf(propertiesOf(schema).payload))
    .map(([name, one]) => dataField(name, one, described.about.inputs[name] || KINDS.find((kind) => one.properties?.[kind]) || "text")));
  element("send").disabled = false;
  show("");
  document.dispatchEvent(new CustomEvent("described", { detail: described }));
}

function fill(id, fields) {
  const box = element(id);
  box.querySelectorAll("label").forEach((label) => label.remove());
  box.append(...fields);
  box.hidden = fields.length === 0;
}

function valueOf(input) {
  const { type } = input.dataset;
  if (type === "boolean") return input.value === "true";
  return type === "number" || type === "integer" ? Number(input.value) : input.value;
}

// Returns the message that the form states, with the data of files in base64.
export async function message(status = 3) {
  const parameter = {};
  for (const input of document.querySelectorAll("[data-parameter]")) {
    if (input.value !== "" && !input.disabled) parameter[input.dataset.parameter] = valueOf(input);
  }
  for (const [name, kind] of Object.entries(described.about.outputs)) {
    const format = resultSchema(name).format?.default;
    parameter[name] = kind === "text" ? { encoding: "utf8", compress: "raw", format: format || "plain" } : {};
  }
  const payload = {};
  for (const input of document.querySelectorAll("[data-data]")) {
    const { data: name, kind } = input.dataset;
    if (kind === "text" && input.value) {
      payload[name] = { encoding: "utf8", status, text: base64(new TextEncoder().encode(input.value)) };
    } else if (kind !== "text" && input.files[0]) {
      const [file] = input.files;
      const ending = file.name.includes(".") ? file.name.split(".").pop().toLowerCase() : "";
      payload[name] = { ...(ending && { encoding: ending }), status, [kind]: base64(new Uint8Array(await file.arrayBuffer())) };
    }
  }
  return { header: { app_id: element("app-id").value, status }, parameter: { [described.about.parameter]: parameter }, payload };
}

// Returns JSON for people: long data shortened.
export function readable(value) {
  return JSON.stringify(value, (_, one) =>
    typeof one === "string" && one.length > 300 ? `${one.slice(0, 60)}… (${one.length} characters)` : one, 2);
}

// Shows the results of a response: pictures, sound and film as such, text decoded.
export function results(payload) {
  const found = [];
  for (const [name, one] of Object.entries(payload || {})) {
    const kind = KINDS.find((kind) => typeof one[kind] === "string");
    if (kind === "image" || kind === "audio" || kind === "video") {
      const type = one.media_type || `${kind}/${one.encoding || "*"}`;
      const shown = document.createElement(kind === "image" ? "img" : kind);
      Object.assign(shown, { src: `data:${type};base64,${one[kind]}`, controls: true, alt: name, title: name });
      found.push(shown);
    } else if (kind === "text") {
      try { one.text = new TextDecoder("utf-8", { fatal: true }).decode(bytesOf(one.text)); } catch { /* shown as it is */ }
    }
  }
  return found;
}

async function send() {
  const sent = await message();
  element("request").textContent = readable(sent);
  show("Calling …");
  const began = performance.now();
  const response = await fetch(await signed(described.route, "POST"), {
    method: "POST", body: JSON.stringify(sent), headers: { ...headers(), "Content-Type": "application/json" },
  });
  const body = await response.json();
  const code = body.header?.code;
  show(`${response.status} · code ${code ?? "–"} · ${Math.round(performance.now() - began)} ms`, !response.ok);
  element("media").replaceChildren(...results(body.payload));
  element("response").textContent = readable(body);
}

const guarded = (act) => (event) => {
  event.preventDefault();
  act().catch((error) => show(error.message, true));
};
element("describe").addEventListener("click", guarded(describe));
element("call").addEventListener("submit", guarded(send));
describe().catch((error) => show(error.message, true));
