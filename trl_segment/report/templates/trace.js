"use strict";

const segments = data.segments;
const state = { ...data.thresholds, sort: "index", descending: false, active: -1 };
const views = []; // per segment: the elements that show it
const lines = {}; // the thresholds in the plane
let tokensMade = false;

// Blank lines at a segment's ends stay in the page's text but take no room: where what is seen starts and ends
function visiblePart(text) {
  const isSpace = (index) => " \t\r\n".includes(text[index]);
  let start = 0;
  for (let i = 0; i < text.length && isSpace(i); i++) if (text[i] === "\n") start = i + 1;
  let end = text.length;
  while (end > start && isSpace(end - 1)) end--;
  return [start, end];
}

function appendPart(parent, text, from, to, [start, end]) {
  for (const [a, b, className] of [
    [from, Math.min(to, start), "edge"],
    [Math.max(from, start), Math.min(to, end), ""],
    [Math.max(from, end), to, "edge"],
  ]) {
    if (a >= b) continue;
    if (className) parent.append(make("span", { className, textContent: text.slice(a, b) }));
    else appendText(parent, text.slice(a, b));
  }
}

const scored = data.problem === null;
const strength = scored ? attributionStrength(segments) : [];
const consistency = scored ? directionConsistency(segments) : [];
const directed = isDirected(segments);
const total = strength.reduce((sum, value) => sum + value, 0);
const strongest = Math.max(...strength, Number.MIN_VALUE);
// One segment often has most of the strength; the square root lets the others be told apart
const tint = (index) => Math.sqrt(strength[index] / strongest).toFixed(3);
const { f_input: answered, f_baseline: unanswered } = data.scores ?? {};
const gain = (answered ?? null) === null || (unanswered ?? null) === null ? null : answered - unanswered;
const numTokens = scored ? segments.reduce((sum, segment) => sum + segment.num_tokens, 0) : 0;
const hasTokens = segments.some((segment) => segment.token_lengths);
const hasRoles = segments.some((segment) => "role" in segment);

// Segments of hundreds of tokens show their first lines until somebody asks for the rest
const LONG = { tokens: 200, lines: 25, charactersPerToken: 4 };

function isLong(segment) {
  const tokens = segment.num_tokens ?? segment.text.length / LONG.charactersPerToken;
  return tokens >= LONG.tokens || segment.text.trim().split("\n").length >= LONG.lines;
}

function fold(index, folded) {
  const { body, fold: button } = views[index];
  body.classList.toggle("folded", folded);
  button.ariaExpanded = String(!folded);
  const { num_tokens: tokens } = segments[index];
  const size = tokens === undefined ? "the whole segment" : `all ${integer(tokens)} tokens`;
  button.textContent = folded ? `Show ${size}` : "Fold";
  button.ariaLabel = `${button.textContent}, segment ${index + 1}`;
}

const isFolded = ({ body }) => body.classList.contains("folded");

function connectFolds() {
  const long = views.flatMap((view, index) => (view.fold ? [index] : []));
  const unfold = byId("unfold");
  const name = () => (unfold.textContent = long.some((index) => isFolded(views[index])) ? "Unfold all" : "Fold all");
  for (const index of long) {
    views[index].fold.addEventListener("click", () => {
      fold(index, !isFolded(views[index]));
      name();
    });
  }
  unfold.addEventListener("click", () => {
    const folded = !long.some((index) => isFolded(views[index]));
    for (const index of long) fold(index, folded);
    name();
  });
  unfold.hidden = !long.length;
  name();
}

function showText() {
  for (const turn of data.prompt) {
    const block = make("div", { className: "turn", dir: "auto" }, make("b", { textContent: turn.role }));
    appendText(block, turn.text);
    byId("prompt").append(block);
  }
  const response = make("div", { className: "turn", dir: "auto" });
  appendText(response, data.response);
  byId("response").append(response);
  segments.forEach((segment, index) => {
    const body = make("div", { className: "body", dir: "auto" });
    appendPart(body, segment.text, 0, segment.text.length, visiblePart(segment.text));
    const section = make("article", { className: "segment", id: `s${index + 1}`, tabIndex: -1 });
    const note = make("small");
    const words = make("div", { className: "words" }, body);
    if (scored) {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${Math.max(3, (100 * strength[index]) / strongest)}%`;
      section.style.setProperty("--s", tint(index));
      const gutter = make(
        "div",
        { className: "gutter", ariaHidden: "true" },
        note,
        make("b", { textContent: index + 1 }),
        bar,
        ...(directed ? [make("small", { textContent: `consistency ${consistency[index].toFixed(2)}` })] : []),
      );
      gutter.addEventListener("click", () => activate(index, "row"));
      section.append(gutter);
    } else {
      section.append(make("div", { className: "gutter" }, make("b", { textContent: index + 1 })));
    }
    section.append(words);
    byId("segments").append(section);
    views.push({ section, body, note });
    if (isLong(segment)) {
      const button = make("button", { type: "button", className: "fold" });
      words.append(button);
      views[index].fold = button;
      fold(index, true);
    }
  });
  if (data.unsegmented) {
    const body = make("div", { className: "body", dir: "auto" });
    appendText(body, data.unsegmented);
    byId("segments").append(body);
  }
}

function showFacts() {
  const { f_input, f_baseline, completeness_gap, evaluations, stopped_by } = data.scores;
  byId("log-probability").textContent = Math.abs(f_input) < 0.1 ? short(f_input) : decimal(f_input);
  byId("log-probability-label").textContent =
    f_baseline === null
      ? ""
      : `; ${stopped_by === null ? "without reasoning" : "baseline"} ${decimal(f_baseline)}`;
  const increase = Math.abs(f_input - f_baseline);
  const gap = completeness_gap === null || !increase ? null : Math.abs(completeness_gap) / increase;
  byId("gap").textContent = gap === null ? "–" : percent(gap, gap < 0.001 ? 3 : 1);
  byId("gap-label").textContent = `${gap === null ? " not known" : ""}, ${integer(evaluations)} evaluation${evaluations === 1 ? "" : "s"}`;
  for (const [key, value] of Object.entries({ ...data.scores, ...data.settings })) {
    const shown = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
    byId("settings").append(make("div", {}, appendTo("dt", key), appendTo("dd", shown)));
  }
}

function showStrip() {
  segments.forEach((segment, index) => {
    const cell = make("span", { title: `segment ${index + 1}` });
    cell.style.flexGrow = Math.max(segment.num_tokens, 1);
    cell.style.setProperty("--s", tint(index));
    cell.addEventListener("click", () => activate(index, "text"));
    byId("strip").append(cell);
    views[index].cell = cell;
  });
}

const CONSISTENCY = { absolute: "direction consistency", chance: "consistency above chance", rank: "rank of consistency" };
// Narrow screens get a narrow plane, so that its words keep their size
const NARROW = matchMedia("(max-width: 40rem)");
const PLANE = { left: 52, right: NARROW.matches ? 338 : 550, top: 10, bottom: 152 };
const scaled = scored ? scaledConsistency(segments, state.consistency_scale) : [];
const leftmost = Math.min(0, Math.floor(4 * Math.min(0, ...scaled)) / 4); // under chance
const planeX = (value) => PLANE.left + ((PLANE.right - PLANE.left) * (value - leftmost)) / (1 - leftmost);
// The threshold of strength that the selection at hand has: a share to reach, or a strength
const level = state.selection === "threshold" ? "min_strength" : "tau";
const planeY = (value) => PLANE.bottom - (PLANE.bottom - PLANE.top) * Math.sqrt(value / (1.1 * strongest));

function showPlane() {
  const plane = byId("plane");
  plane.setAttribute("viewBox", `0 0 ${PLANE.right + 10} ${NARROW.matches ? 205 : 190}`);
  const meaning = CONSISTENCY[state.consistency_scale];
  lines.region = plane.appendChild(makeSvg("rect", { class: "region" }));
  for (let tick = leftmost; tick <= 1; tick += leftmost < -1 ? 0.5 : 0.25) {
    const x = planeX(tick);
    plane.append(
      makeSvg("line", { class: "axis", x1: x, x2: x, y1: PLANE.top, y2: PLANE.bottom }),
      makeSvg("text", { x, y: PLANE.bottom + 15, "text-anchor": "middle" }, String(tick)),
    );
  }
  for (const tick of [0, 0.1, 0.4, 1]) {
    const y = planeY(tick * strongest);
    plane.append(
      makeSvg("line", { class: "axis", x1: PLANE.left, x2: PLANE.right, y1: y, y2: y }),
      makeSvg("text", { x: PLANE.left - 7, y: y + 4, "text-anchor": "end" }, short(tick * strongest)),
    );
  }
  lines.beta = plane.appendChild(makeSvg("line", { class: "bound", y1: PLANE.top, y2: PLANE.bottom }));
  lines.tau = plane.appendChild(makeSvg("line", { class: "bound", x1: PLANE.left, x2: PLANE.right }));
  plane.append(
    makeSvg("text", { x: PLANE.right, y: PLANE.bottom + 32, "text-anchor": "end" }, `${meaning} →`),
    makeSvg("text", { x: PLANE.left, y: PLANE.bottom + (NARROW.matches ? 48 : 32) }, "↑ strength, on a square-root scale; area: tokens"),
  );
  const longest = Math.max(...segments.map((segment) => segment.num_tokens), 1);
  segments.forEach((segment, index) => {
    const dot = makeSvg("circle", {
      cx: planeX(scaled[index]),
      cy: planeY(strength[index]),
      r: 2.5 + 7 * Math.sqrt(segment.num_tokens / longest),
    });
    dot.append(makeSvg("title", {}, `segment ${index + 1}`));
    dot.addEventListener("click", () => activate(index, "text"));
    plane.append(dot);
    views[index].dot = dot;
  });
}

const COLUMNS = {
  index: { heading: "#", value: (i) => i },
  strength: { heading: "strength", value: (i) => strength[i], descending: true, term: "strength" },
  consistency: { heading: "consistency", value: (i) => consistency[i], descending: true, term: "consistency" },
  tokens: { heading: "tokens", value: (i) => segments[i].num_tokens, descending: true },
  sum: { heading: "sum", value: (i) => segments[i].sum_signed, descending: true, term: "sum" },
  ...(hasRoles ? { role: { heading: "role", value: (i) => segments[i].role ?? "", words: true, term: "role" } } : {}),
  verdict: { heading: "verdict", value: (i) => views[i].verdict, words: true, term: "verdict" },
  opens: { heading: "opens with", value: (i) => segments[i].text.trim().slice(0, 60), words: true },
};

function showTable() {
  for (const [key, column] of Object.entries(COLUMNS)) {
    const button = make("button", { type: "button", textContent: column.heading });
    button.addEventListener("click", () => {
      state.descending = state.sort === key ? !state.descending : Boolean(column.descending);
      state.sort = key;
      sortRows();
    });
    if (column.term) define(button, column.term);
    column.th = make("th", { scope: "col", className: `${key} ${column.words ? "words" : ""}` }, button);
    byId("headings").append(column.th);
  }
  segments.forEach((segment, index) => {
    const link = make("a", { href: `#s${index + 1}`, textContent: index + 1, tabIndex: index ? -1 : 0 });
    link.ariaLabel = `Segment ${index + 1}, go to the text`;
    const bar = make("span", { className: "bar", ariaHidden: "true" });
    bar.style.setProperty("--s", strength[index] / strongest);
    const verdict = make("td", { className: "words" });
    const opens = make("td", { className: "opens", dir: "auto" });
    appendText(opens, segment.text.trim().replace(/\s+/g, " ").slice(0, 60));
    const cells = [
      make("td", {}, link),
      make("td", {}, bar, total > 0 ? percent(strength[index] / total) : short(strength[index])),
      make("td", { textContent: directed ? consistency[index].toFixed(2) : "–" }),
      make("td", { textContent: integer(segment.num_tokens) }),
      make("td", {
        className: "sum",
        textContent: directed ? (segment.sum_signed > 0 ? "+" : "") + short(segment.sum_signed) : "–",
      }),
      ...(hasRoles ? [appendTo("td", segment.role ?? "", "role words")] : []),
      verdict,
      opens,
    ];
    const row = make("tr", {}, ...cells);
    row.addEventListener("click", (event) => {
      event.preventDefault();
      activate(index, "text");
    });
    row.addEventListener("keydown", (event) => {
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (!step) return;
      event.preventDefault();
      row[step]?.querySelector("a").focus();
    });
    link.addEventListener("focus", () => {
      for (const view of views) view.link.tabIndex = -1;
      link.tabIndex = 0;
    });
    byId("rows").append(row);
    Object.assign(views[index], { row, link, verdictCell: verdict });
  });
}

function sortRows() {
  const { value } = COLUMNS[state.sort];
  const sign = state.descending ? -1 : 1;
  const order = segments.map((_, index) => index);
  order.sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    return sign * (first < second ? -1 : first > second ? 1 : 0);
  });
  byId("rows").append(...order.map((index) => views[index].row));
  for (const [key, column] of Object.entries(COLUMNS)) {
    if (key === state.sort) column.th.ariaSort = state.descending ? "descending" : "ascending";
    else column.th.removeAttribute("aria-sort");
  }
}

// Runs with every move of a slider
function showSelection() {
  const selection = data.drawn
    ? data.drawn.map((verdict) => ({ kept: verdict.startsWith("kept"), verdict }))
    : selectSegments(segments, state, gain);
  let keptSegments = 0;
  let keptTokens = 0;
  selection.forEach(({ kept, verdict }, index) => {
    const view = views[index];
    keptSegments += kept;
    keptTokens += kept ? segments[index].num_tokens : 0;
    if (view.verdict !== verdict) {
      view.verdict = verdict;
      const why = verdict.replace(/^(dropped|kept), /, "");
      view.verdictCell.textContent = view.note.textContent = why;
      if (why === "kept") delete view.note.dataset.term;
      else view.note.dataset.term = why;
      for (const element of [view.section, view.cell, view.row, view.dot]) element.classList.toggle("kept", kept);
      view.dot.classList.toggle("forced", verdict === "kept, always");
      view.section.ariaLabel =
        `Segment ${index + 1}, ${verdict}, ${percent(total > 0 ? strength[index] / total : 0)} of the strength, ` +
        (directed ? `consistency ${consistency[index].toFixed(2)}, ` : "") +
        `${segments[index].num_tokens} tokens`;
    }
  });
  const parts = (value, whole) => [`${integer(value)} `, make("small", { textContent: `of ${integer(whole)}` })];
  byId("kept-segments").replaceChildren(...parts(keptSegments, segments.length));
  const share = numTokens ? percent(keptTokens / numTokens) : "–";
  byId("kept-tokens").replaceChildren(`${share} `, make("small", { textContent: `of ${integer(numTokens)}` }));
  byId("status").textContent = `${keptSegments} of ${segments.length} segments trained, ${share} of the tokens`;
  const all = keptSegments === segments.length ? "every one" : integer(keptSegments);
  const chosen = data.drawn ? ", drawn at random" : "";
  byId("verdict").textContent =
    `Trains ${all} of ${integer(segments.length)} segments${chosen}, ${share} of the reasoning tokens${data.reliability}.`;
  const strong = strongSegments(segments, state);
  const weakest = Math.min(strongest, ...strength.filter((_, index) => strong[index]));
  const cut = level === "tau" ? weakest : Math.min(state.min_strength, 1.1 * strongest);
  const [x, y] = [planeX(state.beta), planeY(cut)];
  for (const [element, attributes] of [
    [lines.region, { x: PLANE.left, y: PLANE.top, width: x - PLANE.left, height: Math.max(0, y - PLANE.top) }],
    [lines.beta, { x1: x, x2: x }],
    [lines.tau, { y1: y, y2: y }],
  ]) {
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  }
  for (const [id, name] of [["tau", level], ["beta", "beta"]]) {
    byId(id).value = state[name];
    byId(id).ariaValueText = String(state[name]);
    if (document.activeElement !== byId(`${id}-value`)) byId(`${id}-value`).value = state[name];
  }
  if (document.activeElement !== byId("min-direction")) byId("min-direction").value = state.min_direction;
  for (const name of ["first", "last"]) {
    if (document.activeElement !== byId(`keep-${name}`)) byId(`keep-${name}`).value = state[`keep_${name}`];
  }
  byId("command").textContent =
    (state.selection === "attribution" ? "" : `--selection ${state.selection} `) +
    (data.drawn ? `--seed ${state.seed} ` : "") +
    `--${level} ${state[level]} --beta ${state.beta} --keep_first ${state.keep_first} --keep_last ${state.keep_last}` +
    (state.consistency_scale === "rank" ? "" : ` --consistency_scale ${state.consistency_scale}`) +
    (state.min_direction > -1 ? ` --min_direction ${state.min_direction}` : "") +
    (state.min_tokens_to_mask ? ` --min_tokens_to_mask ${state.min_tokens_to_mask}` : "") +
    (state.min_gain === null ? "" : ` --min_gain ${state.min_gain}`);
  if (state.sort === "verdict") sortRows();
}

function activate(index, goTo) {
  // A row can only be shown where the table is
  if (goTo === "row") byId("controls").open = true;
  views[state.active]?.section.classList.remove("active");
  for (const part of ["cell", "row", "dot"]) views[state.active]?.[part]?.classList.remove("active");
  state.active = index;
  const view = views[index];
  for (const part of ["section", "cell", "row", "dot"]) view[part]?.classList.add("active");
  view.row?.scrollIntoView({ block: "nearest" });
  if (goTo === "text") {
    view.section.scrollIntoView({ block: "start" });
    view.section.focus({ preventScroll: true });
  }
}

// Token elements are made the first time that they are asked for
function showTokens(shown) {
  if (shown && !tokensMade) {
    tokensMade = true;
    const sizes = segments.flatMap((segment) => segment.token_values.map(Math.abs)).sort((a, b) => a - b);
    const scale = sizes[Math.floor(0.995 * (sizes.length - 1))] || 1;
    segments.forEach((segment, index) => {
      const visible = visiblePart(segment.text);
      const pieces = [];
      let start = 0;
      segment.token_lengths.forEach((length, token) => {
        const value = segment.token_values[token];
        const piece = make("span", { className: value < 0 ? "token minus" : "token plus" });
        appendPart(piece, segment.text, start, start + length, visible);
        piece.style.setProperty("--w", Math.min(1, Math.sqrt(Math.abs(value) / scale)).toFixed(3));
        piece.dataset.value = value;
        pieces.push(piece);
        start += length;
      });
      views[index].body.replaceChildren(...pieces);
    });
  }
  document.body.classList.toggle("show-tokens", shown);
  byId("tokens").ariaPressed = String(shown);
  showLegend(shown);
}

function showLegend(tokens) {
  const item = (...children) => make("span", {}, ...children);
  byId("legend").replaceChildren(
    ...(tokens
      ? [item("lowers log p(answer)", make("i", { className: "signed" }), "raises it")]
      : [item("trained: weak", make("i", { className: "ramp" }), "strong")]),
  );
  byId("dropped-legend").hidden = tokens;
}

function connectControls() {
  if (level === "min_strength") {
    byId("tau-term").replaceChildren(
      define(make("dfn", { className: "term", tabIndex: 0, textContent: "strength" }), "min_strength"),
    );
    byId("tau-label").textContent = "lowest kept";
    for (const id of ["tau", "tau-value"]) Object.assign(byId(id), { min: 0, max: "" });
    Object.assign(byId("tau"), { max: Math.max(strongest, state.min_strength), step: "any" });
    byId("tau-value").ariaLabel = "lowest strength, exact value";
  }
  if (state.consistency_scale !== "absolute") {
    const meant = { chance: "highest kept, above chance", rank: "highest rank of consistency kept" };
    byId("beta-label").textContent = meant[state.consistency_scale];
  }
  if (!directed) {
    const title = "Scores of whole segments have no direction";
    for (const id of ["beta", "beta-value", "min-direction"]) Object.assign(byId(id), { disabled: true, title });
  }
  if (data.drawn) {
    // Other thresholds are another draw
    const title = "The page cannot draw again: make it with other thresholds";
    const controls = byId("side").querySelectorAll(".sliders input, .ends input, .ends button");
    for (const control of controls) Object.assign(control, { disabled: true, title });
  }
  const within = (input, text) => {
    const value = Number(text);
    return text !== "" && value >= Number(input.min) && (!input.max || value <= Number(input.max)) ? value : null;
  };
  for (const [id, name] of [
    ["tau", level],
    ["tau-value", level],
    ["beta", "beta"],
    ["beta-value", "beta"],
    ["keep-first", "keep_first"],
    ["keep-last", "keep_last"],
    ["min-direction", "min_direction"],
  ]) {
    byId(id).addEventListener("input", (event) => {
      const value = within(event.target, event.target.value);
      if (value === null || (name.startsWith("keep") && !Number.isInteger(value))) return;
      state[name] = value;
      showSelection();
    });
    byId(id).addEventListener("blur", showSelection); // a number that was no threshold gives way to the one in use
  }
  byId("reset").addEventListener("click", () => {
    Object.assign(state, data.thresholds);
    showSelection();
  });
  byId("tokens").disabled = !hasTokens;
  if (!hasTokens) byId("tokens").title = "Make the page with --model_name_or_path to have token attributions";
  byId("tokens").addEventListener("click", () => showTokens(byId("tokens").ariaPressed !== "true"));
  byId("segments").addEventListener("pointerover", (event) => {
    const token = event.target.closest(".token");
    const shown = token && document.body.classList.contains("show-tokens");
    const value = shown && short(Number(token.dataset.value));
    byId("reading").textContent = shown ? `${JSON.stringify(token.textContent)}  ${value} nats` : "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, summary")) return;
    const step = { j: 1, n: 1, k: -1, p: -1 }[event.key];
    if (event.key === "t" && hasTokens) showTokens(byId("tokens").ariaPressed !== "true");
    if (event.key === "f" && views[state.active]?.fold) views[state.active].fold.click();
    if (!step) return;
    let next = state.active < 0 ? (step > 0 ? 0 : segments.length - 1) : state.active + step;
    if ("np".includes(event.key)) while (views[next] && !views[next].section.classList.contains("kept")) next += step;
    if (views[next]) activate(next, "text");
  });
}

function connectNeighbors() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.target.closest("input, table")) return;
    byId({ ArrowLeft: "previous", ArrowRight: "next" }[event.key])?.click();
  });
}

// On a narrow screen the controls would stand between a reader and the trace
function connectControlsFold() {
  const narrow = matchMedia("(max-width: 66rem)");
  const set = () => (byId("controls").open = !narrow.matches);
  narrow.addEventListener("change", set);
  set();
}

connectTheme();
connectDefinitions();
connectNeighbors();
connectControlsFold();
byId("answer").append("answer ", appendTo("bdi", data.answer || "none"));
showText();
connectFolds();
if (scored) {
  showFacts();
  showStrip();
  showPlane();
  showTable();
  connectControls();
  showLegend(false);
  showSelection();
  sortRows();
} else {
  byId("verdict").hidden = true;
  document.body.classList.add("unscored");
  byId("problem").hidden = false;
  byId("problem").append("Trained in full: ", appendTo("bdi", data.problem));
}
const linked = /^#s(\d+)$/.exec(location.hash);
if (linked && views[linked[1] - 1]) activate(linked[1] - 1, "text");

function appendTo(name, text, className = "") {
  const element = make(name, { className });
  appendText(element, text);
  return element;
}
