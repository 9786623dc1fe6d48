// Which rows are shown: the one answer that the table and the drawings share.

const fields = {
  width: "width", w: "width",
  depth: "depth", d: "depth",
  params: "params", parameters: "params",
  flops: "flops",
  latency: "latency", ms: "latency",
  top1: "top1", "top-1": "top1", accuracy: "top1", acc: "top1",
};
const units = { k: 1e3, m: 1e6, g: 1e9, "": 1, "%": 1, ms: 1 };
const comparisons = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  "=": (a, b) => a === b,
  ">=": (a, b) => a >= b,
  ">": (a, b) => a > b,
};

// Words and limits of a text such as "w384 params<=30M".
function parseFilter(text) {
  const parsed = { words: [], limits: [], unknown: [] };
  const joined = text.toLowerCase().replace(/\s*([<>]=?|=)\s*/g, "$1");
  for (const word of joined.split(/\s+/).filter(Boolean)) {
    const parts = word.match(/^([a-z0-9-]*)([<>]=?|=)(.*)$/);
    if (!parts) {
      parsed.words.push(word);
      continue;
    }
    const number = parts[3].match(/^(-?\d*\.?\d+(?:e[+-]?\d+)?)(k|m|g|%|ms|)$/);
    const field = Object.hasOwn(fields, parts[1]) ? fields[parts[1]] : null;
    if (!field || !number) parsed.unknown.push(word);
    else parsed.limits.push({ field, test: comparisons[parts[2]], limit: Number(number[1]) * units[number[2]] });
  }
  return parsed;
}

function matches(row) {
  if (!state.baselines && (row.kind === "untrained" || row.kind === "pixels")) return false;
  if (state.off.has(group(row))) return false;
  const name = [row.label, ...row.aliases, several ? data.runs[row.run].name : ""].join(" ").toLowerCase();
  if (!state.filter.words.every((word) => name.includes(word))) return false;
  return state.filter.limits.every(({ field, test, limit }) => {
    const number = field === "top1" ? accuracy(row) : sizeOf(row, field);
    return number !== null && test(number, limit);
  });
}

// The rows that no row of the same run beats: as accurate or more at no more of what the x axis shows.
// Of rows that are equal in both, the first is on the front. Python's plots have the same rule (front.py).
function paretoFront(rows) {
  const front = new Set();
  const cost = (i) => sizeOf(data.rows[i], state.x);
  const drawn = rows.filter((i) => data.rows[i].kind === "trained" && cost(i) > 0 && accuracy(data.rows[i]) !== null);
  for (const run of data.runs.keys()) {
    const own = drawn.filter((i) => data.rows[i].run === run);
    own.sort((a, b) => cost(a) - cost(b) || accuracy(data.rows[b]) - accuracy(data.rows[a]) || a - b);
    let best = -Infinity;
    for (const i of own) {
      if (accuracy(data.rows[i]) > best) {
        best = accuracy(data.rows[i]);
        front.add(i);
      }
    }
  }
  return front;
}

// The numbers of the rows that are shown, and which of them are on the front.
function chosen() {
  const rows = [...data.rows.keys()].filter((i) => matches(data.rows[i]));
  const front = state.x ? paretoFront(rows) : new Set();
  return { rows: state.front ? rows.filter((i) => front.has(i)) : rows, front };
}
