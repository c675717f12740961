"use strict";
// Draws the figures of the page, sorts its tables, and lets both be saved. The data lie in the page.

const page = JSON.parse(document.getElementById("page-data").textContent);
const darkness = matchMedia("(prefers-color-scheme: dark)");
const LEAST_PANEL = 300; // pixels; narrower windows get fewer panels in a row
const LEAST_WIDTH = 90; // of a panel without its axes
const MOST_SVG = 1500; // rows of a figure; more are drawn on a canvas, which is faster
const MOST_TRIES = 4; // to find the width of panels beside axes whose labels are not known before
const MOST_ROWS = 500; // of a figure's data as a table; the CSV has all

/** An element with properties and children; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A table's rows, each with the names of its columns. */
function unpack({ columns, data }) {
  return data.map((row) => Object.fromEntries(columns.map((name, j) => [name, row[j]])));
}

/** A colour as it is on dark paper, or as it is. */
function shade(color) {
  return (darkness.matches && page.dark[color]) || color;
}

function themed(spec) {
  const text = JSON.stringify(spec);
  return JSON.parse(darkness.matches ? text.replace(/#[0-9A-Fa-f]{6}/g, shade) : text);
}

/** Legends are buttons above the plot, which a keyboard reaches; the drawn ones are left out. */
function withoutLegends(node) {
  if (node === null || typeof node !== "object") return;
  for (const [name, value] of Object.entries(node)) {
    if (name === "legend") node[name] = null;
    else withoutLegends(value);
  }
}

const TITLE_FONT = 'bold 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const pen = document.createElement("canvas").getContext("2d");

/** A title in as many lines as its panel needs; a word that is too long for one is cut. */
function wrapped(title, width) {
  pen.font = TITLE_FONT;
  const fits = (line) => pen.measureText(line).width <= width;
  const lines = [""];
  for (let word of title.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (fits(longer)) {
      lines[lines.length - 1] = longer;
      continue;
    }
    if (lines.at(-1)) lines.push("");
    while (!fits(word)) {
      let end = word.length;
      while (end > 1 && !fits(word.slice(0, end))) end -= 1;
      lines[lines.length - 1] = word.slice(0, end);
      lines.push("");
      word = word.slice(end);
    }
    lines[lines.length - 1] = word;
  }
  return lines;
}

/** Names beside an axis get `most` pixels, the rest of one is left out; titles below are wrapped. */
function narrow(node, most, width) {
  if (node === null || typeof node !== "object") return;
  if (node.axis) node.axis.labelLimit = Math.min(node.axis.labelLimit ?? 180, most);
  if (typeof node.x?.title === "string") node.x.title = wrapped(node.x.title, width);
  for (const child of Object.values(node)) narrow(child, most, width);
}

/** Put as many panels in a row as fit, and make them as wide as the window allows. */
function fit(spec, available, pad) {
  const most = Math.max(70, 0.36 * available);
  if (!spec.concat && spec.width !== spec.height) {
    narrow(spec, most, available - most - 30);
    spec.width = available;
    if (spec.height > 250) spec.height = Math.min(spec.height, Math.round(0.95 * available));
    spec.autosize = { type: "fit-x", contains: "padding" };
    return 1;
  }
  const panels = spec.concat ?? [spec];
  const wanted = spec.columns ?? 1;
  const columns = Math.max(1, Math.min(wanted, Math.floor(available / LEAST_PANEL)));
  if (spec.concat) spec.columns = columns;
  const width = Math.max(LEAST_WIDTH, Math.floor(available / columns - pad));
  for (const panel of panels) {
    const square = panel.width === panel.height;
    panel.width = square ? Math.min(width, 460) : width;
    if (square) panel.height = panel.width;
    narrow(panel, most, width);
    if (typeof panel.title === "string") panel.title = wrapped(panel.title, panel.width);
  }
  return columns;
}

const SYMBOLS = {
  circle: "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z",
  square: "M-4.5-4.5H4.5V4.5H-4.5Z",
  "triangle-up": "M0-5.5L5.5 4.5H-5.5Z",
  "triangle-down": "M0 5.5L5.5-4.5H-5.5Z",
  "triangle-right": "M5.5 0L-4.5 5.5V-5.5Z",
  "triangle-left": "M-5.5 0L4.5 5.5V-5.5Z",
  diamond: "M0-6L5 0L0 6L-5 0Z",
  cross: "M-2-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
};

function swatch(entry) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const half = entry.dash ? 15 : 9;
  svg.setAttribute("viewBox", `${-half} -8 ${2 * half} 16`);
  svg.setAttribute("width", 2 * half);
  svg.setAttribute("aria-hidden", "true");
  const draw = (tag, attributes) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    svg.append(shape);
  };
  const color = entry.color ? shade(entry.color) : "currentColor";
  if (entry.dash) {
    const dash = entry.dash[1] ? entry.dash.join(" ") : "none";
    const line = { x1: -14, x2: 14, y1: 0, y2: 0, "stroke-width": 2.2 };
    draw("line", { ...line, stroke: color, "stroke-dasharray": dash });
  }
  if (entry.size) draw("circle", { r: Math.sqrt(entry.size / Math.PI) * 0.8, fill: color });
  if (!entry.dash && !entry.size && !entry.shape) {
    draw("rect", { x: -8, y: -6, width: 16, height: 12, rx: 2, fill: color });
  }
  if (entry.shape) draw("path", { d: SYMBOLS[entry.shape], fill: color });
  return svg;
}

class Figure {
  constructor(element) {
    Object.assign(this, page.figures[element.dataset.figure]);
    this.name = element.dataset.figure;
    this.plot = element.querySelector(".plot");
    this.rows = unpack(this.data);
    this.choices = element.querySelector(".choices");
    this.legendBox = element.querySelector(".legends");
    this.shown = {};
    for (const legend of this.legends) {
      this.shown[legend.field] = new Set(legend.entries.map((entry) => entry.name));
    }
    this.pad = 72;
    const details = element.querySelector("details");
    details.addEventListener("toggle", () => this.list(details), { once: true });
  }

  async draw(tries = MOST_TRIES) {
    const available = this.plot.clientWidth;
    const spec = themed(this.spec);
    withoutLegends(spec);
    const columns = fit(spec, available, this.pad);
    spec.datasets = { ...spec.datasets, table: this.rows };
    for (const [field, names] of Object.entries(this.shown)) {
      spec.params.find((param) => param.name === `shown_${field}`).value = [...names];
    }
    for (const param of spec.params ?? []) {
      if (param.bind?.input && this.view) param.value = this.view.signal(param.name);
    }
    this.view?.finalize();
    this.choices.replaceChildren();
    const embedded = await vegaEmbed(this.plot, spec, {
      config: darkness.matches ? page.configs.dark : page.configs.light,
      renderer: this.rows.length > MOST_SVG ? "canvas" : "svg",
      logLevel: 1, // errors alone: a series that is hidden leaves empty scales, which is no fault
      bind: this.choices,
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: darkness.matches ? "dark" : "light" },
      downloadFileName: this.name,
    });
    this.view = embedded.view;
    const over = this.plot.querySelector(".marks").getBoundingClientRect().width - available;
    if (tries > 1 && (over > 1 || over < -40 * columns)) {
      this.pad += Math.ceil(over / columns);
      return this.draw(tries - 1);
    }
    this.showLegends();
  }

  showLegends() {
    this.legendBox.replaceChildren(
      ...this.legends.map((legend) => {
        const group = make("div", { role: "group", "aria-label": legend.title || "Series" });
        if (legend.title) group.append(make("span", {}, legend.title));
        for (const entry of legend.entries) group.append(this.button(legend.field, entry));
        return group;
      }),
    );
  }

  button(field, entry) {
    const names = this.shown[field];
    const button = make("button", { type: "button" }, swatch(entry), entry.name);
    button.setAttribute("aria-pressed", names.has(entry.name));
    button.addEventListener("click", () => {
      if (!names.delete(entry.name)) names.add(entry.name);
      button.setAttribute("aria-pressed", names.has(entry.name));
      this.view.signal(`shown_${field}`, [...names]).runAsync();
    });
    return button;
  }

  /** The data as a table, once it is asked for. */
  list(details) {
    const names = this.data.columns.filter((name) => this.rows.some((row) => row[name] != null));
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)));
    const table = make("table", {}, make("thead", {}, head));
    const body = make("tbody");
    for (const row of this.rows.slice(0, MOST_ROWS)) {
      body.append(make("tr", {}, ...names.map((name) => make("td", {}, String(row[name] ?? "")))));
    }
    table.append(body);
    const box = make("div", { className: "scroll", tabIndex: 0, role: "region" }, table);
    box.setAttribute("aria-label", "data of the figure");
    const lines = [names, ...this.rows.map((row) => names.map((name) => row[name] ?? ""))];
    details.append(saver(`${this.name}.csv`, () => lines), box);
    if (this.rows.length > MOST_ROWS) {
      details.append(make("p", { className: "note" }, `The first ${MOST_ROWS} of ${this.rows.length} rows.`));
    }
  }
}

/** A button that saves rows of text as CSV. */
function saver(name, lines) {
  const button = make("button", { type: "button", className: "save" }, "Save as CSV");
  button.addEventListener("click", () => {
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
    const text = lines().map((line) => line.map(quoted).join(",")).join("\n");
    const url = URL.createObjectURL(new Blob([text + "\n"], { type: "text/csv" }));
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url));
  });
  return button;
}

/** Headings become buttons that sort by their column; numbers by value, words by letters. */
function sortable(table) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) return;
  const key = (row, i) => {
    const text = row.cells[i].textContent.trim();
    const number = parseFloat(text.replace("\u2212", "-"));
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b));
  };
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, i) => {
    const button = make("button", { type: "button", title: "Sort by this column" });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, i), row]);
      rows.sort(([a], [b]) => (a === "" || b === "" ? compare(a, b) : (down ? -1 : 1) * compare(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

const figures = [...document.querySelectorAll("[data-figure]")].map((element) => new Figure(element));
let round = 0;

/** Draw one figure after another, leaving the page free in between. */
async function drawAll() {
  const mine = ++round;
  delete document.documentElement.dataset.drawn;
  for (const figure of figures) {
    if (mine !== round) return;
    await figure.draw();
    performance.mark(figure === figures[0] ? "first figure" : "next figure");
    await new Promise((resolve) => setTimeout(resolve));
  }
  performance.mark("all figures");
  document.documentElement.dataset.drawn = figures.length;
}

for (const table of document.querySelectorAll("main table")) sortable(table);
let width = window.innerWidth;
let waiting;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's address bar changes the height alone
  width = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
});
darkness.addEventListener("change", drawAll);
drawAll();
