"use strict";
// Theme, column and layout switches, search, and highlighting of a part everywhere on a page. The pages also work
// without scripts: all columns are shown, and a link to a part leads to its row in the table of parts.

const root = document.documentElement;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// A page from the file system may have no storage.
const memory = {
  get(name) { try { return localStorage.getItem(`rosetta-${name}`); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(`rosetta-${name}`, value); } catch { /* the setting is lost */ } },
};

const THEMES = ["auto", "light", "dark"];
function setTheme(theme) {
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const label = document.querySelector("#theme span");
  if (label) label.textContent = theme;
}
// Set before the first paint, so that the page does not flash.
let theme = THEMES.includes(memory.get("theme")) ? memory.get("theme") : "auto";
setTheme(theme);
if (memory.get("layout") === "nhwc") root.dataset.layout = "nhwc";

function startTheme() {
  const button = document.querySelector("#theme");
  button.hidden = false;
  setTheme(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    memory.set("theme", theme);
    setTheme(theme);
  });
}

// --- columns (one at a time on narrow screens) and layout -----------------------------------------------------------

const narrow = matchMedia("(max-width: 640px)");
const PREFERRED = ["torch", "jax", "tf", "mxnet", "numpy"];
const MIN_COLUMN = 340; // pixels

function startColumns() {
  const buttons = all("[data-column]");
  const key = () => (narrow.matches ? "column" : "columns");
  function show(columns) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(columns.includes(button.dataset.column)));
    root.dataset.hidden = PREFERRED.filter((name) => !columns.includes(name)).join(" ");
  }
  function restore() {
    const chosen = (memory.get(key()) || "").split(" ").filter((name) => PREFERRED.includes(name));
    const count = narrow.matches ? 1 : Math.max(1, Math.floor((innerWidth - 160) / MIN_COLUMN));
    show(chosen.length ? chosen : PREFERRED.slice(0, count));
  }
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const name = button.dataset.column;
      const shown = PREFERRED.filter((each) => !root.dataset.hidden.split(" ").includes(each));
      let columns = narrow.matches ? [name] : shown.filter((each) => each !== name);
      if (!narrow.matches && !shown.includes(name)) columns = [...shown, name];
      if (!columns.length) return; // one column always stays
      memory.set(key(), columns.join(" "));
      show(columns);
    });
  }
  narrow.addEventListener("change", restore);
  restore();
}

function setLayout(layout) {
  root.dataset.layout = layout;
  for (const button of all("[data-set-layout]")) {
    button.setAttribute("aria-pressed", String(button.dataset.setLayout === layout));
  }
}

// The style sheet needs the height of the sticky toolbar, so that it does not cover scroll targets.
function measureTools() {
  root.style.setProperty("--tools", `${document.querySelector(".tools").offsetHeight}px`);
}

function startTools() {
  const tools = document.querySelector(".tools");
  if (!tools) return;
  tools.hidden = false;
  new ResizeObserver(measureTools).observe(tools);
  measureTools();
  startColumns();
  setLayout(root.dataset.layout);
  for (const button of all("[data-set-layout]")) {
    button.addEventListener("click", () => {
      memory.set("layout", button.dataset.setLayout);
      setLayout(button.dataset.setLayout);
    });
  }
}

// --- parts ------------------------------------------------------------------------------------------------------------

function startParts() {
  const table = document.querySelector("table.parts");
  if (!table) return;
  const rows = new Map(all("tr[data-part]", table).map((row) => [row.id, row]));
  const byRole = new Map();
  for (const [path, row] of rows) byRole.set(row.dataset.part, [...(byRole.get(row.dataset.part) || []), path]);
  let byPath = new Map();
  function findPaths() {
    byPath = new Map();
    for (const element of all("[data-path]")) {
      for (const path of element.dataset.path.split(" ")) byPath.set(path, [...(byPath.get(path) || []), element]);
    }
  }
  findPaths();
  const cells = new Map();
  for (const cell of all("[data-role]")) {
    for (const role of cell.dataset.role.split(" ")) cells.set(role, [...(cells.get(role) || []), cell]);
  }
  const units = new Map(all("[data-unit]").map((unit) => [unit.dataset.unit, unit]));
  const here = document.querySelector("#here");
  let chosen = null;
  let marked = [];

  // Highlight parts by path and source lines by role. All blocks of a class share its lines.
  function mark(paths, roles) {
    for (const element of marked) element.classList.remove("marked");
    const elements = new Set();
    for (const path of paths) for (const element of byPath.get(path) || []) elements.add(element);
    for (const role of roles) for (const cell of cells.get(role) || []) elements.add(cell);
    for (const path of paths) {
      const unit = units.get(rows.get(path)?.dataset.of);
      if (unit) elements.add(unit);
    }
    marked = [...elements];
    for (const element of marked) element.classList.add("marked");
  }
  const rolesOf = (paths) => new Set(paths.map((path) => rows.get(path)?.dataset.part).filter(Boolean));
  function markChosen() {
    if (chosen) mark([chosen], rolesOf([chosen]));
    else mark([], []);
  }
  function point(target) {
    const element = target.closest?.("[data-path], [data-role]");
    if (!element) return markChosen();
    if (element.dataset.path) {
      const paths = element.dataset.path.split(" ");
      return mark(paths, rolesOf(paths));
    }
    const roles = element.dataset.role.split(" ");
    return mark(roles.flatMap((role) => byRole.get(role) || []), roles);
  }
  document.addEventListener("pointerover", (event) => point(event.target));
  document.addEventListener("pointerleave", markChosen);
  document.addEventListener("focusin", (event) => point(event.target));

  const shapesOf = (row) => all(".shape", row.cells[2]).map((shape) => shape.cloneNode(true));
  // Show the shapes of one block beside the lines of its class.
  function showShapes(block) {
    const unit = units.get(rows.get(block)?.dataset.of);
    if (!unit) return;
    for (const created of all(".created", unit)) {
      const link = created.querySelector("a");
      const path = `${block}.${link.dataset.path.slice(link.dataset.path.lastIndexOf(".") + 1)}`;
      if (!rows.has(path)) continue;
      link.dataset.path = path;
      link.hash = path;
      created.replaceChildren(link, " ", ...shapesOf(rows.get(path)));
    }
    findPaths();
    markChosen();
  }

  function choose(path) {
    const row = rows.get(path);
    chosen = row ? path : null;
    markChosen();
    here.textContent = "";
    if (!row) return;
    const link = document.createElement("a");
    link.href = `#${path}`;
    link.textContent = path;
    here.append(link, " ", ...shapesOf(row));
    measureTools();
    showShapes(row.dataset.of ? path : path.slice(0, path.lastIndexOf(".")));
    row.classList.add("shown");
    // Scroll to its class, or to the line that creates it. A layer that is a function has neither.
    const unit = units.get(row.dataset.of);
    const created = (cells.get(row.dataset.part) || [])[0]?.parentElement;
    (unit || created || row).scrollIntoView({ block: unit ? "start" : "center", behavior: "auto" });
  }
  const follow = () => choose(decodeURIComponent(location.hash.slice(1)));
  addEventListener("hashchange", follow);
  // A second click on the same part scrolls to it again.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash && rows.has(decodeURIComponent(link.hash.slice(1)))) follow();
  });

  const boxes = all(".drawing .part");
  for (const [i, box] of boxes.entries()) {
    const go = (event) => {
      const path = box.dataset.path.split(" ").find((each) => rows.has(each));
      event.stopPropagation(); // the box of a block is inside the frame of its stage
      if (path) location.hash = path;
    };
    box.addEventListener("click", go);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Enter") go(event);
      else if (step) boxes[i + step]?.focus();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  const choice = document.querySelector("#every");
  if (all(".deep", table).length) {
    choice.closest("p").hidden = false;
    table.classList.add("brief");
    choice.addEventListener("change", () => table.classList.toggle("brief", !choice.checked));
  }
  if (location.hash) requestAnimationFrame(follow);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chosen && !event.defaultPrevented) {
      history.replaceState(null, "", location.pathname + location.search);
      choose("");
    }
  });
}

// --- search -----------------------------------------------------------------------------------------------------------

let entries = null;
let ready = () => {};
// Called by search.js. The index is a script, because a page from the file system cannot fetch JSON.
function rosettaIndex(index) {
  entries = index.map(([name, kind, address]) => ({ name, kind, address, text: `${name} ${kind}`.toLowerCase() }));
  ready();
}

function startSearch() {
  const input = document.querySelector("#search");
  const list = document.querySelector("#found");
  let options = [];
  let active = -1;

  function load() {
    if (entries || document.querySelector('script[src="search.js"]')) return;
    const script = document.createElement("script");
    script.src = "search.js";
    document.head.append(script);
  }
  function rank({ name, text }, words) {
    if (!words.every((word) => text.includes(word))) return -1;
    const at = name.toLowerCase().indexOf(words[0]);
    // Names that start with the first word come first, then names with a word that does; shorter names first.
    return (at === 0 ? 0 : at > 0 && /\W/.test(name[at - 1]) ? 1 : at > 0 ? 2 : 3) * 1000 + name.length;
  }
  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    active = -1;
  }
  function select(i) {
    active = i;
    options.forEach((option, j) => option.setAttribute("aria-selected", String(i === j)));
    if (i < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", options[i].id);
    return options[i].scrollIntoView({ block: "nearest" });
  }
  function go(option) {
    close();
    input.blur();
    location.href = option.dataset.address;
  }
  function update() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!entries || !words.length) return close();
    const results = entries
      .map((entry) => [rank(entry, words), entry])
      .filter(([order]) => order >= 0)
      .sort(([a], [b]) => a - b)
      .slice(0, 12);
    options = results.map(([, { name, kind, address }], i) => {
      const option = document.createElement("li");
      option.id = `found-${i}`;
      option.setAttribute("role", "option");
      option.dataset.address = address;
      const small = document.createElement("small");
      small.textContent = kind;
      option.append(name, small);
      option.addEventListener("mousedown", (event) => event.preventDefault());
      option.addEventListener("click", () => go(option));
      return option;
    });
    list.replaceChildren(...options);
    if (!options.length) {
      const none = document.createElement("li");
      none.setAttribute("role", "option");
      none.setAttribute("aria-disabled", "true");
      none.textContent = "No results";
      list.append(none);
    }
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    return select(options.length ? 0 : -1);
  }
  ready = update;
  input.addEventListener("focus", load);
  input.addEventListener("input", () => { load(); update(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      input.value = "";
      close();
      event.preventDefault();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (options.length) select((active + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
      event.preventDefault();
    } else if (event.key === "Enter" && active >= 0) {
      go(options[active]);
      event.preventDefault();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea")) {
      event.preventDefault();
      input.focus();
    }
  });
}

function startCopying() {
  for (const button of all("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

addEventListener("DOMContentLoaded", () => {
  startTheme();
  startTools();
  startParts();
  startSearch();
  startCopying();
  // Tests wait for this attribute.
  root.dataset.ready = "";
});
