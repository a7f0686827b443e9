/**
 * The page: a question is asked, its address noted, its reply shown as it arrives. One question at a time: a new one
 * ends the one before it, whose reply is then never shown, whenever it comes.
 *
 * @typedef {import("./controls.js").Options} Options
 */
import { answerParts, arrivingParts, passageParts } from "./answer.js";
import * as api from "./api.js";
import { Controls } from "./controls.js";
import { costParts } from "./cost.js";
import { byId, counted, element } from "./dom.js";

const TICK = 100; // milliseconds
const LOOK_AGAIN = 1000; // milliseconds between two looks at a server that loads
const NEARLY_FULL = 0.9; // of the characters a question may have: from then on they are counted

/** @type {Controls | null} */
let controls = null; // null until the server has said what it has
/** @type {import("./api.js").Info | null} */
let served = null;
/** @type {AbortController | null} */
let running = null;
let noted = ""; // the part of the address that asks, as last acted on

const question = () => byId("question").value.trim();

/** Ends the question that is being answered, if one is. */
function stop() {
  running?.abort();
  running = null;
  showWaiting(null);
}

/** @param {string} asked */
async function ask(asked) {
  stop();
  const mine = new AbortController();
  running = mine;
  clearProblem();
  byId("examples").hidden = true;
  const ended = showWaiting(asked);
  try {
    if (controls === null) await greet(mine.signal);
    requireCollection();
    const listener = showArriving(asked, () => running === mine);
    const least = controls?.leastSure ?? 0;
    const reply = await api.answer({ question: asked, ...controls?.chosen }, listener, mine.signal);
    if (running === mine) showReply(reply, asked, least);
  } catch (error) {
    if (running === mine) showProblem(error);
  } finally {
    ended();
    if (running === mine) stop();
  }
}

// --- what is shown ---

/**
 * @param {import("./api.js").AnswerReply} reply
 * @param {string} asked
 * @param {number} least how sure it had to be
 */
function showReply(reply, asked, least) {
  const anyway = () => {
    controls?.takeAny();
    submit(asked);
  };
  byId("answer").replaceChildren(...answerParts(reply, asked, { least, anyway }));
  byId("cost").replaceChildren(...costParts(reply.usage));
  byId("passages").replaceChildren(...passageParts(reply));
  byId("passages").hidden = !reply.passages.length;
  byId("cost").hidden = false;
  byId("reply").hidden = false;
  const kept = reply.passages.filter((passage) => passage.kept).length;
  const said = reply.answer === null ? `No answer: ${reply.reason}` : `Answer: ${reply.answer || "none"}`;
  byId("status").textContent = `${said}. ${counted(kept, "passage")} read.`;
  document.title = `${asked} · memstore`;
}

/**
 * Shows what there is of a reply: passages as they are found, then as they are ranked, then the text as it is written.
 * @param {string} asked
 * @param {() => boolean} wanted whether the question is still the one to show
 * @returns {import("./api.js").Listener}
 */
function showArriving(asked, wanted) {
  const passages = (/** @type {"found" | "ranked"} */ stage) =>
    (/** @type {import("./api.js").RankedPassage[]} */ found) => {
      if (!wanted()) return;
      if (stage === "found") byId("answer").replaceChildren(...arrivingParts(asked));
      byId("passages").replaceChildren(...passageParts({ passages: found, answer: "" }, stage));
      byId("passages").hidden = !found.length;
      byId("cost").hidden = true;
      byId("waiting-for").hidden = true; // it heads the answer from here on
      byId("reply").classList.remove("former");
      byId("reply").classList.add("arriving");
      byId("reply").hidden = false;
    };
  const token = (/** @type {string} */ text) => {
    if (wanted()) byId("arriving").append(text);
  };
  return { retrieved: passages("found"), ranked: passages("ranked"), token };
}

/**
 * @param {string | null} asked null: nothing is waited for
 * @returns {() => void} stops the clock
 */
function showWaiting(asked) {
  const waits = asked !== null;
  byId("waiting").hidden = !waits;
  byId("stop").hidden = !waits;
  byId("reply").classList.toggle("former", waits);
  byId("reply").classList.remove("arriving");
  byId("reply").setAttribute("aria-busy", String(waits));
  if (!waits) return () => {};
  byId("status").textContent = "Answering";
  byId("waiting-for").textContent = asked;
  byId("waiting-for").hidden = false;
  const began = performance.now();
  const show = () => (byId("elapsed").textContent = ((performance.now() - began) / 1000).toFixed(1));
  show();
  const clock = setInterval(show, TICK);
  return () => clearInterval(clock);
}

/** @param {unknown} error */
function showProblem(error) {
  const trouble = error instanceof api.Trouble ? error : new api.Trouble("This page failed.", { advice: String(error) });
  const parts = [element("p", { class: "headline" }, trouble.message)];
  if (trouble.advice) parts.push(element("p", { dir: "auto" }, trouble.advice));
  if (trouble.requestId) parts.push(element("p", { class: "about" }, "Request ", element("code", {}, trouble.requestId)));
  if (trouble.wantsKey) parts.push(keyForm());
  else if (question()) {
    parts.push(element("button", { type: "button", class: "quiet", click: () => submit() }, "Ask again"));
  }
  byId("problem").replaceChildren(...parts);
  byId("reply").hidden = true;
  byId("status").textContent = "";
}

/** Asks for the key that the server wants, and goes on with it. */
function keyForm() {
  const field = /** @type {HTMLInputElement} */ (element("input", {
    id: "key", type: "password", autocomplete: "off", required: true, pattern: "[!-~]+", title: "A key has no spaces.",
  }));
  const use = (/** @type {Event} */ event) => {
    event.preventDefault();
    api.useKey(field.value);
    clearProblem();
    void begun();
  };
  return element("form", { class: "key", submit: use },
    element("label", { for: "key" }, api.hasKey() ? "Another key (that one is not known here)" : "Key"),
    field, element("button", { type: "submit" }, "Use this key"));
}

/** A way to take the key back, where there is one. */
function showKey() {
  byId("forget").hidden = !api.hasKey();
}

function clearProblem() {
  byId("problem").replaceChildren();
}

/** How many characters are left, once that matters. Counted as the server counts: by code points. */
function showLength() {
  const most = served?.limits.question_characters ?? Infinity;
  const length = [...question()].length;
  byId("hint").hidden = length < most * NEARLY_FULL;
  byId("hint").textContent = `${length.toLocaleString("en")} of at most ${most.toLocaleString("en")} characters`;
}

// --- the server's own words ---

/** Asks the server what it has, once it has loaded, and makes the controls of it. @param {AbortSignal} [signal] */
async function greet(signal) {
  try {
    served = await loaded(signal);
  } finally {
    byId("loading").hidden = true;
  }
  controls = new Controls(served, byId("options"), () => {
    showServed();
    if (!byId("examples").hidden) void offerExamples();
  });
  controls.chosen = addressed().options;
  showServed();
  showKey();
}

/** What the server has. While it loads, shows how far it is and looks again. @param {AbortSignal} [signal] */
async function loaded(signal) {
  for (;;) {
    try {
      return await api.info(signal);
    } catch (error) {
      if (!(error instanceof api.Trouble) || error.loading === null) throw error;
      showLoading(error.loading);
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
  }
}

/** @param {import("./api.js").Loading} loading */
function showLoading({ step, steps, doing, seconds }) {
  byId("loading-step").textContent = `The server is loading: step ${step} of ${steps}, ${doing}.`;
  byId("loading-seconds").textContent = `${Math.round(seconds)} s`;
  byId("loading-bar").max = steps;
  byId("loading-bar").value = step - 1;
  byId("loading").hidden = false;
}

function showServed() {
  if (controls === null) return;
  const { passages, model } = controls.asked;
  byId("served").textContent =
    `${counted(passages, "passage")}, read by ${model.name}${model.trained ? "" : " (untrained)"}`;
}

/** @throws {import("./api.js").Trouble} where the address names a collection that is not there */
function requireCollection() {
  const name = addressed().options.collection;
  if (name === undefined || controls === null || controls.has(name)) return;
  const there = controls.collections.map((one) => one.collection).join(", ");
  throw new api.Trouble(`There is no collection "${name}" here.`, { advice: there ? `There are: ${there}.` : "" });
}

/** Examples for a first visit. They are an offer: where there are none, the page does without. */
async function offerExamples() {
  const of = controls?.chosen.collection;
  const { questions, topics } = await api.examples(of).catch(() => ({ questions: [], topics: [] }));
  if (controls?.chosen.collection !== of) return; // another one was chosen meanwhile, and has its own
  const chips = [
    ...questions.map((example) => chip(example, () => submit(example))),
    ...topics.map((topic) => chip(`${topic} …`, () => begin(`${topic}: `))),
  ];
  byId("examples-title").textContent = questions.length ? "Questions to begin with" : "There are passages about";
  byId("examples-list").replaceChildren(...chips);
  byId("examples").hidden = !chips.length || running !== null || !byId("reply").hidden;
}

/** @param {string} text @param {() => void} chosen */
function chip(text, chosen) {
  return element("li", {}, element("button", { type: "button", class: "chip", dir: "auto", click: chosen }, text));
}

/** Puts the first words of a question into the box, for the visitor to go on. @param {string} words */
function begin(words) {
  const box = byId("question");
  box.value = words;
  box.focus();
  box.setSelectionRange(words.length, words.length);
}

// --- the address ---

/** @returns {{asked: string, options: Options}} what the address asks */
function addressed() {
  const named = new URLSearchParams(location.search);
  const count = (/** @type {string} */ name) => (/^\d{1,9}$/.test(named.get(name) ?? "") ? Number(named.get(name)) : undefined);
  const options = {
    collection: named.get("collection") ?? undefined,
    retrieve_k: count("retrieve_k"), keep_k: count("keep_k"),
    task: named.get("task") ?? undefined, filter: parsed(named.get("filter") ?? ""),
    min_confidence: /^(0(\.\d{1,9})?|1)$/.test(named.get("min_confidence") ?? "") ? Number(named.get("min_confidence")) : undefined,
    attention: named.get("attention") === "true" || undefined,
  };
  return { asked: (named.get("q") ?? "").trim(), options };
}

/** @param {string} text @returns {unknown} the JSON that it is, if it is */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Asks what is in the box, or what is given, and notes it in the address. @param {string} [given] */
function submit(given) {
  if (given !== undefined) byId("question").value = given;
  const asked = question();
  if (!asked) {
    byId("question").focus();
    return;
  }
  const named = new URLSearchParams({ q: asked });
  for (const [name, value] of Object.entries(controls?.changed ?? addressed().options)) {
    if (value !== undefined) named.set(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  const address = `?${named}`;
  if (address !== location.search) history.pushState(null, "", address);
  noted = location.search;
  void ask(asked);
}

/** Shows what the address asks, as on arrival and on going back. */
function arrive() {
  const { asked, options } = addressed();
  noted = location.search;
  byId("question").value = asked;
  if (controls) controls.chosen = options;
  showServed();
  showLength();
  if (asked) {
    void ask(asked);
    return;
  }
  stop();
  clearProblem();
  byId("reply").hidden = true;
  byId("status").textContent = "";
  document.title = "memstore";
  void offerExamples();
}

async function start() {
  byId("form").hidden = false;
  byId("form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    submit();
  });
  byId("question").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: Enter picks a word there
    event.preventDefault();
    submit();
  });
  byId("question").addEventListener("input", showLength);
  byId("stop").addEventListener("click", () => {
    if (byId("reply").classList.contains("arriving")) byId("reply").hidden = true; // half a reply is none
    stop();
    byId("status").textContent = "Stopped";
    byId("question").focus();
  });
  addEventListener("popstate", () => location.search !== noted && arrive()); // not for another place on the page
  byId("forget").addEventListener("click", () => {
    api.useKey(null);
    location.reload();
  });
  if (matchMedia("(hover: hover)").matches) byId("question").focus(); // elsewhere a keyboard would cover the page
  await begun();
}

/** Greets the server, and shows what the address asks. */
async function begun() {
  if (addressed().asked) {
    arrive(); // greets first
    return;
  }
  try {
    await greet();
  } catch (error) {
    if (running === null) showProblem(error);
    return;
  }
  if (running === null) arrive();
}

void start();
