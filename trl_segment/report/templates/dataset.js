"use strict";

// The list of traces. Its sorting and its filters stand in the address, so that the way back from a trace finds them.

const [AT_FIRST, AT_ONCE] = [12, 100]; // rows that are drawn, and how many more at a time
// Values of the filter on reasons. A reason is any text, so its number stands for it
const [ATTRIBUTED, SKIPPED] = ["none", "any"];

const traces = data.rows.map((row) => Object.fromEntries(data.columns.map((name, i) => [name, row[i]])));
for (const trace of traces) trace.kept = trace.tokens ? trace.kept_tokens / trace.tokens : null;
const reasons = [...new Set(traces.map((trace) => trace.reason))].filter((reason) => reason !== null);
const unless = (value, shown) => (value === null ? "–" : shown(value));

const COLUMNS = {
  number: { heading: "#", show: (trace) => integer(trace.number) },
  name: { heading: "trace", words: true },
  segments: { heading: "segments", show: (trace) => unless(trace.segments, integer) },
  tokens: { heading: "tokens", show: (trace) => unless(trace.tokens, integer) },
  kept: { heading: "kept", term: "kept_tokens", show: (trace) => unless(trace.kept, percent) },
  strength: { heading: "strength", term: "mean_strength", show: (trace) => short(trace.strength) },
  needed: { heading: "80 % in", term: "needed", show: (trace) => unless(trace.needed, (value) => percent(value, 0)) },
  gain: { heading: "gain", term: "gain", show: (trace) => unless(trace.gain, (value) => decimal(value, 2)) },
  reliability: { heading: "reliability", term: "reliability", words: true },
  reason: { heading: "skipped", term: "reason", words: true },
};

const form = byId("filters");
const control = (name) => form.elements[name];
let matching = [];
let drawn = 0;

function showHeadings() {
  for (const [name, column] of Object.entries(COLUMNS)) {
    const button = make("button", { type: "button", textContent: column.heading });
    if (column.term) define(button, column.term);
    button.addEventListener("click", () => {
      // Numbers from the largest, words from the first
      const again = control("sort").value === name;
      control("descending").checked = again ? !control("descending").checked : !column.words && name !== "number";
      control("sort").value = name;
      showList();
    });
    column.th = make("th", { scope: "col", className: column.words ? "words" : "" }, button);
    byId("headings").append(column.th);
    control("sort").append(make("option", { value: name, textContent: column.heading }));
  }
}

function addChoices(name, choices) {
  for (const [value, label, count] of choices) {
    const option = make("option", { value });
    appendText(option, `${label} (${integer(count)})`);
    control(name).append(option);
  }
}

function countOf(name) {
  const counts = new Map();
  for (const trace of traces) counts.set(trace[name], (counts.get(trace[name]) ?? 0) + 1);
  return counts;
}

function showChoices() {
  const states = countOf("reliability");
  addChoices(
    "reliability",
    data.reliability.filter((state) => states.has(state)).map((state) => [state, state, states.get(state)]),
  );
  const counts = countOf("reason");
  const attributed = counts.get(null) ?? 0;
  addChoices("reason", [
    [ATTRIBUTED, "not skipped", attributed],
    [SKIPPED, "skipped", traces.length - attributed],
    ...reasons.map((reason, index) => [String(index), reason, counts.get(reason)]),
  ]);
}

function makeFilter() {
  const value = (name) => control(name).value;
  const [name, reliability, reason] = [value("name").toLowerCase(), value("reliability"), value("reason")];
  const within = (from, to) => (number) =>
    (from === "" && to === "") ||
    (number !== null && (from === "" || number >= Number(from)) && (to === "" || number <= Number(to)));
  const isKept = within(value("kept_from"), value("kept_to"));
  const isStrong = within(value("strength_from"), value("strength_to"));
  const isSkipped = {
    "": () => true,
    [ATTRIBUTED]: (trace) => trace.reason === null,
    [SKIPPED]: (trace) => trace.reason !== null,
  }[reason] ?? ((trace) => trace.reason === reasons[reason]);
  return (trace) =>
    trace.name.toLowerCase().includes(name) &&
    isKept(trace.kept === null ? null : 100 * trace.kept) &&
    isStrong(trace.strength) &&
    (reliability === "" || trace.reliability === reliability) &&
    isSkipped(trace);
}

// What is not known stands last, whichever way is sorted
function makeOrder() {
  const name = control("sort").value;
  const sign = control("descending").checked ? -1 : 1;
  return (first, second) => {
    const [a, b] = [first[name], second[name]];
    if (a === null || b === null) return (a === null) - (b === null) || first.number - second.number;
    return sign * (a < b ? -1 : a > b ? 1 : 0) || first.number - second.number;
  };
}

function makeRow(trace) {
  const cells = Object.entries(COLUMNS).map(([name, column]) => {
    const cell = make("td", { className: column.words ? "words" : "" });
    cell.dataset.label = column.heading;
    if (name === "name") {
      const label = make("bdi");
      appendText(label, trace.name);
      cell.append(trace.page === null ? label : make("a", { href: trace.page }, label));
    } else if (column.words) {
      const label = make("bdi");
      appendText(label, trace[name] ?? "–");
      cell.append(label);
    } else {
      cell.textContent = column.show(trace);
    }
    cell.classList.toggle("unknown", trace[name] === null);
    return cell;
  });
  const row = make("tr", {}, ...cells);
  row.classList.add(trace.reliability === null ? "skipped" : trace.reliability.replace(" ", "-"));
  return row;
}

function showMore(number) {
  byId("rows").append(...matching.slice(drawn, drawn + number).map(makeRow));
  drawn = Math.min(matching.length, drawn + number);
  const left = matching.length - drawn;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${integer(Math.min(left, AT_ONCE))} more`;
  byId("shown").textContent =
    `${integer(matching.length)} of ${integer(traces.length)} traces match` +
    (left ? `; the first ${integer(drawn)} are shown` : "");
}

function showList() {
  matching = traces.filter(makeFilter()).sort(makeOrder());
  drawn = 0;
  byId("rows").replaceChildren();
  showMore(AT_FIRST);
  for (const [name, column] of Object.entries(COLUMNS)) {
    if (name !== control("sort").value) column.th.removeAttribute("aria-sort");
    else column.th.ariaSort = control("descending").checked ? "descending" : "ascending";
  }
  keepInAddress();
}

function keepInAddress() {
  const kept = new URLSearchParams();
  for (const element of form.elements) {
    const value = element.type === "checkbox" ? (element.checked ? "1" : "") : element.value;
    if (element.name && value && !(element.name === "sort" && value === "number")) kept.set(element.name, value);
  }
  const address = kept.size ? `#traces&${kept}` : location.hash.startsWith("#traces&") ? "#traces" : null;
  if (address) history.replaceState(null, "", address);
}

function readAddress() {
  if (!location.hash.startsWith("#traces&")) return;
  for (const [name, value] of new URLSearchParams(location.hash.slice("#traces&".length))) {
    if (!control(name)?.name) continue;
    if (control(name).type === "checkbox") control(name).checked = true;
    else control(name).value = value;
  }
  byId("traces").scrollIntoView();
}

connectTheme();
connectDefinitions();
showHeadings();
showChoices();
readAddress();
form.addEventListener("input", showList);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(showList));
byId("more").addEventListener("click", () => showMore(AT_ONCE));
showList();
