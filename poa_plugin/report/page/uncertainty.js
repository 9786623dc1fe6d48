// What is uncertain in the plot of accuracies: bars of a standard error, and bands below the best networks.

// The ends of a row's accuracy with its standard error; nothing where that is not known.
function errorBar(row) {
  const error = row.errors[state.k] ?? null;
  return error === null ? [] : [Math.max(0, accuracy(row) - error), Math.min(100, accuracy(row) + error)];
}

// Accuracies that are not distinguishable from the best one of each run that is shown.
function drawBands(plot) {
  const { inner } = plot;
  const within = (y) => Math.min(inner.bottom, Math.max(inner.top, y));
  shownBest().forEach(([run, best]) => {
    const [top, bottom] = [plot.y(accuracy(data.rows[best.row])), plot.y(best.lowest)].map(within);
    const band = draw(plot.svg, "rect", { class: "band", x: inner.left, y: top, width: inner.right - inner.left, height: bottom - top });
    if (several) band.style.fill = `var(--r${run % 7})`;
  });
}

const mostBands = 3; // more of them on top of each other say nothing

// The number and the best network of each run that is not switched off, if its uncertainty is known.
function shownBest() {
  const runs = [...data.runs.keys()].filter((run) => !several || !state.off.has(run));
  if (runs.length > mostBands) return [];
  return runs.map((run) => [run, bestOf(run)]).filter(([, best]) => best !== null && best.lowest !== null);
}

// What the band and the bars are.
function writeNote() {
  const note = byId("scatter-note");
  const known = shownBest();
  note.hidden = !data.rows.some((row) => row.kind === "trained" && row.errors[state.k]);
  const named = known.map(([, { row, like }]) => {
    const { label, run } = data.rows[row];
    const name = several ? `${label} of ${data.runs[run].name}` : label;
    const text = percent(accuracy(data.rows[row]), data.rows[row].errors[state.k]);
    return `${name} (${text}): ${like.length || "no"} ${like.length === 1 ? "other" : "others"}`;
  });
  const shaded = named.length ? `Shaded: not distinguishable from the best, ${named.join("; ")}. ` : "";
  note.textContent = `${shaded}Bars on the Pareto front: one standard error either side.`;
}

function drawErrorBar(plot, row, stroke) {
  const [low, high] = errorBar(row);
  if (low === undefined) return;
  const x = plot.x(row[state.x]);
  const bar = draw(plot.svg, "line", { class: "bar", x1: x, x2: x, y1: plot.y(low), y2: plot.y(high) });
  bar.style.stroke = stroke;
}
