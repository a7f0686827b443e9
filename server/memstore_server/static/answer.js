/**
 * An answer and its passages as elements. Passages come in the order of the reply: best first, the kept ones ahead.
 *
 * @typedef {import("./api.js").AnswerReply} AnswerReply
 * @typedef {import("./api.js").RankedPassage} RankedPassage
 */
import { bar, counted, element } from "./dom.js";
import { canBeMarked, marksOf, pieces } from "./marks.js";

const UNNAMED = "default"; // the only store of a server
const SHORTEST = 0.03; // of a bar, so that the lowest score is still to be seen

/**
 * @param {AnswerReply} reply
 * @param {string} question
 * @param {{least: number, anyway: () => void}} asked how sure it had to be, and what asks for whatever answer there is
 * @returns {HTMLElement[]}
 */
export function answerParts(reply, question, { least, anyway }) {
  const { model, store, passages } = reply;
  const notices = [];
  if (!model.trained) {
    notices.push("This model is untrained: its weights are random, so the answer and the ranking mean nothing.");
  }
  if (reply.cut && reply.answer !== null) notices.push("The answer was cut off at its length limit.");
  if (reply.lowered) notices.push(loweredWords(reply));
  if (!passages.length) notices.push(`No passage was found${reply.answer === null ? "" : ": this answer is a guess"}.`);
  return [
    element("h2", { id: "answer-title", class: "asked", dir: "auto" }, question),
    element("p", { class: reply.answer === null ? "text unknown" : "text", dir: "auto" }, answerText(reply)),
    ...notices.map((notice) => element("p", { class: "notice" }, notice)),
    ...(reply.answer === null ? unknown(reply, anyway) : sources(passages, reply.answer)),
    confidence(reply, least),
    element("p", { class: "by" },
      "by ", element("b", {}, model.name), ` (${systemName(model.system)}), `,
      ...(named(store) ? [element("b", { dir: "auto" }, store.collection ?? ""), ", "] : []), `generation ${store.generation}, `,
      `${counted(store.passages, "passage")} · log-probability `, decimal(reply.score)),
  ];
}

/** @type {Record<string, string>} */
const REASONS = {
  deadline_ms: "more would have come too late",
  max_gflop: "more would have cost more than may be",
  load: "the server has much to do",
};

/** That fewer passages were read than asked for, and why. @param {AnswerReply} reply */
function loweredWords({ lowered, passages }) {
  const { retrieve_k: found, keep_k: read, reasons } = /** @type {NonNullable<AnswerReply["lowered"]>} */ (lowered);
  const kept = passages.filter((passage) => passage.kept).length;
  const why = reasons.map((reason) => REASONS[reason] ?? reason).join(", and ");
  return `${passages.length} passages were found and ${kept} read, not ${found} and ${read}: ${why}.`;
}

/** Whether the server calls its store anything. @param {AnswerReply["store"]} store */
function named({ collection = UNNAMED }) {
  return collection !== UNNAMED;
}

/** @param {AnswerReply} reply */
function answerText({ answer }) {
  if (answer === null) return "I do not know.";
  return answer || "(the model wrote nothing)";
}

/** Why there is no answer, and a way to see it all the same. @param {AnswerReply} reply @param {() => void} anyway */
function unknown({ reason }, anyway) {
  return [
    ...(reason ? [element("p", { class: "notice" }, `${capital(reason)}.`)] : []),
    element("p", { class: "anyway" }, element("button", { type: "button", class: "quiet", click: anyway }, "Answer all the same")),
  ];
}

/** How sure one may be, with what that means. @param {AnswerReply} reply @param {number} least */
function confidence({ confidence: share, calibrated }, least) {
  const meaning = calibrated ? "how often such answers are right" : "the model's own probability of this answer, not calibrated";
  return element("p", { class: "confidence" },
    element("span", { class: "kind" }, "confidence"), gauge(share, least),
    element("span", { class: "score" }, percent(share)),
    ...(least > 0 ? [element("span", { class: "least-words" }, `at least ${percent(least)} asked for`)] : []),
    element("span", { class: "meaning" }, meaning));
}

/** A bar with a mark where it had to reach. @param {number} share @param {number} least */
function gauge(share, least) {
  const mark = element("span", { class: "least" });
  mark.style.insetInlineStart = `${100 * least}%`; // as of `bar`
  return element("span", { class: "gauge", "aria-hidden": "true" }, bar(share, "sure"), least > 0 ? mark : null);
}

/** @param {number} share */
function percent(share) {
  return share > 0 && share < 0.01 ? "under 1%" : `${Math.round(100 * share)}%`;
}

/** @param {string} text */
function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Which of the passages read hold the whole answer. @param {RankedPassage[]} passages @param {string} answer */
function sources(passages, answer) {
  const kept = passages.filter((passage) => passage.kept);
  if (!kept.length || !canBeMarked(answer)) return [];
  const places = kept.flatMap((passage, at) => (holds(passage, answer) ? [at + 1] : []));
  if (!places.length) return [element("p", { class: "sources" }, "Its words stand together in none of the passages read.")];
  const links = places.flatMap((place) => [" ", placeLink(place)]);
  return [element("p", { class: "sources" }, places.length === 1 ? "Stands in passage" : "Stands in passages", ...links)];
}

/**
 * Leads to a passage, without an address of its own: that would be a place to go back to.
 * @param {number} place
 */
function placeLink(place) {
  const id = `passage-${place}`;
  const go = (/** @type {Event} */ event) => {
    event.preventDefault();
    document.getElementById(id)?.focus();
  };
  return element("a", { href: `#${id}`, class: "place", click: go }, String(place));
}

/** @param {RankedPassage} passage @param {string} answer */
function holds(passage, answer) {
  return [passage.title, passage.text].some((text) => marksOf(text, answer).some((mark) => mark.whole));
}

/**
 * What is shown of an answer while it is written, which goes into the second part.
 * @param {string} question
 * @returns {HTMLElement[]}
 */
export function arrivingParts(question) {
  return [
    element("h2", { id: "answer-title", class: "asked", dir: "auto" }, question),
    element("p", { id: "arriving", class: "arriving-text", dir: "auto" }),
  ];
}

/**
 * @typedef {"found" | "ranked" | "read"} Stage how far the passages are
 * @param {{passages: RankedPassage[], answer: string | null}} reply
 * @param {Stage} [stage]
 * @returns {HTMLElement[]}
 */
export function passageParts({ passages, answer }, stage = "read") {
  if (!passages.length) return [];
  const shares = passages.map((passage) => passage.attention ?? 0);
  const highest = Math.max(...shares);
  const scales = {
    rerank: scaleOf(passages.map((passage) => passage.rerank_score)),
    retrieval: scaleOf(passages.map((passage) => passage.retrieval_score)),
    attention: highest > 0 ? (/** @type {number} */ share) => share / highest : null,
  };
  const shown = passages.map((passage, at) => passageItem(passage, at + 1, scales, { answer: answer ?? "", stage }));
  const kept = stage === "found" ? passages.length : passages.filter((passage) => passage.kept).length;
  const now = { found: "scored now", ranked: `the best ${kept} read now`, read: `the best ${kept} kept and read` }[stage];
  const parts = [
    element("h2", { id: "passages-title" }, scales.rerank ? "Passages, reranked" : "Passages, as retrieved"),
    element("p", { class: "about" },
      `${counted(passages.length, "passage")} found, ${now}. `,
      "Bars reach from the lowest score here to the highest.",
      scales.attention ? " Attention is a passage's share of what the reader looked at: 100% for all that were read." : ""),
    element("ol", { class: "list" }, ...shown.slice(0, kept)),
  ];
  if (kept < passages.length) {
    parts.push(
      element("h3", { class: "cut" }, `Dropped: ${passages.length - kept}, scored but not read`),
      element("ol", { class: "list", start: kept + 1 }, ...shown.slice(kept)),
    );
  }
  return parts;
}

/**
 * @typedef {(score: number) => number} Scale a score to a share of a bar
 * @typedef {{rerank: Scale | null, retrieval: Scale | null, attention: Scale | null}} Scales
 */

/** @param {(number | null)[]} scores @returns {Scale | null} null where nothing was scored */
function scaleOf(scores) {
  const known = scores.filter((score) => score !== null);
  if (!known.length) return null;
  const [lowest, highest] = [Math.min(...known), Math.max(...known)];
  return (score) => (highest === lowest ? 1 : Math.max(SHORTEST, (score - lowest) / (highest - lowest)));
}

/**
 * @param {RankedPassage} passage
 * @param {number} place in the order of the reply, from 1
 * @param {Scales} scales
 * @param {{answer: string, stage: Stage}} reply
 */
function passageItem(passage, place, scales, { answer, stage }) {
  const title = passage.title || passage.id;
  const kind = stage === "found" ? "found" : passage.kept ? "kept" : "dropped";
  const number = element("span", { class: "number" }, String(place));
  const scores = element("span", { class: "scores" },
    ...scoreLine("rerank", place, passage.rerank_score, scales.rerank),
    ...scoreLine("retrieval", passage.retrieval_rank, passage.retrieval_score, scales.retrieval),
    ...scoreLine("attention", null, passage.attention ?? null, scales.attention, percent));
  const head = [
    number,
    element(passage.kept ? "h3" : "span", { class: "title", dir: "auto" }, ...marked(title, passage, answer)),
    element("span", { class: `tag ${kind}` }, kind),
    scores,
  ];
  const body = element("div", { class: "body" },
    element("p", { class: "text", dir: "auto" }, ...marked(passage.text, passage, answer)), ...origin(passage));
  const item = { class: `passage ${kind}`, id: `passage-${place}`, tabindex: passage.kept ? -1 : null };
  if (stage === "found") return element("li", { class: item.class }, element("div", { class: "head" }, ...head));
  if (passage.kept) return element("li", item, element("div", { class: "head" }, ...head), body);
  return element("li", item, element("details", {}, element("summary", { class: "head" }, ...head), body));
}

/**
 * A score, its place and its bar; nothing where the step did not take place.
 * @param {"rerank" | "retrieval" | "attention"} kind
 * @param {number | null} place
 * @param {number | null} score
 * @param {Scale | null} scale
 * @param {(score: number) => string} [words]
 */
function scoreLine(kind, place, score, scale, words = decimal) {
  if (score === null || scale === null) return [];
  return [
    element("span", { class: "kind" }, kind),
    element("span", { class: "rank" }, place === null ? "" : ordinal(place)),
    bar(scale(score), kind),
    element("span", { class: "score" }, words(score)),
  ];
}

/** Where a passage is from, and what its document says of itself. @param {RankedPassage} passage */
function origin({ id, url, metadata = {} }) {
  const parts = [element("span", {}, id)];
  const link = webAddress(url);
  if (link) parts.push(element("a", { href: link, rel: "noopener noreferrer", target: "_blank" }, url));
  else if (url) parts.push(element("span", {}, url));
  for (const [name, value] of Object.entries(metadata)) {
    parts.push(element("span", { dir: "auto" }, `${name}: ${Array.isArray(value) ? value.join(", ") : value}`));
  }
  return [element("p", { class: "origin" }, ...parts)];
}

/** An address that may be followed: a corpus can hold `javascript:` too. @param {string} url */
function webAddress(url) {
  try {
    const { protocol, href } = new URL(url);
    return protocol === "https:" || protocol === "http:" ? href : null;
  } catch {
    return null;
  }
}

/**
 * A passage's text or title with the answer's words marked: only in what the reader saw, and single words only where
 * the whole answer is in neither.
 * @param {string} text
 * @param {RankedPassage} passage
 * @param {string} answer
 */
function marked(text, passage, answer) {
  if (!passage.kept) return [text];
  const whole = holds(passage, answer);
  return pieces(text, marksOf(text, answer).filter((mark) => mark.whole || !whole)).map((piece) =>
    piece.mark ? element("mark", { class: piece.mark.whole ? "whole" : "word" }, piece.text) : piece.text);
}

/** @param {string} system */
function systemName(system) {
  return { fid: "FiD", lumen: "LUMEN", glimmer: "GLIMMER" }[system] ?? system;
}

/** @param {number} value */
function decimal(value) {
  return value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 }).replace("-", "−");
}

/** 1st, 2nd, 3rd, 4th. @param {number} place */
function ordinal(place) {
  const endings = { one: "st", two: "nd", few: "rd", other: "th" };
  const kind = new Intl.PluralRules("en", { type: "ordinal" }).select(place);
  return `${place}${endings[/** @type {keyof typeof endings} */ (kind)]}`;
}
