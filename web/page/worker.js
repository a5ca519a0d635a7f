// Where the program runs. It is asked by messages and answers by messages; while it waits for the GPU it hears a stop.

import init, * as program from "./selfreward_web.js";
import { InUse, Journal } from "./kept.js";

let stopping = false;
let bug = "";
let journal = null;
// The visitor's file, and how many of its bytes were read.
let file = null;
let read = 0;

const tell = (is, what = {}) => postMessage({ is, ...what });

// What the program is given: see src/host.rs.
const host = {
  begin: (stage, total, unit) => tell("begin", { stage, total, unit }),
  advance: (n) => tell("advance", { n }),
  end: () => tell("end"),
  note: (sentence) => tell("note", { sentence }),
  stop: () => stopping,
  preparing: (kernel) => tell("preparing", { kernel }),
  standing(json) {
    tell("standing", { standing: JSON.parse(json) });
    setTimeout(renewReport);
  },
  piece: (text) => tell("piece", { text }),
  read(at, to) {
    const bytes = new Uint8Array(new FileReaderSync().readAsArrayBuffer(file.slice(at, at + to.length)));
    if (bytes.length < to.length) throw new DOMException("the file has become shorter", "NotReadableError");
    to.set(bytes);
    read += bytes.length;
    tell("read", { read, of: file.size });
  },
  panicked: (text) => { bug = text; },
  append: (record) => journal.append(record),
  flush: () => journal.flush(),
};


async function begin() {
  if (!("gpu" in navigator)) return tell("missing", { what: "webgpu" });
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return tell("missing", { what: "gpu" });
  if (!("Suspending" in WebAssembly && "promising" in WebAssembly)) return tell("missing", { what: "jspi" });
  const { vendor, architecture, device, description } = adapter.info;
  const name = description || device || [vendor, architecture].filter(Boolean).join(" ") || "a GPU that does not tell its name";
  tell("gpu", { name, software: adapter.info.isFallbackAdapter === true });
  await init({ module_or_path: new URL("selfreward_web_bg.wasm", import.meta.url) });
  program.listen(host);
  try {
    journal = await Journal.open();
  } catch (error) {
    if (error instanceof InUse) return tell("missing", { what: "tab" });
    tell("note", { sentence: `The browser's storage cannot be opened (${error.message}).` });
  }
  if (journal) {
    journal.resume(program.restore(journal.records()), program.records);
    program.keep(host);
  }
  tell("ready", { kept: journal !== null, run: JSON.parse(program.run()) });
  renewReport();
}

function renewReport() {
  const report = program.file("report.html");
  if (report) tell("report", { html: new TextDecoder().decode(report) });
}

const acts = {
  start: async ({ settings }) => played(await program.demo(JSON.stringify(settings), host)),
  resume: async () => played(await program.demo(undefined, host)),
  ask: async ({ task }) => tell("played", { played: JSON.parse(await program.ask(task, host)) }),
  load: async (message) => {
    file = message.file;
    read = 0;
    tell("loaded", JSON.parse(await program.load(file.name, file.size, message.memory)));
  },
  chat: async ({ said, temperature }) => tell("answered", JSON.parse(await program.chat(said, temperature, host))),
  check: async ({ variant, kernel }) => tell("checked", JSON.parse(await program.check(variant, kernel, host))),
};

// What is done at once, also while something else waits for the GPU.
const answers = {
  stop: () => { stopping = true; },
  save: () => tell("archive", { bytes: program.archive() }),
  file: ({ path }) => tell("file", { path, bytes: program.file(path) }),
};

function played(report) {
  tell("over", { report: JSON.parse(report) });
}

async function act(message) {
  stopping = false;
  try {
    await acts[message.do](message);
  } catch (error) {
    if (typeof error === "string") return tell("failed", JSON.parse(error));
    tell("broken", { text: bug || `${error}` });
  } finally {
    if (message.do === "start" || message.do === "resume") renewReport();
    tell("idle");
  }
}

onmessage = ({ data }) => {
  if (data.do in answers) answers[data.do](data);
  else act(data);
};

begin().catch((error) => tell("broken", { text: bug || `${error}` }));
