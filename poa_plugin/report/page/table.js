// The table: sorted by a click on a head, with the rows that the filter leaves.

const table = { body: document.querySelector("#networks tbody"), rows: [], marked: null };

function setUpTable() {
  if (!table.body) return;
  table.rows = [...table.body.rows];
  for (const head of document.querySelectorAll("#networks th[data-key]")) {
    const button = make("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(head));
  }
  table.body.addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    if (row && event.pointerType === "mouse") point(Number(row.dataset.row));
  });
  table.body.addEventListener("pointerleave", () => point(null));
}

// Sort by a column; again, the other way round. Accuracies start with the best, the rest with the least.
function sortBy(head) {
  const { key } = head.dataset;
  const first = /^(top1|before)/.test(key) ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of head.parentNode.cells) each.setAttribute("aria-sort", each === head ? order : "none");
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    const [left, right] = [a, b].map((row) => value(data.rows[row.dataset.row], key));
    if (left === null || right === null) return (left === null) - (right === null);
    const words = typeof left === "string";
    return sign * (words ? left.localeCompare(right, undefined, { numeric: true }) : left - right);
  };
  table.body.append(...[...table.body.rows].sort(compare));
}

function showRows({ rows, front }) {
  const shown = new Set(rows);
  for (const row of table.rows) {
    const i = Number(row.dataset.row);
    row.hidden = !shown.has(i);
    row.classList.toggle("best", front.has(i));
  }
  const count = byId("count");
  if (!count) return;
  const drawn = rows.filter((i) => scatter.points.has(i)).length;
  const lines = rows.filter((i) => scatter.box?.querySelector(`.level[data-row="${i}"]`)).length;
  const rest = state.x ? rows.length - drawn - lines : 0;
  const unknown = state.filter.unknown.map((word) => ` “${word}” is not understood.`).join("");
  count.textContent = `${rows.length} of ${data.rows.length} shown${rest ? `, ${rest} without a point` : ""}.${unknown}`;
  byId("filter").setAttribute("aria-invalid", String(state.filter.unknown.length > 0));
}

function markRow(i) {
  table.marked?.classList.remove("marked");
  table.marked = table.rows[i] ?? null;
  table.marked?.classList.add("marked");
}

// Bring a row to the middle of the table's own box, without moving the page.
function scrollToRow(i) {
  const [box, row] = [byId("networks"), table.rows[i]];
  if (!row || row.hidden) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const top = row.offsetTop - box.clientHeight / 2;
  box.scrollTo({ top, behavior: calm ? "auto" : "smooth" });
}
