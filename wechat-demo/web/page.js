// The operations page: asks for one JSON, again and again, and shows it. Everything that comes from outside goes into
// the document as text, never as markup.
"use strict";

const PACE_MS = 1000;
const PATIENCE_MS = 4000;
const LANES = [
  ["Doors", ["access", "dispatch", "edge", "push"]],
  ["Business", ["logic"]],
  ["Store", ["storage-1", "storage-2", "storage-3", "follower"]],
  ["Agreement", ["coordinator"]],
];
const STATES = {
  up: "up",
  starting: "starting",
  restarting: "down, restarting",
  silent: "does not answer",
  down: "down",
};
const TOTALS = [
  { key: "links", title: "Links", note: "live connections of terminals" },
  { key: "messages_per_s", title: "Messages/s", note: "committed", course: 0 },
  { key: "notifies_per_s", title: "Notifies/s", note: "put on links", course: 1 },
  { key: "lag_entries", title: "Replication lag", note: "log entries, backup behind primary", worst: true },
  { key: "requests_waiting", title: "Requests waiting", note: "for the store" },
  { key: "tasks_waiting", title: "Tasks waiting", note: "on streams between shards" },
];

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=page-token]").content;
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

let shape = "";
let shown = null;
let answered = Date.now();
let dead = false;
let timer = 0;

function make(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Sets a text only where it is another, so that a reader is told of changes alone. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function figure(value) {
  if (value === null || value === undefined) return "–";
  return number.format(value >= 10 ? Math.round(value) : value);
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// --- the document's frame, made anew when the list of IDCs or roles is another ---

function frame(state) {
  const parts = state.idcs.map((idc) => [idc.name, idc.whole, idc.processes.map((process) => process.role)]);
  const now = JSON.stringify(parts);
  if (now === shape) return;
  shape = now;
  shown = { totals: totals(), idcs: state.idcs.map((idc, n) => idcFrame(idc, n, state.idcs.length)) };
  $("totals").replaceChildren(...shown.totals.map((total) => total.box));
  $("idcs").replaceChildren(...shown.idcs.map((idc) => idc.box));
}

function totals() {
  return TOTALS.map((total) => {
    const box = make("div");
    const value = make("dd", "", "–");
    box.append(make("dt", "", total.title), value, make("dd", "note", total.note));
    const course = total.course === undefined ? null : svg("svg");
    if (course) {
      course.setAttribute("viewBox", "0 0 59 32");
      course.setAttribute("preserveAspectRatio", "none");
      course.setAttribute("role", "img");
      course.append(svg("polygon"), svg("polyline"));
      box.append(course);
    }
    return { box, value, course };
  });
}

function svg(name) {
  return document.createElementNS("http://www.w3.org/2000/svg", name);
}

function idcFrame(idc, n, count) {
  const title = idc.name ?? (idc.whole ? "This cluster" : "Outside the IDCs");
  const box = make("section", "idc");
  const head = make("div", "idc-head");
  const heading = make("h2", "", idc.name && idc.whole ? `IDC ${title}` : title);
  heading.id = `idc-${n}`;
  box.setAttribute("aria-labelledby", heading.id);
  const line = make("p");
  head.append(heading, line);
  const kill = make("button", "danger", idc.name ? `Kill IDC ${idc.name}` : "Kill the IDC");
  const restore = make("button", "", idc.name ? `Restore IDC ${idc.name}` : "Restore the IDC");
  kill.type = restore.type = "button";
  kill.addEventListener("click", () => ask(`${kill.textContent}?`, { action: "kill_all", idc: n }));
  restore.addEventListener("click", () => act({ action: "restore", idc: n }));
  if (idc.whole) head.append(restore, kill);
  box.append(head);
  const processes = new Map();
  for (const [name, roles] of LANES) {
    const here = idc.processes.filter((process) => roles.includes(process.role));
    if (here.length === 0) continue;
    const lane = make("div", "lane");
    const list = make("ul");
    list.setAttribute("aria-label", name);
    for (const process of here) {
      const item = processFrame(process, n);
      processes.set(process.role, item);
      list.append(item.box);
    }
    lane.append(make("h3", "", name), list);
    box.append(lane);
  }
  return { box, line, kill, restore, processes, several: count > 1 };
}

function processFrame(process, idc) {
  const box = make("li", "process");
  box.id = `process-${idc}-${process.role}`;
  const head = make("div", "process-head");
  const name = make("h4");
  const link = make("a", "", process.role);
  link.href = `http://${process.address}/status`;
  link.title = `calls, errors and latencies of ${process.role}`;
  name.append(link);
  const standing = make("span", "standing");
  const state = make("span", "state");
  head.append(name, standing, state);
  const figures = make("dl", "figures");
  const old = make("p", "old");
  const foot = make("div", "process-foot");
  const facts = make("span");
  const kill = make("button", "danger", "Kill");
  kill.type = "button";
  kill.setAttribute("aria-label", `Kill ${process.role}`);
  kill.addEventListener("click", () => act({ action: "kill", idc, role: process.role }));
  foot.append(facts, kill);
  box.append(head, figures, old, foot);
  return { box, standing, state, figures, old, facts, kill };
}

// --- what changes from answer to answer ---

function show(state) {
  frame(state);
  for (const [n, total] of TOTALS.entries()) {
    const values = state.idcs.map((idc) => idc[total.key]).filter((value) => value !== null);
    const value = values.length === 0 ? null : values.reduce((a, b) => (total.worst ? Math.max(a, b) : a + b));
    say(shown.totals[n].value, figure(value));
    if (shown.totals[n].course) draw(shown.totals[n].course, course(state.idcs, total.course), total.title);
  }
  state.idcs.forEach((idc, n) => showIdc(idc, shown.idcs[n], state.now_ms));
  showEvents(state.events);
}

/** Sums over the IDCs, the newest points over each other. */
function course(idcs, which) {
  const length = Math.max(0, ...idcs.map((idc) => idc.course.length));
  const sums = new Array(length).fill(0);
  for (const idc of idcs) {
    const missing = length - idc.course.length;
    idc.course.forEach((point, n) => { sums[missing + n] += point[which]; });
  }
  return sums;
}

function draw(into, points, title) {
  const top = Math.max(1, ...points);
  const first = 60 - points.length;
  const line = points.map((point, n) => `${first + n},${(31 - (30 * point) / top).toFixed(1)}`);
  const [area, stroke] = into.children;
  stroke.setAttribute("points", line.join(" "));
  area.setAttribute("points", line.length === 0 ? "" : [`${first},32`, ...line, "59,32"].join(" "));
  into.setAttribute("aria-label", `${title} over the last minute, at most ${figure(top)}`);
}

function showIdc(idc, at, now) {
  const up = idc.processes.filter((process) => process.state === "up").length;
  const primary = idc.processes.find((process) => process.role !== "follower" && process.standing === "primary" && process.serves);
  const parts = [`${up} of ${idc.processes.length} processes up`];
  if (idc.processes.some((process) => process.role.startsWith("storage"))) {
    parts.push(primary ? `${primary.role} serves the store` : "nobody serves the store");
  }
  if (at.several && idc.whole) {
    parts.push(`${figure(idc.links)} links`, `${figure(idc.messages_per_s)} messages/s`);
  }
  say(at.line, parts.join(" · "));
  at.kill.disabled = dead || idc.processes.every((process) => process.pid === null);
  at.restore.disabled = dead || !idc.held;
  for (const process of idc.processes) showProcess(process, at.processes.get(process.role), now);
}

function showProcess(process, at, now) {
  at.box.dataset.state = process.state;
  at.box.classList.toggle("stale", process.stale_since_ms !== null);
  at.standing.hidden = !process.standing;
  at.standing.dataset.standing = process.standing ?? "";
  say(at.standing, process.standing === "primary" && !process.serves ? "primary, does not serve" : process.standing ?? "");
  say(at.state, STATES[process.state] ?? process.state);
  if (at.figures.childElementCount !== 2 * process.figures.length) {
    at.figures.replaceChildren(...process.figures.flatMap(() => [make("dt"), make("dd")]));
  }
  process.figures.forEach((one, n) => {
    say(at.figures.children[2 * n], one.name);
    say(at.figures.children[2 * n + 1], figure(one.value));
  });
  const stale = process.stale_since_ms;
  at.old.hidden = stale === null;
  say(at.old, stale === null ? "" : `stale since ${clock(stale)}`);
  const facts = process.pid === null
    ? [`down for ${ago(now - process.since_ms)}`]
    : [`pid ${process.pid}`, `up ${ago(now - process.since_ms)}`];
  if (process.starts > 1) facts.push(`started ${process.starts} times`);
  say(at.facts, facts.join(" · "));
  at.kill.disabled = dead || process.pid === null;
}

function showEvents(events) {
  const list = $("events");
  const newest = events.length === 0 ? "" : `${events[0].at_ms} ${events.length} ${events[0].text}`;
  $("no-events").hidden = events.length !== 0;
  if (list.dataset.newest === newest) return;
  list.dataset.newest = newest;
  list.replaceChildren(...events.slice(0, 20).map((event) => {
    const item = make("li");
    const time = make("time", "", clock(event.at_ms));
    time.dateTime = new Date(event.at_ms).toISOString();
    item.append(time, make("span", "", event.text));
    return item;
  }));
}

// --- to and fro ---

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("/state", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const state = await answer.json();
    answered = Date.now();
    setDead(false);
    if (state.idcs.length === 0) say($("live"), "the cluster is starting");
    else say($("live"), "live");
    show(state);
  } catch {
    setDead(true);
    say($("live"), `no answer from this cluster: everything here is stale since ${clock(answered)}`);
  }
  timer = setTimeout(look, document.hidden ? 5 * PACE_MS : PACE_MS);
}

function setDead(is) {
  dead = is;
  document.body.classList.toggle("dead", is);
  if (is) for (const button of document.querySelectorAll("main button")) button.disabled = true;
}

async function act(wish) {
  let fault = "";
  try {
    const answer = await fetch("/act", {
      method: "POST",
      headers: { "content-type": "application/json", "x-page-token": token },
      body: JSON.stringify(wish),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) fault = (await answer.json()).error ?? `status ${answer.status}`;
  } catch {
    fault = "the cluster did not answer; nothing may have been done";
  }
  say($("fault"), fault);
  $("fault").hidden = fault === "";
  // It is done within the launcher's next look.
  clearTimeout(timer);
  timer = setTimeout(look, 300);
}

let wanted = null;

function ask(title, wish) {
  wanted = wish;
  say($("sure-title"), title);
  $("sure").showModal();
}

$("sure-no").addEventListener("click", () => $("sure").close());
$("sure-yes").addEventListener("click", () => {
  $("sure").close();
  act(wanted);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
