/**
 * One condition on the documents that a question may find passages of, made of the metadata fields that `/info` lists.
 *
 * @typedef {"string" | "strings" | "number" | "boolean"} Kind
 * @typedef {Record<string, Record<string, unknown>>} Filter as a request has it: a field, and a test of it
 */
import { element } from "./dom.js";

/** @type {Record<string, {words: string, of: Kind[], test: (value: unknown) => Record<string, unknown>}>} */
const SIGNS = {
  in: { words: "is", of: ["string", "strings", "number", "boolean"], test: (value) => ({ in: [value] }) },
  not: { words: "is not", of: ["string", "strings", "number", "boolean"], test: (value) => ({ not: value }) },
  gte: { words: "is at least", of: ["string", "number"], test: (value) => ({ gte: value }) },
  lte: { words: "is at most", of: ["string", "number"], test: (value) => ({ lte: value }) },
};

export class FilterChoice {
  /** @param {Record<string, Kind[]>} fields */
  constructor(fields) {
    this.fields = fields;
    this.field = select("filter-field", null, [["", "any document"], ...Object.keys(fields).map((name) => [name, name])]);
    this.sign = select("filter-sign", "Comparison", []);
    this.value = /** @type {HTMLInputElement} */ (
      element("input", { id: "filter-value", "aria-label": "Value", placeholder: "value", dir: "auto", autocomplete: "off" })
    );
    this.element = element("div", { class: "filter", role: "group", "aria-label": "Filter" },
      element("label", { for: "filter-field" }, "Only where"), this.field, this.sign, this.value);
    this.field.addEventListener("change", () => this.showField());
    this.showField();
  }

  /** The comparisons that the chosen field's values allow. */
  showField() {
    const kinds = this.fields[this.field.value] ?? [];
    const fit = Object.entries(SIGNS).filter(([, sign]) => sign.of.some((kind) => kinds.includes(kind)));
    this.sign.replaceChildren(...fit.map(([name, { words }]) => element("option", { value: name }, words)));
    this.sign.hidden = this.value.hidden = !fit.length;
  }

  /** @returns {Filter | undefined} nothing while no value is given */
  get chosen() {
    const [field, text] = [this.field.value, this.value.value.trim()];
    return field && text ? { [field]: SIGNS[this.sign.value].test(valueOf(text, this.fields[field])) } : undefined;
  }

  /** @param {unknown} filter one that cannot be shown here counts as none */
  set chosen(filter) {
    const [[field, test] = ["", null], ...others] = Object.entries(filter ?? {});
    const [[name, value] = ["", null], ...more] = Object.entries(test ?? {});
    const shown = name === "in" && Array.isArray(value) && value.length === 1 ? value[0] : value;
    const can = !others.length && !more.length && Object.hasOwn(this.fields, field) && Object.hasOwn(SIGNS, name)
      && shown !== null && typeof shown !== "object";
    this.field.value = can ? field : "";
    this.showField();
    this.value.value = can ? String(shown) : "";
    if (can) this.sign.value = name;
  }
}

/** What is written, as a value of a kind that the field has. @param {string} text @param {Kind[]} kinds */
function valueOf(text, kinds) {
  if (kinds.includes("number") && Number.isFinite(Number(text))) return Number(text);
  if (kinds.includes("boolean") && (text === "true" || text === "false")) return text === "true";
  return text;
}

/** @param {string} id @param {string | null} label @param {string[][]} options values and words */
function select(id, label, options) {
  return /** @type {HTMLSelectElement} */ (
    element("select", { id, "aria-label": label }, ...options.map(([value, words]) => element("option", { value }, words)))
  );
}
