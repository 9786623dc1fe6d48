// Width x depth: a cell for each pair, colored by what is measured there.

const measures = {
  accuracy: { name: "top-1 (%)", of: accuracy, error: (row) => row.errors[state.k] ?? null },
  gain: { name: "gain over untrained (points)", of: gain },
};

// Fill a box with a map. `cells` are {width, depth, number, title, row}; `all` have every width and depth.
function drawMap(box, cells, unit, all = cells) {
  const [widths, depths] = ["width", "depth"].map((side) => [...new Set(all.map((cell) => cell[side]))].sort((a, b) => a - b));
  const byPlace = new Map(cells.map((cell) => [`${cell.width} ${cell.depth}`, cell]));
  const numbers = cells.map((cell) => cell.number);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const wide = widths.length * 2 < depths.length; // few widths: a row for each
  const [across, down] = wide ? [depths, widths] : [widths, depths];
  const table = make("table", {});
  const head = make("tr", {}, make("th", {}, wide ? "width ╲ depth" : "depth ╲ width"));
  for (const column of across) head.append(make("th", { scope: "col" }, String(column)));
  table.append(make("thead", {}, head));
  const said = make("output");
  const body = make("tbody");
  for (const line of [...down].reverse()) {
    const tr = make("tr", {}, make("th", { scope: "row" }, String(line)));
    for (const column of across) {
      const cell = byPlace.get(wide ? `${line} ${column}` : `${column} ${line}`);
      tr.append(mapCell(cell, low, high, said));
    }
    body.append(tr);
  }
  table.append(body);
  const ramp = make("div", { className: "ramp" });
  const bar = make("i");
  bar.style.background = `linear-gradient(90deg, ${data.colors.join(",")})`;
  const [least, most] = low < high ? shortApart([low, high]) : [short(low), short(high)];
  ramp.append(make("span", {}, least), bar, make("span", {}, `${most} ${unit}`), said);
  box.replaceChildren(table, ramp);
}

function mapCell(cell, low, high, said) {
  if (!cell) return make("td", { className: "none" });
  const share = high > low ? (cell.number - low) / (high - low) : 1;
  const text = cell.row === undefined ? String(cell.number) : percent(cell.number);
  const td = make("td", { title: cell.title }, text);
  td.addEventListener("pointerenter", () => (said.textContent = cell.title));
  td.style.background = data.colors[onScale(share)];
  td.style.color = data.texts[onScale(share)];
  if (cell.row !== undefined) {
    td.dataset.row = cell.row;
    td.addEventListener("pointerenter", () => point(cell.row));
    td.addEventListener("pointerleave", () => point(null));
  }
  return td;
}

// The accuracy map: the best of the shown networks of each width and depth.
function drawAccuracyMap({ rows }) {
  const box = byId("map");
  if (!box) return;
  const run = Number(byId("map-run")?.value ?? 0);
  const measure = measures[byId("measure").value];
  const best = new Map();
  for (const i of rows) {
    const row = data.rows[i];
    const number = measure.of(row);
    if (row.run !== run || row.kind !== "trained" || !row.width || !row.depth || number === null) continue;
    const place = `${row.width} ${row.depth}`;
    const known = best.get(place);
    const count = (known?.count ?? 0) + 1;
    if (!known || number > known.number) best.set(place, { width: row.width, depth: row.depth, number, row: i, count });
    else known.count = count;
  }
  const cells = [...best.values()];
  for (const cell of cells) {
    const row = data.rows[cell.row];
    const text = measure.error ? percent(cell.number, measure.error(row)) : percent(cell.number);
    const like = measure.error && isLikeBest(cell.row) ? ` ${data.mark}` : "";
    cell.title = `${row.label}: ${text}${like}${cell.count > 1 ? `, the best of ${cell.count} of this width and depth` : ""}`;
  }
  const placed = data.rows.filter((row) => row.kind === "trained" && row.width && row.depth);
  box.closest("section").hidden = placed.length < 2;
  if (cells.length) drawMap(box, cells, measure.name, placed.filter((row) => row.run === run));
  else box.replaceChildren(make("p", { className: "note" }, "None of the networks that are shown has a number here."));
}

function drawDraws() {
  const box = byId("draws");
  if (!box) return;
  const { draws } = data.runs[Number(byId("draws-run")?.value ?? 0)];
  const cells = new Map();
  for (const { width, depth, count, network } of draws) {
    if (!width) continue;
    const place = `${width} ${depth}`;
    const cell = cells.get(place) ?? { width, depth, number: 0, names: [] };
    cell.number += count;
    cell.names.push(network);
    cells.set(place, cell);
  }
  for (const cell of cells.values()) {
    cell.title = `${cell.names.length > 1 ? `${cell.names.length} networks` : cell.names[0]}: ${cell.number} times`;
  }
  const inner = make("div", { className: "map scroll", tabIndex: 0 });
  inner.setAttribute("role", "region");
  inner.setAttribute("aria-label", "Times drawn by width and depth");
  if (cells.size) drawMap(inner, [...cells.values()], "times");
  const others = draws.filter((draw) => !draw.width).map((draw) => `${draw.network}: ${draw.count} times`);
  box.replaceChildren(inner);
  if (others.length) box.append(make("p", { className: "note" }, others.join(", ")));
  if (!draws.length) box.append(make("p", { className: "note" }, "This run has no elastic student."));
}

function setUpMaps() {
  const select = byId("measure");
  if (select) {
    const known = Object.keys(measures).filter((key) => key !== "gain" || data.rows.some((row) => Object.keys(row.before).length));
    for (const key of known) select.append(make("option", { value: key }, measures[key].name));
    select.addEventListener("change", update);
    byId("map-run")?.addEventListener("change", update);
  }
  byId("draws-run")?.addEventListener("change", drawDraws);
  drawDraws();
}
