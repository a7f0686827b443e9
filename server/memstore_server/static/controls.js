/**
 * What can be chosen beside the question. Made of what `/info` reports: what a server does not have is not shown.
 *
 * @typedef {import("./api.js").Info} Info
 * @typedef {{collection?: string, retrieve_k?: number, keep_k?: number, task?: string, filter?: unknown,
 *   min_confidence?: number, attention?: boolean}} Options as a request names them; what is left out is the server's to
 *   choose
 */
import { element } from "./dom.js";
import { FilterChoice } from "./filter.js";

/** A slider with its label and its value. */
class Slider {
  /**
   * @param {{name: string, label: string, value: number, most: number, least?: number,
   *   words?: (value: number) => string}} of
   */
  constructor({ name, label, value, most, least = 1, words = String }) {
    this.words = words;
    this.input = /** @type {HTMLInputElement} */ (
      element("input", { type: "range", id: name, min: least, max: most, value: Math.min(value, most) })
    );
    this.output = element("output", { for: name });
    this.element = element("div", { class: "slider" },
      element("label", { for: name }, label, " ", this.output), this.input);
    this.input.addEventListener("input", () => this.show());
    this.show();
  }

  get value() {
    return this.input.valueAsNumber;
  }

  set value(value) {
    this.input.value = String(value); // the element keeps it within its limits
    this.show();
  }

  show() {
    this.output.textContent = this.words(this.value);
    this.input.setAttribute("aria-valuetext", this.words(this.value));
  }
}

/** The collection, the sliders, the task and the filter of one server. */
export class Controls {
  /** @param {Info} info @param {HTMLElement} place @param {() => void} [turned] called for another collection */
  constructor({ limits, defaults, model, store, collections = [] }, place, turned = () => {}) {
    this.defaults = defaults;
    this.collections = collections;
    this.first = { ...store, model };
    this.collection = collections.length > 1
      ? select("collection", collections.map((one) => [one.collection ?? "", one.collection ?? ""]))
      : null;
    this.collection?.addEventListener("change", () => {
      this.showCollection();
      turned();
    });
    this.retrieve = new Slider(
      { name: "retrieve_k", label: "Passages found", value: defaults.retrieve_k, most: limits.retrieve_k },
    );
    this.keep = new Slider({ name: "keep_k", label: "Passages read", value: defaults.keep_k, most: limits.keep_k });
    this.usualSure = Math.round(100 * (defaults.min_confidence ?? 0));
    this.sure = new Slider({
      name: "min_confidence", label: "Sure at least", value: this.usualSure, least: 0, most: 100,
      words: (percent) => (percent ? `${percent}%` : "any"),
    });
    this.attention = /** @type {HTMLInputElement} */ (element("input", { type: "checkbox", id: "attention" }));
    // None is read that was not found: each gives way to the one that moves.
    this.retrieve.input.addEventListener("input", () => {
      if (this.keep.value > this.retrieve.value) this.keep.value = this.retrieve.value;
    });
    this.keep.input.addEventListener("input", () => {
      if (this.retrieve.value < this.keep.value) this.retrieve.value = this.keep.value;
    });
    this.place = place;
    this.showCollection();
    place.hidden = false;
  }

  /** The store that is asked, and the model that reads it. */
  get asked() {
    return this.collections.find((one) => one.collection === this.collection?.value) ?? this.first;
  }

  /** @param {string} name @returns {boolean} whether there is a collection of that name */
  has(name) {
    return this.collections.some((one) => one.collection === name);
  }

  /** The controls of the chosen collection: its model's tasks, and its documents' metadata. */
  showCollection() {
    const { model, metadata = {} } = this.asked;
    this.task = model.tasks.length
      ? select("task", [["", "none named"], ...model.tasks.map((task) => [task, task])])
      : null;
    this.filter = Object.keys(metadata).length ? new FilterChoice(metadata) : null;
    this.place.replaceChildren(
      ...(this.collection ? [labelled("Collection", this.collection)] : []), this.retrieve.element, this.keep.element,
      this.sure.element, ...(this.task ? [labelled("Task", this.task)] : []), ...(this.filter ? [this.filter.element] : []),
      element("div", { class: "looks" }, this.attention, element("label", { for: "attention" }, "Show where the reader looks")),
    );
  }

  /** @returns {Options} what is chosen */
  get chosen() {
    const collection = this.collection ? { collection: this.collection.value } : {};
    const task = this.task?.value ? { task: this.task.value } : {};
    const filter = this.filter?.chosen ? { filter: this.filter.chosen } : {};
    const sure = this.sure.value === this.usualSure ? {} : { min_confidence: this.sure.value / 100 };
    const attention = this.attention.checked ? { attention: true } : {};
    return { ...collection, retrieve_k: this.retrieve.value, keep_k: this.keep.value, ...sure, ...task, ...filter, ...attention };
  }

  /** How sure an answer must be, from 0 to 1. */
  get leastSure() {
    return this.sure.value / 100;
  }

  /** Takes whatever answer there is. */
  takeAny() {
    this.sure.value = 0;
  }

  /** @returns {Options} what differs from the server's defaults */
  get changed() {
    const { collection, retrieve_k, keep_k, ...rest } = this.chosen;
    const least = Math.min(this.defaults.keep_k, retrieve_k ?? Infinity); // what the server keeps of so many
    return {
      ...(collection === this.first.collection ? {} : { collection }),
      ...(retrieve_k === this.defaults.retrieve_k ? {} : { retrieve_k }),
      ...(keep_k === least ? {} : { keep_k }),
      ...rest,
    };
  }

  /** @param {Options} options those left out take the server's defaults */
  set chosen({ collection, retrieve_k = this.defaults.retrieve_k, keep_k, task = "", filter, min_confidence, attention = false }) {
    if (this.collection) {
      this.collection.value = collection !== undefined && this.has(collection) ? collection : (this.first.collection ?? "");
      this.showCollection();
    }
    this.retrieve.value = retrieve_k;
    this.keep.value = Math.min(keep_k ?? this.defaults.keep_k, this.retrieve.value);
    this.sure.value = min_confidence === undefined ? this.usualSure : Math.round(100 * min_confidence);
    this.attention.checked = attention;
    if (this.task) this.task.value = [...this.task.options].some((option) => option.value === task) ? task : "";
    if (this.filter) this.filter.chosen = filter;
  }
}

/** @param {string} id @param {string[][]} options values and words @returns {HTMLSelectElement} */
function select(id, options) {
  const made = options.map(([value, words]) => element("option", { value }, words));
  return /** @type {HTMLSelectElement} */ (element("select", { id }, ...made));
}

/** @param {string} label @param {HTMLSelectElement} choice */
function labelled(label, choice) {
  return element("div", { class: choice.id }, element("label", { for: choice.id }, label), choice);
}
