/**
 * What an answer cost, stage by stage, beside what FiD would have: the reply's `usage` as a table.
 *
 * @typedef {import("./api.js").Usage} Usage
 */
import { bar, counted, element } from "./dom.js";

/** Stages in the order they run, in words. One that is not named here is shown under its own name. */
/** @type {Record<string, string>} */
const STAGES = {
  queue: "wait",
  retrieve: "find passages",
  load: "load memories",
  question: "encode question",
  live_a: "score passages",
  live_b: "read the kept",
  decode: "write answer",
};
const TOTAL = "total"; // milliseconds from the request to the reply
const UNITS = ["", "K", "M", "G", "T", "P", "E"];

/** @param {Usage} usage @returns {HTMLElement[]} */
export function costParts(usage) {
  const { milliseconds, flops, fid_flops: fid } = usage;
  const spent = Object.values(flops).reduce((sum, count) => sum + count, 0);
  const known = Object.keys(STAGES);
  const named = new Set([...Object.keys(milliseconds), ...Object.keys(flops)]);
  const stages = [...known.filter((stage) => named.has(stage)), ...[...named].filter((stage) => !known.includes(stage))];
  const total = milliseconds[TOTAL] ?? 0;
  const longest = Math.max(total, ...Object.values(milliseconds));
  const most = Math.max(spent, fid);
  const rows = stages.filter((stage) => stage !== TOTAL).map((stage) => row(STAGES[stage] ?? stage, [
    [milliseconds[stage], longest, "time", time], [flops[stage], most, "operations", operations],
  ]));
  return [
    element("h2", { id: "cost-title" }, "What it cost"),
    element("p", { class: "figures" }, figure(time(total), "in all"), comparison(spent, fid)),
    element("table", {},
      element("caption", { class: "unseen" }, "Time and operations of each stage, and FiD's operations"),
      element("thead", {}, element("tr", {}, element("td", {}),
        element("th", { scope: "col" }, "time"), element("th", { scope: "col" }, "operations"))),
      element("tbody", {}, ...rows),
      element("tbody", { class: "sums" },
        row("all", [[total, longest, "time", time], [spent, most, "operations", operations]]),
        row("FiD", [[undefined, longest, "time", time], [fid, most, "fid", operations]]))),
    element("p", { class: "about" }, ...remarks(usage)),
  ];
}

/** @param {Usage} usage */
function remarks({ bytes_read: bytes, questions_in_batch: questions }) {
  const said = [`${scaled(bytes, "B")} of memories read. FiD has none: it encodes every passage found while you wait.`];
  if (questions > 1) said.push(` Answered together with ${counted(questions - 1, "other question")}: these times are for all of them.`);
  return said;
}

/** @param {number} spent @param {number} fid */
function comparison(spent, fid) {
  if (!(spent > 0 && fid > 0)) return null;
  if (fid < spent) return figure(`${digits(spent / fid)}×`, "the operations of FiD");
  return figure(`${digits(fid / spent)}×`, "fewer operations than FiD");
}

/** @param {string} value @param {string} meaning */
function figure(value, meaning) {
  return element("span", { class: "figure" }, element("b", {}, value), " ", element("span", {}, meaning));
}

/**
 * @param {string} name
 * @param {[number | undefined, number, string, (value: number) => string][]} cells value, longest, bar's kind, words
 */
function row(name, cells) {
  return element("tr", {}, element("th", { scope: "row" }, name), ...cells.map(([value, longest, kind, words]) =>
    value === undefined
      ? element("td", {})
      : element("td", {}, element("span", { class: "value" }, words(value)), bar(longest ? value / longest : 0, kind))));
}

/** @param {number} milliseconds */
function time(milliseconds) {
  return milliseconds < 1000 ? `${digits(milliseconds)} ms` : `${digits(milliseconds / 1000)} s`;
}

/** @param {number} flops */
function operations(flops) {
  return scaled(flops, "FLOP");
}

/** @param {number} value @param {string} unit */
function scaled(value, unit) {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(value) / 3));
  return `${digits(value / 1000 ** power)} ${UNITS[power].replace("K", unit === "B" ? "k" : "K")}${unit}`;
}

/** Two or three digits that count. @param {number} value */
function digits(value) {
  return value.toLocaleString("en", value >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 2 });
}
