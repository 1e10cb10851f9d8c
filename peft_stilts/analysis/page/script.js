"use strict";
// Draws the pictures of the report from the JSON in #data. Text from data only ever becomes a text node.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const unit = data.response === "gain" ? "points" : "";
const what = data.response === "gain" ? "gain" : "score";
const [METHOD, INTERMEDIATE, TASK, CODES, VALUES, SPREADS, SEEDS] = [0, 1, 2, 3, 4, 5, 6];
const [CELL, MEASURE, COEFFICIENT, ESTIMATE, LOW, HIGH, P, Q, N, FAMILIES, SURE, LEAST, MOST] = [...Array(13).keys()];
const state = {
  method: 0, intermediate: 0, target: 0, measure: Math.max(0, data.measures.indexOf(data.headline)),
  coefficient: data.first,
};

// ---- numbers and words
const number = (value, digits = 2, sign = false) => {
  if (value === null) return "–";
  const text = value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1");
  return sign && !text.startsWith("-") ? "+" + text : text;
};
const pValue = (value) => value === null ? "–" : value < 0.001 ? "<0.001" : value.toFixed(3);
const setting = (name) => name === "" ? "" : name === "none" ? "no intermediate task" : "after " + name;
const joined = (...parts) => parts.filter((part) => part !== "").join(", ");
const axisOf = (measure) => data.sizes.includes(data.measures[measure]) ? data.measures[measure]
  : data.measures[measure] + " · similarity to " + data.source;
const passes = (test) => test[SURE] === 1 && test[Q] !== null && test[Q] < 0.05;

// ---- elements
const element = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- what is chosen
const cellAt = (method, intermediate, task) => data.cells.findIndex(
  (cell) => cell[METHOD] === method && cell[INTERMEDIATE] === intermediate && cell[TASK] === task);
const places = new Map(data.tests.map((test) => [test.slice(0, 3).join(), test]));
const testOf = (cell, measure = state.measure) => places.get([cell, measure, state.coefficient].join());
const distinct = (values) => [...new Set(values)].sort((a, b) => a - b);

function choose(id, names, allowed) {
  const select = byId(id);
  if (!allowed.includes(state[id])) state[id] = allowed[0];
  select.replaceChildren(...allowed.map((place) => element("option", { value: place }, names[place] || "(not named)")));
  select.value = String(state[id]);
}

function choices() {
  const all = (names) => names.map((_, place) => place);
  const ofMethod = data.cells.filter((cell) => cell[METHOD] === state.method);
  choose("method", data.methods, all(data.methods));
  choose("intermediate", data.intermediates, distinct(ofMethod.map((cell) => cell[INTERMEDIATE])));
  choose("target", data.tasks, distinct(ofMethod.filter((cell) => cell[INTERMEDIATE] === state.intermediate)
    .map((cell) => cell[TASK])));
  choose("measure", data.measures, all(data.measures));
  choose("coefficient", data.coefficients, all(data.coefficients));
}

// ---- the tip beside a mark
const tip = byId("tip");
function show(mark, lines) {
  tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = Math.min(box.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = Math.max(4, left) + window.scrollX + "px";
  tip.style.top = (above > 0 ? above : box.bottom + 6) + window.scrollY + "px";
}
const hide = () => { tip.hidden = true; };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

// Marks can be pointed at, and moved among with arrow keys: one of them is reached by Tab.
function live(marks) {
  marks.forEach(({ mark, lines }, place) => {
    mark.setAttribute("tabindex", place === 0 ? "0" : "-1");
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", lines.join(", "));
    mark.addEventListener("pointerenter", () => { mark.classList.add("over"); show(mark, lines); });
    mark.addEventListener("pointerleave", () => { mark.classList.remove("over"); hide(); });
    mark.addEventListener("focus", () => show(mark, lines));
    mark.addEventListener("blur", hide);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = step && marks[(place + step + marks.length) % marks.length].mark;
      if (!next) return;
      event.preventDefault();
      marks.forEach((other) => other.mark.setAttribute("tabindex", "-1"));
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

// ---- shapes of marks: a colour and a form for every group
const FORMS = [
  (r) => shape("circle", { r }),
  (r) => shape("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8 }),
  (r) => shape("path", { d: `M0,${-r * 1.2}L${r * 1.1},${r * 0.8}H${-r * 1.1}Z` }),
  (r) => shape("path", { d: `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0Z` }),
  (r) => shape("path", { d: `M0,${r * 1.2}L${r * 1.1},${-r * 0.8}H${-r * 1.1}Z` }),
  (r) => shape("path", { d: `M${-r * 0.45},${-r * 1.2}h${r * 0.9}v${r * 0.75}h${r * 0.75}v${r * 0.9}h${-r * 0.75}` +
    `v${r * 0.75}h${-r * 0.9}v${-r * 0.75}h${-r * 0.75}v${-r * 0.9}h${r * 0.75}Z` }),
];
function markOf(group, radius, kind = "") {
  const made = group < 0 ? FORMS[0](radius * 0.8) : FORMS[(group + Math.floor(group / 6)) % 6](radius);
  made.setAttribute("class", `shape ${group < 0 ? "none" : "c" + group % 6} ${kind}`);
  return made;
}
function legend(id, names) {
  byId(id).replaceChildren(...names.map(([group, name]) => element("span", {},
    shape("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, markOf(group, 4.5)), name)));
}

// ---- axes
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(at * step);
  return found.map((value) => ({ value, text: value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) }));
}
function range(values, room) {
  const low = Math.min(...values), high = Math.max(...values);
  const more = room * (high - low) || 0.5;
  return [low - more, high + more];
}
function frame(box, height, xs, ys, xLabel, yLabel) {
  const width = Math.max(260, box.clientWidth), left = 48, bottom = 42, top = 8, right = 10;
  const x = (value) => left + (value - xs[0]) / (xs[1] - xs[0]) * (width - left - right);
  const y = (value) => height - bottom - (value - ys[0]) / (ys[1] - ys[0]) * (height - bottom - top);
  const drawing = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  for (const { value, text } of ticks(...ys, 6)) {
    drawing.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      shape("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const { value, text } of ticks(...xs, width < 500 ? 4 : 8)) {
    drawing.append(shape("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      shape("text", { class: "tick", x: x(value), y: height - bottom + 15, "text-anchor": "middle" }, text));
  }
  drawing.append(
    shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    shape("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${(height - bottom) / 2}) rotate(-90)` },
      yLabel));
  return { drawing, x, y, width };
}

// A text beside every point, where it lies on as little as can be.
function label(drawing, points, width, height) {
  const taken = points.map(({ x, y }) => [x - 4, y - 4, x + 4, y + 4]);
  const shared = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) *
    Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  for (const { x, y, text } of points) {
    const wide = text.length * 6.4 + 2, tall = 12;
    let best = null;
    for (const gap of [6, 13]) {
      for (const [across, up] of [[1, 0], [-1, 0], [0, -1], [0, 1], [0.7, -0.7], [-0.7, -0.7], [0.7, 0.7], [-0.7, 0.7]]) {
        const cx = x + across * (gap + wide / 2), cy = y + up * (gap + tall / 2);
        const box = [cx - wide / 2, cy - tall / 2, cx + wide / 2, cy + tall / 2];
        const outside = (box[0] < 48 || box[2] > width || box[1] < 0 || box[3] > height - 42) * 200;
        const cost = outside + gap * 0.2 + taken.reduce((sum, other) => sum + shared(box, other), 0);
        if (best === null || cost < best.cost) best = { cost, cx, cy, box };
      }
    }
    taken.push(best.box);
    drawing.append(shape("text", { class: "small", x: best.cx, y: best.cy + 4, "text-anchor": "middle",
      "aria-hidden": "true" }, text.length > 10 ? text.slice(0, 9) + "…" : text));
  }
}

function plot(box, height, points, xs, ys, xLabel, yLabel, under, named) {
  const { drawing, x, y, width } = frame(box, height, xs, ys, xLabel, yLabel);
  drawing.append(...under(x, y));
  const sorted = [...points].sort((a, b) => a.x - b.x);
  const shown = named(points).map((point) => ({ x: x(point.x), y: y(point.y), text: point.text }));
  label(drawing, shown, width, height);
  live(sorted.map((point) => {
    const mark = shape("g", { class: "mark", transform: `translate(${x(point.x)} ${y(point.y)})` },
      markOf(point.group, points.length > 120 ? 3.4 : 4.6), shape("circle", { class: "halo", r: 8 }));
    drawing.append(mark);
    return { mark, lines: point.lines };
  }));
  box.replaceChildren(drawing);
}

// ---- the scatter
function about(test) {
  const name = data.coefficients[state.coefficient];
  if (!test || test[ESTIMATE] === null) {
    return `${name} is not defined here: there are fewer than 4 languages, or one of both is constant.`;
  }
  const parts = [`${name} ${number(test[ESTIMATE], 2, true)}`];
  if (test[LOW] !== null) parts.push(`95 % interval ${number(test[LOW], 2, true)} to ${number(test[HIGH], 2, true)}`);
  parts.push(`p ${pValue(test[P])}`, `q ${pValue(test[Q])}`, `${test[N]} languages of ${test[FAMILIES]} families`);
  if (test[LEAST] !== null) {
    parts.push(`without any one family ${number(test[LEAST], 2, true)} to ${number(test[MOST], 2, true)}`);
  }
  const verdict = !test[SURE] ? "Too few families for a verdict."
    : passes(test) ? "Passes at a false discovery rate of 5 %."
      : "Does not pass at a false discovery rate of 5 %, which does not show that there is no relation.";
  return parts.join(", ") + ". " + verdict;
}
function leastSquares(points) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const mx = mean(points.map((p) => p.x)), my = mean(points.map((p) => p.y));
  const slope = mean(points.map((p) => (p.x - mx) * (p.y - my))) / mean(points.map((p) => (p.x - mx) ** 2));
  return (at) => my + slope * (at - mx);
}
function scatter() {
  const at = cellAt(state.method, state.intermediate, state.target), cell = data.cells[at], test = testOf(at);
  const similarity = data.similarity[state.measure];
  byId("scatter-title").textContent = joined(data.tasks[state.target] || "", setting(data.intermediates[state.intermediate]),
    data.methods[state.method] || "") + ": " + axisOf(state.measure);
  byId("line").textContent = about(test);
  const points = cell[CODES].map((code, k) => ({
    x: similarity[code], y: cell[VALUES][k], group: data.colours[code], text: data.codes[code],
    lines: [`${data.names[code]} (${data.codes[code]})`, data.families[code],
      `${what} ${number(cell[VALUES][k], 2, data.response === "gain")} ${unit}`.trim() +
        (cell[SPREADS][k] === null ? "" : ` ± ${number(cell[SPREADS][k])}`),
      `${data.measures[state.measure]} ${number(similarity[code], 3)}`,
      cell[SEEDS][k] === 1 ? "1 seed" : `mean and spread of ${cell[SEEDS][k]} seeds`],
  })).filter((point) => point.x !== null && point.y !== null);
  if (!points.length) {
    byId("scatter").replaceChildren(element("p", {}, "No language has both numbers."));
    return legend("scatter-legend", []);
  }
  const [low, high] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  plot(byId("scatter"), 400, points, range(points.map((p) => p.x), 0.05), range(points.map((p) => p.y), 0.08),
    axisOf(state.measure), `${what} ${unit && "(" + unit + ")"}`.trim(), (x, y) => {
      const drawn = [];
      if (data.response === "gain" && points.some((p) => p.y > 0) && points.some((p) => p.y < 0)) {
        drawn.push(shape("line", { class: "zero", x1: x(low), x2: x(high), y1: y(0), y2: y(0) }));
      }
      if (points.length > 3 && high > low) {
        const fit = leastSquares(points);
        drawn.push(shape("line", { class: "fit", x1: x(low), x2: x(high), y1: y(fit(low)), y2: y(fit(high)),
          "stroke-dasharray": test && test[SURE] ? "none" : "5 4" }));
      }
      return drawn;
    }, (all) => all);
  const there = distinct(points.map((point) => point.group));
  legend("scatter-legend", there.filter((group) => group >= 0).map((group) => [group, data.groups[group]])
    .concat(there.includes(-1) && there.length > 1 ? [[-1, "one language each"]] : []));
}

// ---- the heat map
function heat() {
  byId("heat-title").textContent = joined(`${data.coefficients[state.coefficient]}: ${axisOf(state.measure)}`,
    data.methods[state.method] || "");
  const own = data.cells.filter((cell) => cell[METHOD] === state.method);
  const tasks = distinct(own.map((cell) => cell[TASK])), rows = distinct(own.map((cell) => cell[INTERMEDIATE]));
  const head = element("tr", {}, element("th", { scope: "col" }, "intermediate task"),
    ...tasks.map((task) => element("th", { scope: "col" }, data.tasks[task])));
  const body = rows.map((intermediate) => element("tr", {},
    element("th", { scope: "row" }, data.intermediates[intermediate] || "(not named)"),
    ...tasks.map((task) => {
      const at = cellAt(state.method, intermediate, task), test = testOf(at);
      const cell = element("td", {});
      if (at < 0) return cell;
      const now = intermediate === state.intermediate && task === state.target;
      const button = element("button", { type: "button", "aria-pressed": now },
        test ? number(test[ESTIMATE], 2, true) + (passes(test) ? "*" : "") : "–");
      button.addEventListener("click", () => {
        Object.assign(state, { intermediate, target: task });
        draw();
        byId("heat").querySelector("td.now button").focus({ preventScroll: true });
      });
      cell.append(button);
      if (test && test[ESTIMATE] !== null && test[SURE]) {
        const colour = test[ESTIMATE] > 0 ? "--up" : "--down";
        cell.style.background = `rgba(var(${colour}), ${(Math.abs(test[ESTIMATE]) * 0.55).toFixed(2)})`;
      } else if (test && test[ESTIMATE] !== null) cell.classList.add("unsure");
      if (now) cell.classList.add("now");
      return cell;
    })));
  byId("heat").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

// ---- adapters against full fine-tuning
function diagonal() {
  const adapter = state.method !== data.reference ? state.method
    : data.methods.findIndex((_, place) => place !== data.reference);
  const points = [];
  if (data.reference >= 0 && adapter >= 0) {
    for (const cell of data.cells.filter((c) => c[METHOD] === adapter && c[INTERMEDIATE] === state.intermediate)) {
      const other = data.cells[cellAt(data.reference, state.intermediate, cell[TASK])];
      cell[CODES].forEach((code, k) => {
        const there = other ? other[CODES].indexOf(code) : -1;
        if (there < 0) return;
        const [x, y] = [other[VALUES][there], cell[VALUES][k]];
        if (x === null || y === null) return;
        points.push({ x, y, group: cell[TASK], text: data.codes[code], lines: [
          `${data.names[code]} (${data.codes[code]})`, data.tasks[cell[TASK]], `${data.methods[adapter]} ${number(y)}`,
          `${data.methods[data.reference]} ${number(x)}`, `difference ${number(y - x, 2, true)} points`] });
      });
    }
  }
  byId("diagonal-section").hidden = points.length === 0;
  if (!points.length) return;
  byId("diagonal-title").textContent = joined(`${data.methods[adapter]} against ${data.methods[data.reference]}`,
    setting(data.intermediates[state.intermediate])) + `; band: ±${data.margin} points`;
  const box = byId("diagonal"), m = data.margin;
  const ends = range(points.flatMap((point) => [point.x, point.y]), 0.06);
  plot(box, Math.min(520, Math.max(300, box.clientWidth)), points, ends, ends,
    `${data.methods[data.reference]}: ${what}`, `${data.methods[adapter]}: ${what}`, (x, y) => {
      const clip = (value) => Math.min(ends[1], Math.max(ends[0], value));
      const corners = [[ends[0], ends[0]], [ends[0], clip(ends[0] + m)], [clip(ends[1] - m), ends[1]], [ends[1], ends[1]],
        [ends[1], clip(ends[1] - m)], [clip(ends[0] + m), ends[0]]];
      return [shape("polygon", { class: "band", points: corners.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }),
        shape("line", { class: "fit", x1: x(ends[0]), y1: y(ends[0]), x2: x(ends[1]), y2: y(ends[1]) })];
    }, (all) => [...all].sort((a, b) => Math.abs(b.y - b.x) - Math.abs(a.y - a.x)).slice(0, all.length > 15 ? 8 : 15));
  legend("diagonal-legend", distinct(points.map((point) => point.group)).map((group) => [group, data.tasks[group]]));
}

// ---- the forest plot
function forest() {
  byId("forest-title").textContent = joined(`${data.coefficients[state.coefficient]} with 95 % intervals, by measure`,
    setting(data.intermediates[state.intermediate]), data.methods[state.method] || "");
  const box = byId("forest"), width = Math.max(260, box.clientWidth), left = Math.min(190, width * 0.4), right = 12;
  const x = (value) => left + (value + 1) / 2 * (width - left - right);
  const rows = [], longest = Math.floor((left - 18) / 6.6);
  const short = (text) => text.length > longest ? text.slice(0, longest - 1) + "…" : text;
  const own = data.cells.map((cell, at) => at).filter((at) => data.cells[at][METHOD] === state.method &&
    data.cells[at][INTERMEDIATE] === state.intermediate);
  data.measures.forEach((name, measure) => {
    const tests = own.map((at) => testOf(at, measure)).filter((test) => test && test[ESTIMATE] !== null);
    if (tests.length) rows.push({ name }, ...tests.map((test) => ({ test, measure })));
  });
  const height = rows.length * 18 + 34, drawing = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  for (const at of [-1, -0.5, 0, 0.5, 1]) {
    drawing.append(shape("line", { class: at === 0 ? "zero" : "grid", x1: x(at), x2: x(at), y1: 4, y2: height - 22 }),
      shape("text", { class: "tick", x: x(at), y: height - 6, "text-anchor": "middle" }, String(at)));
  }
  const marks = [];
  rows.forEach(({ name, test, measure }, place) => {
    const y = place * 18 + 14;
    if (!test) return drawing.append(shape("text", { class: "group", x: 0, y: y + 4 }, name));
    const cell = data.cells[test[CELL]], group = test[SURE] ? 0 : -1;
    if (measure === state.measure && cell[TASK] === state.target) {
      drawing.append(shape("rect", { class: "chosen", x: 0, y: y - 9, width, height: 18 }));
    }
    drawing.append(shape("text", { class: "small", x: 10, y: y + 4 }, short(data.tasks[cell[TASK]])));
    const mark = shape("g", { class: "mark" }, shape("rect", { class: "halo", x: left, y: y - 8, width: width - left, height: 16 }));
    if (test[LOW] !== null) {
      mark.append(shape("line", { class: group < 0 ? "none" : "c0", x1: x(test[LOW]), x2: x(test[HIGH]), y1: y, y2: y,
        "stroke-width": 1.6, "stroke-dasharray": group < 0 ? "2 3" : "none" }));
    }
    mark.append(shape("g", { transform: `translate(${x(test[ESTIMATE])} ${y})` },
      markOf(group, 4.4, passes(test) ? "" : "open")));
    drawing.append(mark);
    marks.push({ mark, lines: [data.measures[measure], joined(data.tasks[cell[TASK]]), about(test)] });
  });
  live(marks);
  box.replaceChildren(drawing);
}

function draw() {
  hide();
  choices();
  scatter();
  heat();
  diagonal();
  forest();
}
for (const id of Object.keys(state)) {
  byId(id).addEventListener("change", (event) => { state[id] = Number(event.target.value); draw(); });
}
let waiting = null, before = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === before) return;
  before = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(draw, 150);
});
if (data.tests.length) {
  byId("pictures").hidden = false;
  draw();
}
})();
