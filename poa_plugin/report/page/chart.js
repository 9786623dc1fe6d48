// Axes, scales, tooltips and legends, which the drawings share.

const marks = ["circle", "square", "triangle", "diamond", "down"];
const outlines = {
  square: "M-1-1H1V1H-1Z",
  triangle: "M0-1.25 1.15.85H-1.15Z",
  diamond: "M0-1.35 1.35 0 0 1.35-1.35 0Z",
  down: "M0 1.25 1.15-.85H-1.15Z",
  star: "M0-1.7 .45-.55 1.65-.5 .7.25 1.05 1.4 0 .75-1.05 1.4-.7.25-1.65-.5-.45-.55Z",
};

function niceStep(span, count) {
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

function linearTicks(low, high, count) {
  const step = niceStep(high - low, count);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  for (const factors of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of factors) {
        const tick = factor * 10 ** power;
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    if (ticks.length <= count || factors.length === 1) return ticks.length > 1 ? ticks : linearTicks(low, high, 4);
  }
}

// A scale from [low, high] to pixels; `log` where all values are positive.
function scale(low, high, from, to, log) {
  const of = log ? Math.log : (number) => number;
  const [a, b] = [of(low), of(high)];
  const map = (number) => from + ((of(number) - a) / (b - a)) * (to - from);
  map.ticks = (count) => (log ? logTicks(low, high, count) : linearTicks(low, high, count));
  return map;
}

// The ends of an axis that holds all numbers with some margin.
function ends(numbers, log, share = 0.05) {
  let low = Infinity;
  let high = -Infinity;
  for (const number of numbers) {
    low = Math.min(low, number);
    high = Math.max(high, number);
  }
  if (log) {
    const factor = high > low ? (high / low) ** share : 1.5;
    return [low / factor, high * factor];
  }
  const margin = high > low ? (high - low) * share : Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

// Remove a box's drawing, and nothing of its legend.
function removeDrawing(box) {
  box.querySelector(":scope > svg")?.remove();
}

// Axes in a box: an svg, and x and y as functions from values to pixels.
function axes(box, { xs, ys, log = false, xName, yName, label, height }) {
  removeDrawing(box);
  const width = Math.max(260, box.clientWidth);
  const inner = { left: 56, right: width - 12, top: 14, bottom: height - 44 };
  const svg = draw(box, "svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", label);
  box.prepend(svg);
  const x = scale(...ends(xs, log), inner.left, inner.right, log);
  const y = scale(...ends(ys, false), inner.bottom, inner.top, false);
  const grid = draw(svg, "g", { class: "grid", "aria-hidden": "true" });
  const levels = y.ticks(Math.round(height / 50));
  shortApart(levels).forEach((text, i) => {
    const at = y(levels[i]);
    draw(grid, "line", { x1: inner.left, x2: inner.right, y1: at, y2: at });
    draw(grid, "text", { x: inner.left - 7, y: at + 4, class: "end" }, text);
  });
  const ticks = x.ticks(Math.round(width / (log ? 100 : 80)));
  shortApart(ticks).forEach((text, i) => {
    const at = x(ticks[i]);
    draw(grid, "line", { x1: at, x2: at, y1: inner.bottom, y2: inner.bottom + 5, class: "tick" });
    draw(grid, "text", { x: at, y: inner.bottom + 19, class: "middle" }, text);
  });
  draw(grid, "text", { x: (inner.left + inner.right) / 2, y: height - 6, class: "middle name" }, xName);
  const turned = `translate(12 ${(inner.top + inner.bottom) / 2}) rotate(-90)`;
  draw(grid, "text", { transform: turned, class: "middle name" }, yName);
  return { svg, x, y, inner, width };
}

function outline(parent, shape, x, y, size, attributes = {}) {
  if (shape === "circle") return draw(parent, "circle", { cx: x, cy: y, r: size, ...attributes });
  const place = `translate(${x} ${y}) scale(${size})`;
  return draw(parent, "path", { d: outlines[shape], transform: place, ...attributes });
}

// Show a tooltip beside a place in a box, within the box.
function tooltip(box, x, y, ...children) {
  let tip = box.querySelector(".tip");
  if (!tip) {
    tip = make("div", { className: "tip" });
    tip.setAttribute("aria-hidden", "true"); // the point's own label says the same
    box.append(tip);
  }
  tip.replaceChildren(...children);
  tip.hidden = false;
  const space = 14;
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const left = [x + space, x - space - width].find((each) => each >= 0 && each + width <= box.clientWidth);
  const beside = left !== undefined;
  const above = y - height - space;
  const top = beside ? y - height / 2 : above >= 0 ? above : y + space;
  tip.style.left = `${beside ? left : Math.max(0, Math.min(x - width / 2, box.clientWidth - width))}px`;
  tip.style.top = `${Math.max(0, top)}px`;
}

function hideTooltip(box) {
  const tip = box.querySelector(".tip");
  if (tip) tip.hidden = true;
}

function facts(pairs) {
  const list = make("dl");
  for (const [name, text] of pairs) list.append(make("dt", {}, name), make("dd", {}, text));
  return list;
}

// Buttons that switch the groups (runs, or widths) on and off in every drawing and in the table.
function legend(box) {
  let bar = box.querySelector(":scope > .legend");
  if (!bar) {
    bar = make("div", { className: "legend" });
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", several ? "runs shown" : "widths shown");
    box.append(bar);
  }
  const names = several ? data.runs.map((run) => run.name) : data.widths.map(String);
  if (names.length < 2) return;
  if (!bar.children.length) {
    if (!several) bar.append(make("span", {}, "width"));
    names.forEach((name, i) => bar.append(legendButton(name, i)));
  }
  for (const button of bar.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(!state.off.has(Number(button.dataset.group))));
  }
}

function legendButton(name, i) {
  const button = make("button", { type: "button" });
  button.dataset.group = i;
  const sample = draw(button, "svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" });
  const shape = several ? marks[i % marks.length] : "circle";
  const mark = outline(sample, shape, 0, 0, 5);
  mark.style.fill = several ? `var(--r${i % 7})` : `var(--w${i})`;
  button.append(make("span", {}, name));
  button.addEventListener("click", () => {
    if (!state.off.delete(i)) state.off.add(i);
    update();
  });
  return button;
}
