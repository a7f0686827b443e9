/**
 * The server's API: a reply, or a `Trouble` that says in plain words what went wrong. Knows no elements.
 *
 * @typedef {{question: string, collection?: string, task?: string, retrieve_k?: number, keep_k?: number, filter?: unknown,
 *   min_confidence?: number, attention?: boolean}} AnswerRequest
 * @typedef {{id: string, title: string, text: string, url: string, retrieval_rank: number | null,
 *   retrieval_score: number | null, rerank_score: number | null, kept: boolean, attention?: number | null,
 *   metadata?: Record<string, string | boolean | number | string[]>}} RankedPassage
 * @typedef {{milliseconds: Record<string, number>, bytes_read: number, flops: Record<string, number>,
 *   fid_flops: number, questions_in_batch: number}} Usage
 * @typedef {{answer: string | null, reason: string | null, confidence: number, calibrated: boolean,
 *   score: number, passages: RankedPassage[], usage: Usage, cut?: boolean,
 *   lowered?: {retrieve_k: number, keep_k: number, reasons: string[]} | null,
 *   model: {name: string, trained: boolean, system: string},
 *   store: {collection?: string, generation: number, passages: number}, request_id: string}} AnswerReply
 * @typedef {{name: string, trained: boolean, system: string, tasks: string[]}} Model
 * @typedef {{collection?: string, generation: number, passages: number,
 *   metadata?: Record<string, import("./filter.js").Kind[]>}} Store
 * @typedef {{model: Model, store: Store, collections?: (Store & {model: Model})[],
 *   limits: {question_characters: number, retrieve_k: number, keep_k: number},
 *   defaults: {retrieve_k: number, keep_k: number, min_confidence?: number}}} Info
 * @typedef {{questions: string[], topics: string[]}} Examples
 * @typedef {{step: number, steps: number, doing: string, seconds: number}} Loading
 * @typedef {{retrieved: (passages: RankedPassage[]) => void, ranked: (passages: RankedPassage[]) => void,
 *   token: (text: string) => void}} Listener what is called while an answer is made
 */

import { events } from "./events.js";

const KEY = "memstore-key"; // in the session's storage: gone with the tab, in no address
const ROOT = new URL("../", import.meta.url); // wherever a proxy shows the server
const PROBLEM = "application/problem+json";
const STREAM = "text/event-stream";

/**
 * Why there is no reply. `message` is the headline; `advice` says what to do; `loading`, of a server that will reply;
 * `wantsKey`, of one that replies to those it knows.
 */
export class Trouble extends Error {
  /**
   * @param {string} headline
   * @param {{advice?: string, requestId?: string, loading?: Loading | null, wantsKey?: boolean}} [more]
   */
  constructor(headline, { advice = "", requestId = "", loading = null, wantsKey = false } = {}) {
    super(headline);
    this.advice = advice;
    this.requestId = requestId;
    this.loading = loading;
    this.wantsKey = wantsKey;
  }
}

/** Whether a key is shown with each request. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Shows this key from now on, or none. @param {string | null} key */
export function useKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** @param {AbortSignal} [signal] @returns {Promise<Info>} */
export const info = (signal) => call("info", { signal });

/** @param {string} [collection] @returns {Promise<Examples>} */
export const examples = (collection) =>
  call(collection === undefined ? "page/examples" : `page/examples?${new URLSearchParams({ collection })}`, {});

/**
 * @param {AnswerRequest} request
 * @param {Listener} listener
 * @param {AbortSignal} signal
 * @returns {Promise<AnswerReply>}
 * @throws {Trouble} as `call`
 */
export async function answer(request, listener, signal) {
  const question = request.question.toWellFormed?.() ?? request.question;
  const response = await asked("answer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, question, stream: true }),
    signal,
  });
  if (!is(response, STREAM) || !response.body) throw foreign();
  const arriving = events(response.body);
  for (;;) {
    const { done, value } = await reached(() => arriving.next());
    if (done) throw new Trouble("The answer broke off.", { advice: "The server may have been stopped. Ask again." });
    const data = parsed(value.data);
    if (data === null) throw foreign();
    if (value.name === "done") return data;
    if (value.name === "error") throw troubleOf(data.status, data);
    if (value.name === "retrieved" || value.name === "ranked") listener[value.name](data.passages);
    if (value.name === "token") listener.token(data.text);
  }
}

/**
 * @param {string} path below the page's own address
 * @param {RequestInit} options
 * @throws {Trouble} for whatever is no reply; what `options.signal` aborts ends in its `AbortError`
 */
async function call(path, options) {
  const response = await asked(path, options);
  const value = is(response, "application/json") ? parsed(await reached(() => response.text())) : null;
  if (value === null) throw foreign();
  return value;
}

/** A response that succeeded. @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
async function asked(path, options) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.set("Authorization", `Bearer ${key}`);
  const response = await reached(() => fetch(new URL(path, ROOT), { cache: "no-store", ...options, headers }));
  if (response.ok) return response;
  const text = await reached(() => response.text());
  const retryAfter = response.headers.get("Retry-After");
  throw troubleOf(response.status, is(response, PROBLEM) ? parsed(text) : null, response.statusText, retryAfter);
}

/** @param {Response} response @param {string} mediaType */
function is(response, mediaType) {
  return (response.headers.get("Content-Type") ?? "").startsWith(mediaType);
}

function foreign() {
  return new Trouble("The reply is not memstore's.", { advice: "Something between this page and the server replied." });
}

/** @template T @param {() => Promise<T>} step @returns {Promise<T>} */
async function reached(step) {
  try {
    return await step();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached.", {
      advice: "It may have been stopped, or the network is down. Your question is still here: ask again in a moment.",
    });
  }
}

/** @param {string} text @returns {any} */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** @type {Record<number, string>} */
const HEADLINES = {
  401: "The server wants to know who asks.",
  403: "You may not ask this server.",
  404: "The server has nothing at this address.",
  413: "The question is too long.",
  422: "The question cannot be answered as asked.",
  429: "Too many questions are waiting.",
  500: "The server failed.",
  502: "The server cannot be reached.",
  503: "The server takes no questions right now.",
  504: "There was no answer in time.",
};

/** @type {Record<number, string>} */
const ADVICE = {
  401: "Give it a key: whoever runs it has one for you.",
  413: "Ask a shorter one.",
  500: "Its log has the cause, under the number below.",
  502: "The proxy in front of it is there, the server is not.",
  504: "Ask again, or have fewer passages found and read.",
};

/**
 * @param {number} replied the reply's status
 * @param {{type?: string, title?: string, detail?: string, request_id?: string, loading?: Loading | null} | null} problem
 * @param {string} [statusText]
 * @param {string | null} [retryAfter]
 */
function troubleOf(replied, problem, statusText = "", retryAfter = null) {
  const status = problem?.type === "urn:memstore:problem:overloaded" ? 429 : replied;
  const headline = HEADLINES[status] ?? `The server replied "${problem?.title ?? statusText}" (${status}).`;
  const said = [401, 429, 500].includes(status) ? "" : sentence(problem?.detail ?? "");
  const advice = [said, ADVICE[status] ?? "", later(retryAfter)].filter(Boolean).join(" ");
  return new Trouble(headline, {
    advice, requestId: problem?.request_id ?? "", loading: problem?.loading ?? null, wantsKey: replied === 401,
  });
}

/** When it is worth another try. @param {string | null} retryAfter seconds, or a date, which is left out */
function later(retryAfter) {
  if (retryAfter === null || !/^\d+$/.test(retryAfter)) return "";
  const seconds = Number(retryAfter);
  return `Try again in ${seconds === 1 ? "a second" : `${seconds} seconds`}.`;
}

/** @param {string} text */
function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return !begun || /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
