// Making and updating elements. Data becomes text nodes and attributes, never markup.

/**
 * An element. `given`: class, text, attributes by name, `on` handlers, `vars` custom properties.
 * Children that are null or false are left out.
 */
export function el(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on")
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "vars")
      for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Set a text only where it differs, so that nothing is drawn or read out again for nothing. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Replace all children. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter(Boolean));
}

/**
 * Make a parent's children follow a list: nodes are kept by key, made when new, moved when out of place, removed when
 * gone. `update(node, item)` brings a kept node up to date.
 */
export function follow(parent, items, keyOf, make, update = () => {}) {
  const known = parent.followed ?? (parent.followed = new Map());
  const wanted = new Set();
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    wanted.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      known.set(key, node);
    }
    update(node, item);
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  for (const [key, node] of known) {
    if (wanted.has(key)) continue;
    node.remove();
    known.delete(key);
  }
}

/** A bar of one or more parts; each has a class, a share from 0 to 1, and all of it one label. */
export function bar(label, ...parts) {
  return el(
    "span",
    { class: "bar-track", role: "img", "aria-label": label },
    parts.map(({ kind, share }) =>
      el("span", {
        class: `bar-part ${kind}`,
        vars: { "--share": `${Math.max(0, Math.min(1, share)) * 100}%` },
      }),
    ),
  );
}

/** A term and what it is, for a definition list. */
export function pair(term, ...what) {
  return el("div", {}, el("dt", { text: term }), el("dd", {}, ...what));
}

/** An SVG element. */
export function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
