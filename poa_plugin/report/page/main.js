// Everything is drawn, and drawn again when a choice changes.

function update() {
  const now = chosen();
  if (scatter.box) drawScatter(now);
  if (table.body) showRows(now);
  if (byId("map")) drawAccuracyMap(now);
  if (several) drawLosses();
}

// Whether accuracies before training leave a third of the plot's height to those after it.
function baselinesFit() {
  const known = (numbers) => numbers.filter((number) => number !== null && number !== undefined);
  const spread = (numbers) => Math.max(...numbers) - Math.min(...numbers);
  const trained = known(data.rows.filter((row) => row.kind === "trained").map(accuracy));
  const rest = known(data.rows.flatMap((row) => [accuracy(row), row.before[state.k]]));
  return trained.length < 2 || spread(trained) * 3 >= spread(rest);
}

function setUpControls() {
  for (const bar of document.querySelectorAll(".controls")) bar.hidden = false;
  for (const radio of document.querySelectorAll("input[name=x]")) {
    if (radio.checked) state.x = radio.value;
    radio.addEventListener("change", () => {
      state.x = radio.value;
      update();
    });
  }
  if (byId("baselines")) byId("baselines").checked = baselinesFit();
  for (const name of ["log", "front", "baselines"]) {
    const box = byId(name);
    if (!box) continue;
    state[name] = box.checked;
    box.addEventListener("change", () => {
      state[name] = box.checked;
      update();
    });
  }
  const k = byId("k");
  if (k) state.k = Number(k.value);
  k?.addEventListener("change", () => {
    state.k = Number(k.value);
    update();
  });
  byId("filter")?.addEventListener("input", (event) => {
    state.filter = parseFilter(event.target.value);
    update();
  });
}

setUpControls();
setUpTable();
setUpMaps();
setUpLosses();
update();
drawLosses();
document.documentElement.classList.add("drawn"); // hides the pictures, which the drawings stand for
if (scatter.box) onWidth(scatter.box, update);
if (byId("losses")) onWidth(byId("losses"), drawLosses);
document.addEventListener("click", (event) => {
  if (scatter.box && !event.target.closest("#scatter svg, #map td, #networks")) point(null);
});
