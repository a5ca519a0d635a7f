// What the visitor sees. The work is done by worker.js; this shows what it tells and passes on what is asked of it.

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const fields = ["rounds", "prompts", "seed", "judge", "train"];
// How many held-out questions measure a model; tests take fewer.
const questions = Number(query.get("questions")) || 200;

let worker;
let ready = false;
// What is being done: "start", "resume", "ask", "check" or nothing.
let doing = "";
let resumable = false;
let runs = false;
let settings = null;
let models = [];
let stages = [];

// Tests listen here, and ask what the page has no button for.
window.heard = [];
window.ask = (message) => worker.postMessage(message);

const MISSING = {
  webgpu: [
    "This browser does not offer WebGPU to this page, so the page cannot reach your GPU.",
    "Use Chrome or Edge 137 or newer, Firefox 153 or newer, or Safari 27 or newer; on Linux WebGPU may have to be switched on. " +
      "The page must come over https, or from this computer itself.",
  ],
  gpu: [
    "The browser knows WebGPU, but offers no GPU.",
    "Look whether hardware acceleration is switched on in the browser’s settings, and whether the GPU’s driver is up to date. " +
      "Without a GPU the loop can be played by the command line, which has a driver for the CPU.",
  ],
  jspi: [
    "This browser cannot wait for the GPU within a WebAssembly call (JSPI is missing).",
    "Use Chrome or Edge 137 or newer, Firefox 153 or newer, or Safari 27 or newer.",
  ],
  tab: [
    "This page is open in another tab, which has the run.",
    "Go on there, or close that tab and load this page again.",
  ],
};

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(sentence) {
  $("status").textContent = sentence;
}

function enable() {
  const idle = ready && doing === "";
  const running = doing === "start" || doing === "resume";
  $("start").disabled = !idle;
  $("resume").disabled = !(idle && resumable);
  $("stop").disabled = !(running || doing === "check");
  $("open").disabled = !idle;
  $("send").disabled = !idle;
  $("hush").disabled = doing !== "chat";
  $("ask").disabled = !(idle && runs);
  $("check").disabled = !idle;
  $("save").disabled = !(ready && runs && !running);
  fields.forEach((id) => { $(id).disabled = !idle; });
}

function post(message) {
  doing = message.do;
  stages = [];
  worker.postMessage(message);
  enable();
}

// ---- progress

function words(stage) {
  const n = models.length;
  const by = { self: `M${n} judges its answers`, random: "dice are thrown for scores", oracle: "the exact scorer judges" };
  switch (stage) {
    case "evaluation": return `M${n + 1} is measured on held-out questions`;
    case "prompts": return `Round ${n}: M${n} writes new tasks`;
    case "candidates": return `Round ${n}: M${n} answers them, four times each`;
    case "verdicts": return `Round ${n}: ${by[settings?.judge] ?? by.self}`;
    case "training": return `Round ${n}: M${n + 1} is trained on what was preferred`;
    case "check": return "Kernels are compared with their twins";
    default: return stage;
  }
}

function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

let drawn = 0;
let asked = 0;
let preparing = "";

function pace(force = false) {
  const now = performance.now();
  if (!force && now - drawn < 100) return;
  drawn = now;
  const bar = $("progress");
  const [outer] = stages;
  $("going").classList.toggle("idle", !outer);
  if (!outer) {
    bar.value = 0;
    bar.max = 1;
    $("pace").textContent = "";
    return;
  }
  // The outermost stage, and how far what happens within it is.
  const inner = stages.slice(1).reduce((share, s) => share + (s.total ? Math.min(s.done / s.total, 1) : 0), 0);
  const within = stages.length > 1 && outer.unit === "passes" ? Math.min(inner, 1) : 0;
  const done = outer.done + within;
  if (outer.total) {
    bar.max = outer.total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  const seconds = (now - outer.began) / 1000;
  const share = outer.total ? done / outer.total : 0;
  const left = share > 0.02 && share < 1 ? `about ${span((seconds * (1 - share)) / share)} left in this stage` : "";
  const counted = outer.total ? `${outer.done} of ${outer.total} ${outer.unit}` : `${outer.done} ${outer.unit}`;
  $("pace").textContent = [counted, preparing ? `compiling ${preparing}` : left].filter(Boolean).join(" · ");
}

// ---- results

const mib = (bytes) => (bytes / 2 ** 20).toFixed(0);
const two = (x) => (Object.is(Math.round(x * 100), -0) ? 0 : x).toFixed(2);
const signed = (x) => (x >= 0 ? "+" : "−") + two(Math.abs(x));

function plot() {
  const svg = $("plot").querySelector("svg");
  const [left, right, top, bottom] = [34, 348, 14, 190];
  const last = Math.max(models.length, (settings?.rounds ?? 2) + 1);
  const x = (i) => left + ((i + 0.5) / last) * (right - left);
  const y = (score) => bottom - (score / 5) * (bottom - top);
  const ns = "http://www.w3.org/2000/svg";
  const add = (tag, attributes, text) => {
    const element = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
    return element;
  };
  const known = new Set([...svg.querySelectorAll(".dot")].map((dot) => dot.dataset.of));
  svg.replaceChildren();
  add("title", { id: "plot-title" }, models.length === 0
    ? "No model is measured yet."
    : `True score by model: ${models.map((m) => `${m.name} ${two(m.truth_mean)}`).join(", ")}; 5 is perfect.`);
  for (let score = 0; score <= 5; score += 1) {
    add("line", { class: "rule", x1: left, x2: right, y1: y(score), y2: y(score) });
    add("text", { class: "y", x: left - 8, y: y(score) }, score);
  }
  for (let i = 0; i < last; i += 1) add("text", { class: "x", x: x(i), y: bottom + 20 }, `M${i + 1}`);
  if (models.length > 1) {
    add("polyline", { class: "line", points: models.map((m, i) => `${x(i)},${y(m.truth_mean)}`).join(" ") });
  }
  models.forEach((m, i) => {
    add("line", { class: "error", x1: x(i), x2: x(i), y1: y(m.truth_mean - 1.96 * m.truth_se), y2: y(m.truth_mean + 1.96 * m.truth_se) });
    const dot = add("circle", { class: "dot", cx: x(i), cy: y(m.truth_mean), r: 5 });
    dot.dataset.of = m.name;
    if (known.has(m.name)) dot.style.animation = "none";
    add("text", { class: "value", x: x(i), y: y(Math.min(m.truth_mean + 1.96 * m.truth_se, 4.9)) - 9 }, two(m.truth_mean));
  });
}

function table() {
  $("no-scores").hidden = models.length > 0;
  $("scores").parentElement.hidden = models.length === 0;
  $("scores").replaceChildren(...models.map((m) => {
    const row = make("tr", "", { "data-model": m.name, "data-score": two(m.truth_mean) });
    row.append(
      make("th", m.name, { scope: "row" }),
      make("td", `${two(m.truth_mean)} ± ${two(m.truth_se)}`),
      make("td", m.gain === null ? "–" : `${signed(m.gain)} ± ${two(m.gain_se)}`),
      make("td", m.judge_spearman === null ? "–" : two(m.judge_spearman)),
    );
    return row;
  }));
}

function points(score) {
  return make("td", score === null || score === undefined ? "–" : `${Math.round(score)}`,
    { class: score >= 5 ? "full" : score < 3 ? "low" : "" });
}

// A table of what models answered: of each its name, its answer, and the cells that follow.
function answers(caption, columns, answered) {
  const table = make("table");
  table.append(make("caption", caption, { class: "hidden" }));
  const head = make("thead");
  head.append(make("tr"));
  head.firstChild.append(...["Model", "Answer", ...columns].map((t) => make("th", t, { scope: "col" })));
  const body = make("tbody");
  for (const { name, answer, cells } of answered) {
    const row = make("tr");
    const cell = make("td");
    cell.append(make("code", answer || "(nothing)"));
    row.append(make("th", name, { scope: "row" }), cell, ...cells);
    body.append(row);
  }
  table.append(head, body);
  return table;
}

function cards(samples) {
  if (samples.length === 0) return;
  $("questions").replaceChildren(...samples.map((s) => {
    const card = make("article", "", { class: "card" });
    const title = make("h3");
    title.append(make("code", s.prompt));
    const right = make("p", "right: ");
    right.append(make("code", s.gold));
    const given = Object.entries(s.answers).map(([name, answer]) => ({ name, answer, cells: [points(s.scores[name])] }));
    const table = answers(`Answers to ${s.prompt}`, ["Points"], given);
    table.tHead.className = "hidden";
    card.append(title, right, table);
    return card;
  }));
}

function show(standing) {
  models = standing.models;
  table();
  plot();
  cards(standing.samples);
  if (models.length > 0) document.title = `${models.map((m) => `${m.name} ${two(m.truth_mean)}`).join(" · ")} – self-rewarding`;
}

function showPlayed({ prompt, gold, answers: given }) {
  const told = make("p", "");
  told.append(make("code", prompt), " – right: ", make("code", gold));
  const mark = (m) => make("td", m === null ? "–" : m.toFixed(1));
  const answered = answers(
    `What each model answers to ${prompt}, and the marks it gets`,
    ["True points", ...given.map((a) => `${a.name}’s mark`)],
    given.map((a) => ({ name: a.name, answer: a.answer, cells: [points(a.truth), ...a.marks.map(mark)] })),
  );
  const scroll = make("div", "", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Answers" });
  scroll.append(answered);
  $("played").replaceChildren(told, scroll);
}

// ---- what the worker tells

const hear = {
  missing({ what }) {
    const [is, todo] = MISSING[what];
    $("missing").replaceChildren(make("p", is), make("p", todo));
    $("missing").hidden = false;
    if (what === "webgpu" || what === "gpu") $("gpu").textContent = "is out of reach";
    say("Nothing can run here yet.");
  },
  gpu({ name, software }) {
    $("gpu").textContent = software ? `${name} (in software, on the CPU: slow)` : name;
  },
  ready({ kept, run }) {
    ready = true;
    $("kept").textContent = kept
      ? "The run is kept in this browser: a closed tab loses nothing that was finished."
      : "This browser keeps no files for this page: the run is gone when the tab is closed.";
    if (run) {
      settings = run.settings;
      fields.forEach((id) => { $(id).value = settings[id]; });
      runs = run.models.length > 0;
      resumable = !run.finished;
      show(run);
      say(run.finished ? "The run of before is finished." : "A run was interrupted. Resume goes on with it; Start begins anew.");
    } else {
      say("Ready.");
    }
    enable();
  },
  begin({ stage, total, unit }) {
    stages.push({ stage, total, unit, done: 0, began: performance.now() });
    if (stages.length === 1 && !["ask", "load", "chat"].includes(doing)) say(words(stage));
    pace(true);
  },
  advance({ n }) {
    if (stages.length > 0) stages[stages.length - 1].done += n;
    pace();
  },
  end() {
    stages.pop();
    pace(true);
  },
  preparing({ kernel }) {
    preparing = kernel;
    pace();
  },
  note({ sentence }) {
    $("notes").hidden = false;
    $("notes").append(make("p", sentence));
  },
  standing({ standing }) {
    runs = true;
    show(standing);
  },
  report({ html }) {
    $("report").srcdoc = html;
    $("report").hidden = false;
    $("no-report").hidden = true;
  },
  over({ report }) {
    resumable = false;
    runs = true;
    show(report);
    const [first, last] = [report.models[0], report.models[report.models.length - 1]];
    say(`Finished in ${span(report.seconds)}: ${first.name} ${two(first.truth_mean)}, ${last.name} ${two(last.truth_mean)}.`);
  },
  played({ played }) {
    showPlayed(played);
  },
  checked({ passed, failed }) {
    $("checked").textContent = failed.length === 0
      ? `${passed} cases: all right.`
      : `${failed.length} of ${passed + failed.length} cases are off: ${failed.slice(0, 5).join("; ")}`;
    say("Checked.");
  },
  read({ read, of }) {
    if (doing === "load") $("loaded").textContent = `${mib(read)} of ${mib(of)} MiB are read …`;
  },
  loaded({ family, parameters, held, planned }) {
    $("loaded").textContent = `${family}, ${(parameters / 1e6).toFixed(0)} million parameters: ${mib(held)} MiB on the GPU, ` +
      `${mib(planned)} MiB planned for a conversation.`;
    $("talk").replaceChildren();
    $("chat").hidden = false;
  },
  piece({ text }) {
    $("talk").lastElementChild.textContent += text;
  },
  answered({ tokens, held }) {
    const seconds = (performance.now() - asked) / 1000;
    $("loaded").textContent = `${tokens} tokens in ${seconds.toFixed(1)} s; ${mib(held)} MiB on the GPU.`;
  },
  archive({ bytes }) {
    const link = make("a", "", { download: "selfreward-run.zip", href: URL.createObjectURL(new Blob([bytes], { type: "application/zip" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  },
  failed({ kind, text }) {
    const running = ["start", "resume", "stopping"].includes(doing);
    if (running) resumable = true;
    const what = {
      stopped: running ? "Stopped. What was finished is kept; Resume goes on." : "Stopped.",
      lost: `The GPU was lost (${text}). ${running ? "What was finished is kept; press Resume." : "Try again."}`,
      full: `${text}. Free some of the browser’s storage for this page, then press Resume: what was finished is kept.`,
    };
    if (kind === "lost") $("chat").hidden = true;
    if (doing === "load" || doing === "chat") $("loaded").textContent = what[kind] ?? text;
    else if (doing === "ask") $("played").replaceChildren(make("p", what[kind] ?? text, { class: "notice" }));
    else say(what[kind] ?? text);
  },
  broken({ text }) {
    worker.terminate();
    ready = false;
    say("The program has ended by a bug of its own. Load the page again: what was finished is kept.");
    $("notes").hidden = false;
    $("notes").append(make("p", text));
    doing = "";
    enable();
  },
  idle() {
    doing = "";
    stages = [];
    preparing = "";
    pace(true);
    enable();
  },
};

// ---- what the visitor does

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (id) => ($(id).type === "number" ? Number($(id).value) : $(id).value);
  settings = Object.fromEntries(fields.map((id) => [id, value(id)]));
  settings.questions = questions;
  models = [];
  runs = false;
  $("notes").hidden = true;
  $("notes").replaceChildren();
  $("played").replaceChildren();
  $("report").hidden = true;
  $("no-report").hidden = false;
  $("questions").replaceChildren(make("p", "The answers of each model appear here as soon as it is measured.", { class: "muted" }));
  table();
  plot();
  say("The GPU is being prepared …");
  post({ do: "start", settings });
});
$("resume").addEventListener("click", () => { say("The run is taken up again …"); post({ do: "resume" }); });
$("stop").addEventListener("click", () => {
  worker.postMessage({ do: "stop" });
  doing = "stopping";
  say("Stopping at the next safe point …");
  enable();
});
$("play").addEventListener("submit", (event) => {
  event.preventDefault();
  $("played").replaceChildren(make("p", "The models are asked …"));
  post({ do: "ask", task: $("task").value });
});
$("check").addEventListener("click", () => { $("checked").textContent = ""; post({ do: "check" }); });
$("load").addEventListener("submit", (event) => {
  event.preventDefault();
  $("chat").hidden = true;
  $("loaded").textContent = "The file’s head is being read …";
  post({ do: "load", file: $("file").files[0], memory: Math.round(Number($("memory").value) * 2 ** 30) });
});
$("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  $("talk").append(make("p", $("said").value, { class: "mine" }), make("p", "", { class: "theirs" }));
  asked = performance.now();
  post({ do: "chat", said: $("said").value, temperature: Number($("temperature").value) });
  $("said").value = "";
});
$("hush").addEventListener("click", () => worker.postMessage({ do: "stop" }));
$("save").addEventListener("click", () => worker.postMessage({ do: "save" }));

table();
plot();
enable();
worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.onmessage = ({ data }) => {
  if (data.is !== "advance") window.heard.push(data);
  hear[data.is]?.(data);
};
worker.onerror = (event) => hear.broken({ text: event.message || "the program could not be fetched; look whether all its files are on the server" });
