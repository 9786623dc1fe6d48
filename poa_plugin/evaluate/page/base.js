// The page's numbers, what is chosen, and small tools.

const data = JSON.parse(document.getElementById("data").textContent);
const several = data.runs.length > 1;
const svgNamespace = document.getElementById("svg").namespaceURI;

const state = {
  x: null, // "params", "flops" or "latency"
  k: data.k,
  log: true,
  front: false, // the Pareto front only
  baselines: true,
  off: new Set(), // runs (or widths, where there is one run) that the legend switches off
  filter: { words: [], limits: [], unknown: [] },
};

const axisNames = {
  params: "parameters",
  flops: "FLOPs (multiply-adds of one image)",
  latency: "latency (ms for one image)",
};

function byId(id) {
  return document.getElementById(id);
}

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

function draw(parent, tag, attributes = {}, text = null) {
  const node = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

// A count with three digits and a letter, such as 21.7M.
function short(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= size) return Number((number / size).toPrecision(3)) + letter;
  }
  return String(Number(number.toPrecision(3)));
}

function percent(number) {
  return number.toFixed(1);
}

// The value of a row under a key of the table's columns: "params", "top1:20", "before:20", ...
function value(row, key) {
  const [name, k] = key.split(":");
  if (k) return row[name][k] ?? null;
  if (key === "run") return data.runs[row.run].name;
  return row[key] ?? null;
}

function accuracy(row) {
  return row.top1[state.k] ?? null;
}

function gain(row) {
  const before = row.before[state.k] ?? null;
  return before === null || accuracy(row) === null ? null : accuracy(row) - before;
}

// What the legend switches and colours: the run where there are several, else the width.
function group(row) {
  if (several) return row.run;
  return row.width !== null && ["trained", "untrained"].includes(row.kind) ? data.widths.indexOf(row.width) : null;
}

function colourOf(row) {
  const own = group(row);
  if (own === null) return "var(--mark)";
  return several ? `var(--r${own % 7})` : `var(--w${own})`;
}

function viridis(share) {
  const last = data.viridis.length - 1;
  return data.viridis[Math.round(Math.min(1, Math.max(0, share)) * last)];
}

// Call `run` with the box's width, at once and whenever it changes.
function onWidth(box, run) {
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth !== width) {
      width = box.clientWidth;
      requestAnimationFrame(run);
    }
  }).observe(box);
}
