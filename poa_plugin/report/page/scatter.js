// Accuracy against parameters, FLOPs or latency: a point for each row of the table.

const scatter = { box: byId("scatter"), points: new Map(), order: [], active: null };

function drawScatter({ rows, front }) {
  const { box } = scatter;
  const shown = rows.filter((i) => accuracy(data.rows[i]) !== null);
  const placed = shown.filter((i) => data.rows[i][state.x]);
  const flat = shown.filter((i) => !data.rows[i][state.x] && data.rows[i].kind !== "trained");
  const before = state.baselines ? placed.filter((i) => gain(data.rows[i]) !== null) : [];
  scatter.points.clear();
  scatter.order = [];
  hideTooltip(box);
  box.classList.toggle("empty", !placed.length);
  writeNote();
  if (!placed.length) {
    removeDrawing(box);
    legend(box);
    return;
  }
  const ys = [...placed, ...flat].map((i) => accuracy(data.rows[i]));
  for (const i of front) ys.push(...errorBar(data.rows[i]));
  const plot = axes(box, {
    xs: placed.map((i) => data.rows[i][state.x]),
    ys: ys.concat(before.map((i) => data.rows[i].before[state.k])),
    log: state.log,
    xName: axisNames[state.x],
    yName: `k-NN top-1 (%), k = ${state.k}`,
    label: "Accuracy of every network; arrow keys go from point to point",
    height: Math.round(Math.min(520, Math.max(320, box.clientWidth * 0.56))),
  });
  drawBands(plot);
  const taken = drawLevels(plot, flat);
  drawFronts(plot, placed.filter((i) => front.has(i)));
  drawBefore(plot, before);
  drawPoints(plot, placed, front);
  drawNames(plot, placed, taken);
  scatter.ring = draw(plot.svg, "circle", { class: "ring", r: 9, visibility: "hidden" });
  follow(plot);
  legend(box);
}

// What has an accuracy and no place on the x axis: a line across.
function drawLevels(plot, rows) {
  const { left, right } = plot.inner;
  const used = [];
  for (const i of rows) {
    const row = data.rows[i];
    const y = plot.y(accuracy(row));
    draw(plot.svg, "line", { x1: left, x2: right, y1: y, y2: y, class: "level", "data-row": i });
    const name = several ? `${row.label} (${data.runs[row.run].name})` : row.label;
    const text = draw(plot.svg, "text", { y: y - 5, class: "label" }, `${name} ${percent(accuracy(row))}`);
    const width = text.getComputedTextLength();
    const boxes = [right - width, left + 4].map((start) => ({ left: start, right: start + width, top: y - 17, bottom: y - 2 }));
    const free = boxes.find((box) => isFree(plot, box, used));
    if (free) {
      text.setAttribute("x", free.left);
      used.push(free);
    } else {
      text.remove();
    }
  }
  return used;
}

function drawFronts(plot, rows) {
  for (const run of data.runs.keys()) {
    const own = rows.filter((i) => data.rows[i].run === run);
    if (!own.length) continue;
    own.sort((a, b) => data.rows[a][state.x] - data.rows[b][state.x]);
    const steps = own.map((i, n) => {
      const [x, y] = [plot.x(data.rows[i][state.x]), plot.y(accuracy(data.rows[i]))];
      return n ? `H${x}V${y}` : `M${x} ${y}`;
    });
    const path = draw(plot.svg, "path", { class: "front", d: `${steps.join("")}H${plot.inner.right}` });
    if (several) path.style.stroke = `var(--r${run % 7})`;
    for (const i of own) drawErrorBar(plot, data.rows[i], path.style.stroke);
  }
}

// The same networks before training: hollow.
function drawBefore(plot, rows) {
  for (const i of rows) {
    const row = data.rows[i];
    const mark = outline(plot.svg, "circle", plot.x(row[state.x]), plot.y(row.before[state.k]), 2.8, { class: "before" });
    mark.style.stroke = colorOf(row);
  }
}

function drawPoints(plot, rows, front) {
  scatter.order = [...rows].sort((a, b) => data.rows[a][state.x] - data.rows[b][state.x]);
  const size = rows.length > 250 || plot.width < 480 ? 3.2 : 4.4;
  for (const i of scatter.order) {
    const row = data.rows[i];
    const [x, y] = [plot.x(row[state.x]), plot.y(accuracy(row))];
    const shape = row.kind === "reference" ? "star" : several ? marks[row.run % marks.length] : "circle";
    const own = front.has(i) ? size + 1.2 : size;
    const unsure = sizeOf(row, state.x) === null;
    const hollow = unsure || ["untrained", "other"].includes(row.kind);
    const mark = outline(plot.svg, shape, x, y, own, { class: `point ${row.kind}${hollow ? " hollow" : ""}`, "data-row": i, "data-x": x, "data-y": y });
    if (front.has(i)) mark.classList.add("best");
    if (unsure) mark.classList.add("unsure");
    mark.style.fill = hollow ? "var(--panel)" : colorOf(row);
    mark.style.stroke = hollow ? colorOf(row) : "";
    mark.setAttribute("tabindex", "-1");
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", numbersOf(i, front.has(i)).map((pair) => pair.join(" ")).join(", "));
    mark.addEventListener("focus", () => point(i));
    mark.addEventListener("blur", () => point(null));
    scatter.points.set(i, { mark, x, y, best: front.has(i) });
  }
  scatter.points.get(scatter.order[0]).mark.setAttribute("tabindex", "0");
}

// The names of the named sizes and of references, where they hide the fewest points.
function drawNames(plot, rows, taken) {
  for (const i of [...rows].sort((a, b) => accuracy(data.rows[b]) - accuracy(data.rows[a]))) {
    const row = data.rows[i];
    const name = nameInPlot(row);
    if (!name) continue;
    const text = draw(plot.svg, "text", { class: "label" }, name);
    const sign = several ? 12 : 0; // the mark of its run, before the name
    const width = text.getComputedTextLength() + sign;
    const free = placesAround(scatter.points.get(i), width).filter((place) => isFree(plot, place, taken));
    if (!free.length) {
      text.remove();
      continue;
    }
    const cost = (place) => hidden(place) * 3 + place.away / 8;
    const place = free.reduce((a, b) => (cost(b) < cost(a) ? b : a));
    taken.push(place);
    text.setAttribute("x", place.left + 2 + sign);
    text.setAttribute("y", place.bottom - 3);
    if (sign) signOf(plot, row, place);
    if (place.away > 16) {
      const { x, y } = scatter.points.get(i);
      const end = place.bottom < y ? place.bottom : place.top;
      const line = draw(plot.svg, "line", { class: "leader", x1: x, y1: y, x2: Math.min(Math.max(x, place.left), place.right), y2: end });
      plot.svg.insertBefore(line, plot.svg.querySelector(".point"));
    }
  }
}

function signOf(plot, row, { left, bottom }) {
  const mark = outline(plot.svg, marks[row.run % marks.length], left + 6, bottom - 7, 4, { class: "sign" });
  mark.style.fill = colorOf(row);
}

function nameInPlot(row) {
  if (row.kind === "trained") return row.aliases.join(", ");
  if (row.kind !== "reference") return "";
  return several ? `${row.network} (${data.runs[row.run].name})` : row.network;
}

// Boxes for a text beside a point, the near ones and those above it first.
function placesAround({ x, y }, width) {
  const places = [];
  for (const away of [10, 26, 44, 64]) {
    for (const [dx, dy] of [[-0.5, -1], [-0.8, -1], [-0.2, -1], [0, -1], [-1, -1], [-0.5, 1], [-0.2, 1], [-0.8, 1], [0, 1], [-1, 1]]) {
      const bottom = dy < 0 ? y - away + 3 : y + away + 14;
      const left = x + dx * width - 2;
      places.push({ left, right: left + width + 4, top: bottom - 15, bottom, away: away + (dy > 0 ? 4 : 0) });
    }
  }
  return places;
}

function isFree(plot, place, taken) {
  const within = place.left > plot.inner.left && place.right < plot.width && place.top > 0 && place.bottom < plot.inner.bottom;
  return within && taken.every((other) => place.left > other.right || place.right < other.left || place.top > other.bottom || place.bottom < other.top);
}

// How many points a text would hide.
function hidden({ left, right, top, bottom }) {
  const within = ({ x, y }) => x > left - 4 && x < right + 4 && y > top - 4 && y < bottom + 4;
  return [...scatter.points.values()].filter(within).length;
}

// All that is known of a row, as pairs of name and text.
function numbersOf(i, isBest = false) {
  const row = data.rows[i];
  const pairs = [["", row.label]];
  if (row.aliases.length) pairs.push(["also called", row.aliases.join(", ")]);
  if (several) pairs.push(["run", data.runs[row.run].name]);
  for (const [k, top1] of Object.entries(row.top1)) {
    if (top1 === null) continue;
    pairs.push([`top-1, k = ${k}`, `${percent(top1, row.errors[k])}%`]);
    const before = row.before[k] ?? null;
    if (before !== null) pairs.push(["before training", `${percent(before, row.errorsBefore[k])}%`]);
  }
  if (row.width) pairs.push(["width × depth", `${row.width} × ${row.depth}`]);
  if (row.params) pairs.push(["parameters", short(row.params)]);
  if (row.flops) pairs.push(["FLOPs", short(row.flops)]);
  if (row.latency) pairs.push(["latency", `${row.latencyText} ms${row.reliable ? "" : " (unreliable)"}`]);
  if (bestOf(row.run)?.row === i) pairs.push(["", "the best of its run"]);
  if (isLikeBest(i)) pairs.push(["", `not distinguishable from the best, ${data.rows[bestOf(row.run).row].label}`]);
  if (isBest) pairs.push(["", "on the Pareto front"]);
  return pairs;
}

function describe(i, isBest) {
  const [[, name], ...rest] = numbersOf(i, isBest);
  return [make("strong", {}, name), facts(rest)];
}

// Mark a row's point and name it; none with null.
function point(i) {
  scatter.active = i;
  markRow(i);
  if (!scatter.box) return undefined;
  const own = scatter.points.get(i);
  scatter.ring?.setAttribute("visibility", own ? "visible" : "hidden");
  if (!own) return hideTooltip(scatter.box);
  scatter.ring.setAttribute("cx", own.x);
  scatter.ring.setAttribute("cy", own.y);
  return tooltip(scatter.box, own.x, own.y, ...describe(i, own.best));
}

function nearest(plot, event, reach) {
  const place = plot.svg.getBoundingClientRect();
  const [x, y] = [event.clientX - place.left, event.clientY - place.top];
  let [found, distance] = [null, reach];
  for (const [i, own] of scatter.points) {
    const away = Math.hypot(own.x - x, own.y - y);
    if (away < distance) [found, distance] = [i, away];
  }
  return found;
}

// Name the point that is nearest to the mouse or the finger, or that the arrow keys go to.
function follow(plot) {
  const { svg } = plot;
  svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") point(nearest(plot, event, 28));
  });
  svg.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") point(null);
  });
  svg.addEventListener("click", (event) => {
    point(nearest(plot, event, 40));
    if (scatter.active !== null) scrollToRow(scatter.active);
  });
  svg.addEventListener("keydown", (event) => {
    const last = scatter.order.length - 1;
    const now = scatter.order.indexOf(Number(event.target.dataset?.row));
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") point(null);
    if (next === undefined || now < 0) return;
    event.preventDefault();
    const [from, to] = [now, Math.min(last, Math.max(0, next))].map((n) => scatter.points.get(scatter.order[n]).mark);
    from.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
  });
}
