// The page in a real browser: node page.mjs FOLDER CHROMIUM PROGRAM OUT MODEL [whole]
//
// FOLDER is what scripts/web builds, PROGRAM the command line, whose run of the same settings the page's must equal. Pictures
// go to OUT. MODEL is a chat model's GGUF file; without one nobody is talked with. `whole` plays the whole demo instead.
// playwright-core is looked for where this is started.

import { spawn, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, mkdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [folder, chromium, program, out, model, whole] = process.argv.slice(2);
const { chromium: driver } = createRequire(join(process.cwd(), "x.js"))("playwright-core");
mkdirSync(out, { recursive: true });
const FLAGS = [
  "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update", "--disable-gpu-process-crash-limit",
];
const WEBGPU = FLAGS.slice(0, 2);
const SMALL = { rounds: 1, prompts: 12, questions: 16, seed: 5 };

let failures = 0;
const began = Date.now();
function check(what, is, told = "") {
  const seconds = ((Date.now() - began) / 1000).toFixed(0).padStart(4);
  console.log(`${seconds} s  ${is ? "ok    " : "FAILED"} ${what}${is ? "" : `: ${told}`}`);
  if (!is) failures += 1;
}

const server = spawn(process.env.WEB_TOOLS, ["serve", folder, "0"], { stdio: ["ignore", "pipe", "inherit"] });
const address = await new Promise((done) => server.stdout.once("data", (line) => done(String(line).trim())));
const profiles = [];

// A browser with a profile of its own, or with that of one that was closed.
async function browser({ profile, flags = FLAGS, ...options } = {}) {
  const dir = profile ?? mkdtempSync(join(tmpdir(), "selfreward-page-"));
  if (!profile) profiles.push(dir);
  const context = await driver.launchPersistentContext(dir, {
    executablePath: chromium, headless: true, args: flags, chromiumSandbox: false, acceptDownloads: true, ...options,
  });
  return { context, dir };
}

async function open(context, query = `?questions=${SMALL.questions}`) {
  const page = await context.newPage();
  page.on("pageerror", (error) => check("no script fails", false, error));
  await page.goto(address + query);
  return page;
}

const status = (page) => page.locator("#status").innerText();
const until = (page, words, seconds = 300) =>
  page.waitForFunction((w) => new RegExp(w).test(document.getElementById("status").textContent), words, { timeout: 1000 * seconds });

async function fill(page, settings = SMALL) {
  for (const id of ["rounds", "prompts", "seed"]) await page.fill(`#${id}`, String(settings[id]));
}

const scores = (page) => page.$$eval("#scores [data-model]", (rows) => rows.map((r) => `${r.dataset.model} ${r.dataset.score}`));

// The bytes of a file of the run.
async function file(page, path) {
  const bytes = await page.evaluate((wanted) => new Promise((done) => {
    window.ask({ do: "file", path: wanted });
    const look = () => {
      const at = window.heard.findIndex((m) => m.is === "file" && m.path === wanted);
      if (at < 0) return setTimeout(look, 20);
      const [message] = window.heard.splice(at, 1);
      return done(message.bytes ? Array.from(message.bytes) : null);
    };
    look();
  }), path);
  return bytes && Buffer.from(bytes);
}

const FILES = ["metrics.json", "evaluation/M1.jsonl", "evaluation/M2.jsonl", "round-1/prompts.jsonl", "round-1/candidates.jsonl",
  "round-1/verdicts.jsonl", "round-1/pairs.jsonl", "M2/model.safetensors"];

async function sums(page) {
  const all = {};
  for (const name of FILES) {
    const bytes = await file(page, name);
    all[name] = bytes && createHash("sha256").update(bytes).digest("hex");
  }
  return JSON.stringify(all);
}

async function picture(page, name) {
  const path = join(out, `${name}.png`);
  // What is far below is drawn once it was in sight.
  if (await page.locator("#report").isVisible()) {
    await page.locator("#report").scrollIntoViewIfNeeded();
    await page.waitForTimeout(500);
  }
  await page.evaluate(() => window.scrollTo(0, 0));
  await page.screenshot({ path, fullPage: true });
  check(`picture ${name}`, statSync(path).size > 20000, "it is blank");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  check(`${name} does not scroll sideways`, wide <= 0, `${wide} pixels`);
}

async function missing() {
  const no = FLAGS.filter((flag) => !WEBGPU.includes(flag));
  const insecure = "page.example";
  for (const [what, flags, host, words] of [
    // Over plain http from another host there is no WebGPU; the name leads to this machine here.
    ["WebGPU", [...FLAGS, `--host-resolver-rules=MAP ${insecure} 127.0.0.1`], insecure, "does not offer WebGPU"],
    ["a GPU", no, "", "offers no GPU"],
    ["JSPI", FLAGS, "", "JSPI is missing"],
  ]) {
    const { context } = await browser({ flags });
    const page = await context.newPage();
    if (what === "JSPI") {
      // Browsers that have it can no longer be told to do without.
      await page.route("**/worker.js", async (route) => {
        const answer = await route.fetch();
        await route.fulfill({ response: answer, body: `delete WebAssembly.Suspending;\n${await answer.text()}` });
      });
    }
    await page.goto(host ? address.replace("127.0.0.1", host) : address);
    await page.waitForSelector("#missing:not([hidden])", { timeout: 60000 });
    const text = await page.locator("#missing").innerText();
    check(`without ${what} the page says so`, text.includes(words) && /Chrome|browser’s settings/.test(text), text);
    check("and nothing can be started", await page.locator("#start").isDisabled());
    if (what === "WebGPU") await picture(page, "missing");
    await context.close();
  }
}

// What the command line finds with the same settings.
function natively(settings) {
  const args = ["demo", "--json", "-q"];
  for (const [name, value] of Object.entries(settings)) args.push(`--${name}`, String(value));
  return JSON.parse(execFileSync(program, args, { maxBuffer: 1 << 26 }));
}

async function undisturbed() {
  const { context } = await browser({ viewport: { width: 1100, height: 900 }, colorScheme: "light" });
  const page = await open(context);
  await until(page, "^Ready");
  const gpu = await page.locator("#gpu").innerText();
  check("the GPU is named", /swiftshader/i.test(gpu), gpu);
  const second = await open(context);
  await second.waitForSelector("#missing:not([hidden])", { timeout: 60000 });
  check("a second tab is refused", (await second.locator("#missing").innerText()).includes("another tab"));
  await second.close();

  await fill(page);
  // The times of more than 100 ms for which the page did not answer. A busy machine makes some, a page that waits makes many.
  await page.evaluate(() => {
    let last = performance.now();
    window.late = 0;
    setInterval(() => { const now = performance.now(); if (now - last > 100) window.late += now - last; last = now; }, 5);
  });
  const started = Date.now();
  await page.click("#start");
  await until(page, "M1 is measured");
  await page.waitForSelector("#scores [data-model=M1]", { timeout: 300000 });
  await until(page, "^(Finished|The GPU|Stopped|.*full|/run)", 600);
  check("a run ends", (await status(page)).startsWith("Finished"), await status(page));
  const late = (await page.evaluate(() => window.late)) / (Date.now() - started);
  check(`the page answers within 100 ms (but for ${(100 * late).toFixed(1)} % of the time)`, late < 0.02);

  const native = natively(SMALL);
  const expected = native.models.map((m) => `${m.name} ${m.truth_mean.toFixed(2)}`);
  const shown = await scores(page);
  check(`its scores are those of the native run (${expected.join(", ")})`, JSON.stringify(shown) === JSON.stringify(expected), shown);
  const metrics = JSON.parse(await file(page, "metrics.json"));
  for (const [i, model] of native.models.entries()) {
    const [ours, theirs] = [metrics.models[i], model].map((m) => [m.greedy_mean, m.judge_spearman, m.distinct_samples].map((x) => x?.toFixed(3)).join(" "));
    check(`${model.name}'s other figures too (${theirs})`, ours === theirs, ours);
  }

  await page.fill("#task", "Reverse: CAJE");
  await page.click("#ask");
  await page.waitForSelector("#played table", { timeout: 60000 });
  const played = await page.locator("#played").innerText();
  check("a task that is typed is answered and marked", /ejac[\s\S]*M1[\s\S]*M2/.test(played), played);
  await page.fill("#task", "sing: abc");
  await page.click("#ask");
  await page.waitForSelector("#played .notice", { timeout: 60000 });
  check("what is no task is refused in words", (await page.locator("#played").innerText()).includes("reverse: caje"));
  await page.fill("#task", "reverse: caje");
  await page.click("#ask");
  await page.waitForSelector("#played table", { timeout: 60000 });

  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  const zip = join(out, "run.zip");
  await download.saveAs(zip);
  const listed = execFileSync("python3", ["-c", "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; print(*z.namelist())", zip]);
  check("the run's folder is saved whole", FILES.every((name) => String(listed).includes(`run/${name}`)), listed);
  const report = page.frameLocator("#report");
  check("the report is shown", (await report.locator("h1").innerText()).includes("Self-rewarding run"));

  await page.locator("#report").screenshot({ path: join(out, "report.png") });
  await picture(page, "wide");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "dark");
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
  await picture(page, "narrow");
  const all = await sums(page);
  await context.close();
  return all;
}

// Stopped, then killed with its browser, then without room, then without its GPU; and each time resumed. The first browser
// gives itself out as Firefox, whose waits are shortened by empty submits.
async function disturbed(expected) {
  const first = await browser({ flags: [...FLAGS, "--user-agent=Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Firefox/153.0"] });
  let page = await open(first.context);
  await until(page, "^Ready");
  await fill(page);
  await page.click("#start");
  await until(page, "Round 1: M1 answers");
  await page.click("#stop");
  await until(page, "^Stopped");
  check("a run stops, and can be resumed", await page.locator("#resume").isEnabled());
  await page.click("#resume");
  await until(page, "Round 1: M1 (judges|answers)");
  const killed = first.context.browser();
  process.kill(first.pid ?? pidOf(first.dir), "SIGKILL");
  await (killed ? new Promise((done) => setTimeout(done, 1500)) : Promise.resolve());

  const { context } = await browser({ profile: first.dir });
  page = await open(context);
  await until(page, "was interrupted");
  check("after a kill the settings and the scores are there", (await page.inputValue("#prompts")) === String(SMALL.prompts) && (await scores(page)).length === 1);
  // Without room.
  const session = await context.newCDPSession(page);
  const origin = new URL(address).origin;
  await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1 });
  await page.click("#resume");
  await until(page, "storage");
  check("full storage is said", /full[\s\S]*Resume/.test(await status(page)), await status(page));
  await session.send("Storage.overrideQuotaForOrigin", { origin });
  await page.click("#resume");
  await until(page, "M1 judges|M2 is trained|M2 is measured");
  // Without its GPU.
  const whole = await context.browser()?.newBrowserCDPSession().catch(() => null);
  if (whole) {
    await whole.send("Browser.crashGpuProcess").catch(() => {});
    await until(page, "GPU was lost|Finished");
    check("a lost GPU is said", (await status(page)).includes("GPU was lost"), await status(page));
    if (await page.locator("#resume").isEnabled()) await page.click("#resume");
  } else {
    console.log("skipped: a lost GPU, for the browser cannot be asked to lose it");
  }
  await until(page, "^Finished", 600);
  const got = await sums(page);
  check("what was stopped, killed and hindered ends in the same bytes", got === expected, `${got}\n${expected}`);
  await context.close();
}

// The browser's process, by the profile that it was given.
function pidOf(dir) {
  const lines = String(execFileSync("ps", ["-eo", "pid,args"])).split("\n");
  const own = lines.find((line) => line.includes(`--user-data-dir=${dir}`) && !line.includes("--type="));
  return Number(own.trim().split(/\s+/)[0]);
}

// A real model, chosen from disk: what it says is what the command line has it say.
async function talk() {
  if (!existsSync(model)) return console.log(`skipped: a real model in the page, for ${model} is missing`);
  const question = "What is the capital of France?";
  const { context } = await browser();
  const page = await open(context);
  await until(page, "^Ready");
  const load = async (file, memory, words) => {
    await page.setInputFiles("#file", file);
    await page.fill("#memory", memory);
    await page.click("#open");
    await page.waitForFunction((w) => new RegExp(w).test(document.getElementById("loaded").textContent), words, { timeout: 300000 });
    return page.locator("#loaded").innerText();
  };
  const none = await load({ name: "notes.gguf", mimeType: "text/plain", buffer: Buffer.from("no model at all") }, "4", "notes");
  check("a file that is no model is refused in words", none.includes("is not a GGUF file"), none);
  const large = await load(model, "0.1", "needs|GPU:");
  check("a model that does not fit is refused before it is read", large.includes("needs"), large);
  const first = await page.evaluate(() => Math.max(0, ...window.heard.filter((m) => m.is === "read" && m.of > 1e6).map((m) => m.read / m.of)));
  check("only its head was read", first < 0.2, first);
  const loaded = await load(model, "4", "planned");
  check(`a model is loaded (${loaded})`, loaded.includes("million parameters"), loaded);
  await page.fill("#temperature", "0");
  await page.fill("#said", question);
  await page.click("#send");
  await page.waitForFunction(() => /tokens in/.test(document.getElementById("loaded").textContent), null, { timeout: 600000 });
  const said = await page.locator("#talk .theirs").innerText();
  const native = JSON.parse(execFileSync(program, ["generate", "--json", "-q", "--model", model, "--prompt", question, "--temperature", "0"]));
  check(`it answers as the command line's does (${said})`, JSON.stringify(native).includes(JSON.stringify(said.trim()).slice(1, -1)), JSON.stringify(native));
  await page.locator("#chat").scrollIntoViewIfNeeded();
  await page.locator("section:has(#chat)").screenshot({ path: join(out, "talk.png") });
  await context.close();
}

async function kernels() {
  const { context } = await browser();
  const page = await open(context);
  await until(page, "^Ready");
  await page.evaluate(() => window.ask({ do: "check", variant: "soft" }));
  await page.waitForFunction(() => document.getElementById("checked").textContent !== "", null, { timeout: 900000 });
  const told = await page.locator("#checked").textContent();
  check(`the kernels compute right (${told})`, told.endsWith("all right."), told);
  await context.close();
}

async function wholeDemo() {
  const { context } = await browser();
  const page = await open(context, "");
  await until(page, "^Ready");
  await page.click("#start");
  await until(page, "^Finished", 1800);
  const expected = natively({}).models.map((m) => `${m.name} ${m.truth_mean.toFixed(2)}`);
  const shown = await scores(page);
  check(`the whole demo equals the native one (${expected.join(", ")})`, JSON.stringify(shown) === JSON.stringify(expected), shown);
  await context.close();
}

try {
  if (whole) {
    await wholeDemo();
  } else {
    await missing();
    await disturbed(await undisturbed());
    await talk();
    await kernels();
  }
} catch (error) {
  check("the test goes through", false, error.stack);
} finally {
  server.kill();
  profiles.forEach((dir) => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }));
}
process.exit(failures > 0 ? 1 : 0);
