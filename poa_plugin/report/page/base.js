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
function short(number, digits = 3) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= size) return Number((number / size).toPrecision(digits)) + letter;
  }
  return String(Number(number.toPrecision(digits)));
}

// Numbers as `short` has them, with as many digits as it takes to tell them apart.
function shortApart(numbers) {
  for (let digits = 3; ; digits++) {
    const texts = numbers.map((number) => short(number, digits));
    if (digits === 9 || new Set(texts).size === texts.length) return texts;
  }
}

// An accuracy with its standard error where it is known, such as 70.1 ±1.8.
function percent(number, error = null) {
  if (error === null) return number.toFixed(1);
  const digits = error >= 0.05 ? 1 : 2;
  return `${number.toFixed(digits)} ±${error.toFixed(digits)}`;
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

// What can be compared: a latency that is not reliable counts as not measured.
function sizeOf(row, name) {
  return name === "latency" && !row.reliable ? null : row[name] ?? null;
}

// The best network of a run at the k that is shown, and the rows that are not distinguishable from it.
function bestOf(run) {
  return data.runs[run].best[state.k] ?? null;
}

function isLikeBest(i) {
  return bestOf(data.rows[i].run)?.like.includes(i) ?? false;
}

function gain(row) {
  const before = row.before[state.k] ?? null;
  return before === null || accuracy(row) === null ? null : accuracy(row) - before;
}

// What the legend switches and colors: the run where there are several, else the width.
function group(row) {
  if (several) return row.run;
  return row.width !== null && ["trained", "untrained"].includes(row.kind) ? data.widths.indexOf(row.width) : null;
}

function colorOf(row) {
  const own = group(row);
  if (own === null) return "var(--mark)";
  return several ? `var(--r${own % 7})` : `var(--w${own})`;
}

// The index of a color of the scale, and of the color of a text on it, for a share from 0 to 1.
function onScale(share) {
  return Math.round(Math.min(1, Math.max(0, share)) * (data.colors.length - 1));
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
