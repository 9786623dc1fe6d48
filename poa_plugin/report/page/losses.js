// Losses over steps: of one run the total and its terms, of several runs one of them beside each other.

function seriesOf(term) {
  const series = [];
  data.runs.forEach((run, i) => {
    const curve = run.losses.find((each) => each.name === term);
    if (curve && !state.off.has(i)) series.push({ ...curve, name: run.name, run: i, dashed: i > 6, stroke: `var(--r${i % 7})` });
  });
  return series;
}

function drawLosses() {
  const box = byId("losses");
  if (!box) return;
  if (several) {
    const [panel] = panels(box, 1);
    drawCurves(panel, byId("term").value, seriesOf(byId("term").value));
    legend(box);
    return;
  }
  const [total, ...rest] = data.runs[0].losses;
  const terms = rest.filter((curve) => curve.term);
  const [left, right] = panels(box, terms.length ? 2 : 1);
  const start = rest.filter((curve) => !curve.term).map((curve) => ({ ...curve, stroke: "var(--muted)", dashed: true }));
  const totals = [{ ...total, stroke: "var(--ink)", run: 0 }, ...start];
  drawCurves(left, total.name, totals);
  if (start.length) keys(left, totals);
  if (!right) return;
  const series = terms.map((term) => ({ ...term, stroke: `var(--r${term.color % 7})` }));
  drawCurves(right, "its terms", series);
  keys(right, series);
}

function panels(box, count) {
  while (box.querySelectorAll(":scope > .panel").length < count) {
    box.insertBefore(make("div", { className: "panel chart" }), box.querySelector(":scope > .legend"));
  }
  box.classList.toggle("pair", count > 1);
  return [...box.querySelectorAll(":scope > .panel")];
}

function keys(panel, series) {
  panel.querySelector(".legend")?.remove();
  const bar = make("div", { className: "legend keys" });
  for (const { name, stroke, dashed } of series) {
    const key = make("span");
    const sample = draw(key, "svg", { width: 22, height: 8, "aria-hidden": "true" });
    const line = draw(sample, "line", { x1: 0, x2: 22, y1: 4, y2: 4, class: dashed ? "curve dashed" : "curve" });
    line.style.stroke = stroke;
    key.append(name);
    bar.append(key);
  }
  panel.append(bar);
}

function drawCurves(panel, name, series) {
  hideTooltip(panel);
  const known = series.filter((each) => each.steps.length);
  if (!known.length) {
    removeDrawing(panel);
    return;
  }
  const all = (key) => known.flatMap((each) => each[key]).filter((number) => number !== null);
  const plot = axes(panel, {
    xs: [...all("steps"), ...known.flatMap(skippedOf).flatMap(({ first, last }) => [first, last])],
    ys: all("measured"),
    xName: "step",
    yName: name,
    label: `${name} over steps; arrow keys go from step to step`,
    height: Math.round(Math.min(380, Math.max(260, panel.clientWidth * 0.6))),
  });
  for (const faint of [true, false]) {
    for (const each of known) {
      const style = `curve ${faint ? "faint" : ""} ${each.dashed && !faint ? "dashed" : ""}`;
      const numbers = faint ? each.measured : each.smooth;
      const path = draw(plot.svg, "path", { class: style, d: pathOf(plot, each.steps, numbers, faint ? [] : each.breaks) });
      path.style.stroke = each.stroke;
      if (!faint) drawDots(plot, each);
    }
  }
  for (const each of known) {
    (each.joins ?? []).forEach(({ step, names }, i) => markJoin(plot, step, several ? [] : names, each.stroke, i));
  }
  known.forEach((each, i) => markSkipped(plot, skippedOf(each), several ? each.stroke : "var(--mark)", i));
  readCurves(panel, plot, known);
}

// Numbers without a neighbor to be connected with.
function drawDots(plot, { steps, smooth, breaks, stroke }) {
  const starts = new Set(breaks);
  const known = (i) => (smooth[i] ?? null) !== null;
  smooth.forEach((number, i) => {
    const before = known(i - 1) && !starts.has(i);
    const after = known(i + 1) && !starts.has(i + 1);
    if (number === null || before || after) return;
    const dot = draw(plot.svg, "circle", { class: "dot", r: 3.5, cx: plot.x(steps[i]), cy: plot.y(number) });
    dot.style.fill = stroke;
  });
}

function skippedOf(series) {
  return series.run === undefined ? [] : data.runs[series.run].skipped;
}

// Ticks at the bottom, those of several runs in rows.
function markSkipped(plot, ranges, stroke, row) {
  const { inner } = plot;
  const height = 7;
  const top = inner.bottom - (row + 1) * (height + 2);
  for (const { first, last, count } of ranges) {
    const [left, right] = [plot.x(first), plot.x(last)];
    const tick = draw(plot.svg, "rect", { class: "skipped", x: left - 1, y: top, width: right - left + 2, height });
    tick.style.fill = stroke;
    const where = first === last ? `step ${first}` : `steps ${first} to ${last}`;
    draw(tick, "title", {}, `${where}: ${count} skipped`);
  }
}

// The step from which further terms are part of the loss; names of several steps in rows.
function markJoin(plot, step, names, stroke, row) {
  const { inner } = plot;
  const x = plot.x(step);
  const line = draw(plot.svg, "line", { class: "join", x1: x, x2: x, y1: inner.top, y2: inner.bottom });
  if (several) line.style.stroke = stroke;
  if (!names.length) return;
  const late = x > (inner.left + inner.right) / 2;
  const words = `${names.join(" and ")} ${names.length > 1 ? "join" : "joins"}`;
  draw(plot.svg, "text", { x: x + (late ? -6 : 6), y: inner.top + 10 + 15 * (row % 6), class: late ? "end" : "" }, words);
}

function pathOf(plot, steps, numbers, breaks) {
  const starts = new Set(breaks);
  let pen = "M";
  let path = "";
  numbers.forEach((number, i) => {
    if (starts.has(i)) pen = "M";
    if (number === null) {
      pen = "M";
      return;
    }
    path += `${pen}${plot.x(steps[i]).toFixed(1)} ${plot.y(number).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

// A line at the step under the mouse, the finger or the arrow keys, and what every curve has there.
function readCurves(panel, plot, series) {
  const { svg, inner } = plot;
  const longest = series.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
  const cursor = draw(svg, "line", { class: "cursor", y1: inner.top, y2: inner.bottom, visibility: "hidden" });
  let at = longest.steps.length - 1;
  const closest = (steps, step) => steps.reduce((best, each, i) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best), 0);
  const show = (i) => {
    at = Math.max(0, Math.min(longest.steps.length - 1, i));
    const step = longest.steps[at];
    const x = plot.x(step);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const pairs = series.map((each) => {
      const own = closest(each.steps, step);
      const number = step < each.steps[0] || step > each.steps.at(-1) ? null : each.measured[own];
      return [each.name, number === null ? "–" : number.toFixed(3)];
    });
    tooltip(panel, x, inner.top + 60, make("strong", {}, `step ${Math.round(step)}`), facts(pairs));
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    hideTooltip(panel);
  };
  const aim = (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left;
    const pixels = longest.steps.map(plot.x);
    show(closest(pixels, x));
  };
  svg.addEventListener("pointermove", (event) => event.pointerType === "mouse" && aim(event));
  svg.addEventListener("click", aim);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(at));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageDown: 20, PageUp: -20 }[event.key];
    if (event.key === "Escape") hide();
    if (move === undefined) return;
    event.preventDefault();
    show(at + move);
  });
}

function setUpLosses() {
  const select = byId("term");
  if (!select) return;
  const terms = [...new Set(data.runs.flatMap((run) => run.losses.map((curve) => curve.name)))];
  for (const term of terms) select.append(make("option", { value: term }, term));
  select.addEventListener("change", drawLosses);
}
