/**
 * Where an answer's words stand in a text: as a whole if they do, else word by word. Knows texts, no elements.
 *
 * Case, accents and punctuation do not count. A word is found as a whole word, but in scripts that put no space
 * between words.
 */

const LETTER = /[\p{L}\p{N}]/u;
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const ACCENT = /\p{M}/u;
// Words that stand everywhere, and so say nothing about where an answer is from.
const COMMON = new Set(
  "a an and are as at be by for from he her his in is it its no not of on or she that the their they this to was were which who with yes".split(" "),
);

/**
 * @typedef {{start: number, end: number, whole: boolean}} Mark a stretch of a text, in UTF-16 units; `whole` if all of
 *   the answer stands there
 * @typedef {{characters: string[], starts: number[], ends: number[]}} Folded characters that count, each with the
 *   stretch of the text it is from; a single space for whatever separates words
 */

/**
 * @param {string} text
 * @returns {Folded}
 */
function folded(text) {
  /** @type {Folded} */
  const made = { characters: [], starts: [], ends: [] };
  let at = 0;
  for (const point of text) {
    const end = at + point.length;
    for (const part of point.normalize("NFKD").toLowerCase()) {
      if (ACCENT.test(part)) {
        if (made.ends.length) made.ends[made.ends.length - 1] = end;
        continue;
      }
      const character = LETTER.test(part) ? part : " ";
      if (character === " " && made.characters.at(-1) === " ") continue;
      made.characters.push(character);
      made.starts.push(at);
      made.ends.push(end);
    }
    at = end;
  }
  return made;
}

/** @param {string} text the words that count, one space between them */
function wordsOf(text) {
  return folded(text).characters.join("").trim();
}

/** Whether a word may begin or end between two neighbours. @param {string} [before] @param {string} [after] */
function isBorder(before = " ", after = " ") {
  return before === " " || after === " " || UNSPACED.test(before) || UNSPACED.test(after);
}

/**
 * @param {Folded} text
 * @param {string} wanted folded
 * @param {boolean} whole
 * @returns {Mark[]}
 */
function found(text, wanted, whole) {
  const { characters, starts, ends } = text;
  const points = [...wanted];
  const marks = [];
  for (let at = 0; at + points.length <= characters.length; at += 1) {
    const end = at + points.length;
    if (
      points.every((point, place) => characters[at + place] === point) &&
      isBorder(characters[at - 1], points[0]) &&
      isBorder(points.at(-1), characters[end])
    ) {
      marks.push({ start: starts[at], end: ends[end - 1], whole });
      at = end - 1;
    }
  }
  return marks;
}

/** Whether marking these words would say anything. @param {string} answer */
export function canBeMarked(answer) {
  return wordsOf(answer).split(" ").some((word) => word && !COMMON.has(word));
}

/**
 * @param {string} text
 * @param {string} answer
 * @returns {Mark[]} in the order of the text, none within another
 */
export function marksOf(text, answer) {
  if (!canBeMarked(answer)) return [];
  const within = folded(text);
  const words = wordsOf(answer);
  const marks = found(within, words, true);
  if (marks.length) return marks;
  const single = new Set(words.split(" ").filter((word) => !COMMON.has(word)));
  const all = [...single].flatMap((word) => found(within, word, false)).sort((one, other) => one.start - other.start);
  let reached = 0; // words can overlap where no space is between them
  return all.filter((mark) => mark.start >= reached && ((reached = mark.end), true));
}

/**
 * The text in pieces, marked and not.
 * @param {string} text
 * @param {Mark[]} marks as `marksOf` gives them
 * @returns {{text: string, mark: Mark | null}[]}
 */
export function pieces(text, marks) {
  const made = [];
  let at = 0;
  for (const mark of marks) {
    if (mark.start > at) made.push({ text: text.slice(at, mark.start), mark: null });
    made.push({ text: text.slice(mark.start, mark.end), mark });
    at = mark.end;
  }
  if (at < text.length) made.push({ text: text.slice(at), mark: null });
  return made;
}
