/**
 * What can be chosen beside the question. Made of what `/info` reports: what a server does not have is not shown.
 *
 * @typedef {import("./api.js").Info} Info
 * @typedef {{retrieve_k?: number, keep_k?: number, task?: string, filter?: unknown}} Options as a request names them;
 *   what is left out is the server's to choose
 */
import { element } from "./dom.js";
import { FilterChoice } from "./filter.js";

/** A slider with its label and its value. */
class Slider {
  /** @param {{name: string, label: string, value: number, most: number}} of */
  constructor({ name, label, value, most }) {
    this.input = /** @type {HTMLInputElement} */ (
      element("input", { type: "range", id: name, min: 1, max: most, value: Math.min(value, most) })
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
    this.output.textContent = this.input.value;
  }
}

/** The sliders, the task and the filter of one server. */
export class Controls {
  /** @param {Info} info @param {HTMLElement} place */
  constructor({ limits, defaults, model, store }, place) {
    this.defaults = defaults;
    this.retrieve = new Slider(
      { name: "retrieve_k", label: "Passages found", value: defaults.retrieve_k, most: limits.retrieve_k },
    );
    this.keep = new Slider({ name: "keep_k", label: "Passages read", value: defaults.keep_k, most: limits.keep_k });
    // None is read that was not found: each gives way to the one that moves.
    this.retrieve.input.addEventListener("input", () => {
      if (this.keep.value > this.retrieve.value) this.keep.value = this.retrieve.value;
    });
    this.keep.input.addEventListener("input", () => {
      if (this.retrieve.value < this.keep.value) this.retrieve.value = this.keep.value;
    });
    this.task = model.tasks.length ? taskChoice(model.tasks) : null;
    place.replaceChildren(this.retrieve.element, this.keep.element);
    if (this.task) place.append(element("div", { class: "task" }, element("label", { for: "task" }, "Task"), this.task));
    const fields = store.metadata ?? {};
    this.filter = Object.keys(fields).length ? new FilterChoice(fields) : null;
    if (this.filter) place.append(this.filter.element);
    place.hidden = false;
  }

  /** @returns {Options} what is chosen */
  get chosen() {
    const task = this.task?.value ? { task: this.task.value } : {};
    const filter = this.filter?.chosen ? { filter: this.filter.chosen } : {};
    return { retrieve_k: this.retrieve.value, keep_k: this.keep.value, ...task, ...filter };
  }

  /** @returns {Options} what differs from the server's defaults */
  get changed() {
    const { retrieve_k, keep_k, ...rest } = this.chosen;
    const least = Math.min(this.defaults.keep_k, retrieve_k ?? Infinity); // what the server keeps of so many
    return {
      ...(retrieve_k === this.defaults.retrieve_k ? {} : { retrieve_k }),
      ...(keep_k === least ? {} : { keep_k }),
      ...rest,
    };
  }

  /** @param {Options} options those left out take the server's defaults */
  set chosen({ retrieve_k = this.defaults.retrieve_k, keep_k, task = "", filter }) {
    this.retrieve.value = retrieve_k;
    this.keep.value = Math.min(keep_k ?? this.defaults.keep_k, this.retrieve.value);
    if (this.task) this.task.value = [...this.task.options].some((option) => option.value === task) ? task : "";
    if (this.filter) this.filter.chosen = filter;
  }
}

/** @param {string[]} tasks @returns {HTMLSelectElement} */
function taskChoice(tasks) {
  const options = tasks.map((task) => element("option", { value: task }, task));
  return /** @type {HTMLSelectElement} */ (
    element("select", { id: "task" }, element("option", { value: "" }, "none named"), ...options)
  );
}
