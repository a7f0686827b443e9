/**
 * Elements made of values. Texts become text nodes, so nothing that a passage holds is ever read as markup.
 */

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] set as attributes; `true` as an empty one, null and false not at all;
 *   functions are listened with, `{click: f}`
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, /** @type {EventListener} */ (value));
    else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * The element of the page with an id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A bar whose length says what a number beside it says too: screen readers pass over it.
 * @param {number} share of the full length, 0 to 1
 * @param {string} kind a class, which gives the colour
 */
export function bar(share, kind) {
  const filled = element("span", { class: "filled" });
  // Through the object model, since the content security policy refuses `style` attributes.
  filled.style.inlineSize = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("span", { class: `bar ${kind}`, "aria-hidden": "true" }, filled);
}

/** "1 passage", "2 passages", "1,000 passages". @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
