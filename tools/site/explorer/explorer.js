// The explorer: histogram, pair of features and swap, drawn from captured vectors.  No library; see worker.js.
"use strict";

(() => {
const HERE = document.currentScript.src.replace(/[^/]*$/, "");
const SVG = "http://www.w3.org/2000/svg";
const BLOCKS = ["QQ", "KK", "VV", "QK", "QV", "KV"];
const DEFAULT = { word: "her", layer: 3, block: "QQ", n: 54, a: 0, shuffle: "none", seed: 1, pair: 0.95 };

const make = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) key in node && key !== "list" ? (node[key] = value) : node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const draw = (name, attributes = {}, ...children) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

function explorer(root, data) {
  const language = document.documentElement.lang.startsWith("vi") ? "vi" : "en";
  const words = data.words, text = data.text[language];
  const say = (key, values = {}) => text[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const number = (value, digits) => {
    if (!Number.isFinite(value)) return "–";
    const written = new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
    return written.replace("-", "−");
  };
  const percent = (value) => (Number.isFinite(value) ? `${number(100 * value, 0)}%` : "–");

  // ---- the state, and the link that carries it ---------------------------------------------------
  const state = { ...DEFAULT };
  const allowed = {
    word: (v) => words.some((w) => w.name === v) && v,
    layer: (v) => whole(v, 0, data.layers - 1),
    block: (v) => BLOCKS.includes(v) && v,
    n: (v) => whole(v, 4, data.n),
    a: (v) => Number.isFinite(+v) && +v >= 0 && +v <= 1 && +v,
    shuffle: (v) => data.shuffles.includes(v) && v,
    seed: (v) => whole(v, 1, 9999),
    pair: (v) => Number.isFinite(+v) && Math.abs(+v) <= 1 && +v,
  };
  function whole(value, least, most) {
    return /^\d+$/.test(value) && +value >= least && +value <= most && +value;
  }
  function readLink() {
    Object.assign(state, DEFAULT);
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      const good = allowed[key]?.(value);
      if (good !== undefined && good !== false) state[key] = good;
    }
  }
  function writeLink() {
    const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULT[key]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  // ---- controls ----------------------------------------------------------------------------------
  const controls = make("form", { className: "ex-controls", onsubmit: (event) => event.preventDefault() });
  const refresh = []; // functions that bring a control to the state
  function slider(key, least, most, step, show) {
    const output = make("output");
    const input = make("input", { type: "range", min: least, max: most, step, name: key });
    input.addEventListener("input", () => change({ [key]: +input.value }));
    refresh.push(() => {
      input.value = state[key];
      output.value = show(state[key]);
      input.setAttribute("aria-valuetext", output.value);
    });
    controls.append(make("label", { className: `ex-slider ex-${key}` }, make("span", {}, say(key), " ", output), input));
    return input;
  }
  function choice(key, options, names) {
    const group = make("fieldset", { className: `ex-choice ex-${key}` }, make("legend", {}, say(key)));
    for (const [i, option] of options.entries()) {
      const input = make("input", { type: "radio", name: key, value: option });
      input.addEventListener("change", () => change({ [key]: option }));
      refresh.push(() => (input.checked = state[key] === option));
      group.append(make("label", {}, input, make("span", {}, names[i])));
    }
    controls.append(group);
  }
  slider("a", 0, 1, 0.01, (v) => percent(v));
  slider("layer", 0, data.layers - 1, 1, (v) => `${v}`);
  choice("block", BLOCKS, BLOCKS.map((block) => `${block[0]}–${block[1]}`));
  choice("word", words.map((word) => word.name), words.map((word) => word.label[language]));
  slider("n", 4, data.n, 1, (v) => `${v}`);
  choice("shuffle", data.shuffles, data.shuffles.map((name) => say(`shuffle_${name}`)));
  const again = make("button", { type: "button", onclick: () => change({ seed: (state.seed % 9999) + 1 }) }, say("again"));
  refresh.push(() => (again.disabled = state.shuffle === "none"));
  const reset = make("button", { type: "button", onclick: () => change(DEFAULT) }, say("reset"));
  const copy = make("button", { type: "button", onclick: copyLink }, say("copy"));
  controls.append(make("div", { className: "ex-buttons" }, again, reset, copy));
  async function copyLink() {
    writeLink();
    try { await navigator.clipboard.writeText(location.href); copy.textContent = say("copied"); }
    catch { prompt(say("copy"), location.href); }
    setTimeout(() => (copy.textContent = say("copy")), 2000);
  }

  // ---- the histogram -----------------------------------------------------------------------------
  const WIDTH = root.clientWidth < 500 ? 360 : 560, HEIGHT = 300, LEFT = 44, BOTTOM = 40, TOP = 10, RIGHT = 10;
  const toX = (s) => LEFT + ((s + 1) / 2) * (WIDTH - LEFT - RIGHT);
  const bars = draw("path", { class: "ex-bars" });
  const expected = draw("path", { class: "ex-null" });
  const marker = draw("path", { class: "ex-marker" });
  const grid = draw("g", { class: "ex-grid" });
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "ex-histogram", role: "img" }, grid, bars, expected, marker);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const s = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * 2 - 1;
    if (Math.abs(s) <= 1) change({ pair: Math.round(100 * s) / 100 });
  });
  for (const s of [-1, -0.5, 0, 0.5, 1]) {
    grid.append(draw("path", { d: `M${toX(s)} ${HEIGHT - BOTTOM}v5` }));
    grid.append(draw("text", { x: toX(s), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, number(s, s % 1 ? 1 : 0)));
  }
  const axisTitle = draw("text", { x: toX(0), y: HEIGHT - 4, "text-anchor": "middle" });
  const scale = draw("g");
  grid.append(draw("path", { d: `M${LEFT} ${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }), axisTitle, scale);
  const legend = make("p", { className: "ex-legend" },
    make("span", { className: "ex-key ex-key-bars" }), say("legend_bars"), " ",
    make("span", { className: "ex-key ex-key-null" }), say("legend_null"));

  function nullShares(n, whole) { // of the exact null in each bin: its density is (1 - s^2)^(freedom / 2 - 1)
    const power = (whole ? n - 2 : n - 1) / 2 - 1, bins = 100, inside = 20, shares = new Array(bins).fill(0);
    for (let b = 0; b < bins; b++)
      for (let k = 0; k < inside; k++) shares[b] += (1 - (-1 + (2 * (b + (k + 0.5) / inside)) / bins) ** 2) ** power;
    const sum = shares.reduce((a, b) => a + b);
    return shares.map((share) => share / sum);
  }
  function showHistogram(result) {
    const shares = Array.from(result.counts, (count) => count / result.defined);
    const law = nullShares(state.n, state.a === 1);
    const most = Math.max(result.tallest, ...law) * 50; // density: share / width of a bin
    const step = [0.5, 1, 2, 5, 10, 20].find((size) => most / size <= 5) ?? 50;
    const top = Math.ceil(most / step) * step;
    const toY = (density) => HEIGHT - BOTTOM - (density / top) * (HEIGHT - BOTTOM - TOP);
    const line = (values) => values.map((share, b) => `${toX(-1 + b / 50).toFixed(1)} ${toY(50 * share).toFixed(1)}H${toX(-1 + (b + 1) / 50).toFixed(1)}`).join("L");
    bars.setAttribute("d", `M${toX(-1)} ${toY(0)}L${line(shares)}V${toY(0)}Z`);
    expected.setAttribute("d", `M${law.map((share, b) => `${toX(-1 + (b + 0.5) / 50).toFixed(1)} ${toY(50 * share).toFixed(1)}`).join("L")}`);
    marker.setAttribute("d", `M${toX(state.pair)} ${HEIGHT - BOTTOM + 1}l-5 8h10Z`);
    scale.replaceChildren(...Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step).map((value) =>
      draw("g", {}, draw("path", { d: `M${LEFT} ${toY(value)}h-4` }),
        draw("text", { x: LEFT - 7, y: toY(value) + 4, "text-anchor": "end" }, number(value, step < 1 ? 1 : 0)))));
    axisTitle.textContent = say(state.a === 1 ? "correlation" : state.a === 0 ? "cosine" : "between");
  }

  // ---- the numbers -------------------------------------------------------------------------------
  const readings = {};
  const table = make("dl", { className: "ex-numbers" });
  for (const key of ["smile", "effective", "offset"]) {
    readings[key] = make("dd");
    table.append(make("div", { title: say(`${key}_help`) }, make("dt", {}, say(key)), readings[key]));
  }
  const verdict = make("p", { className: "ex-verdict" });
  const spoken = make("p", { className: "ex-spoken", role: "status" });
  function showNumbers(result) {
    const parts = [...new Set(state.block)];
    readings.smile.textContent = number(result.smile, 3);
    readings.effective.textContent = number(result.effective, 2);
    readings.offset.textContent = parts.map((part) => `${part} ${percent(result.shares["QKV".indexOf(part)])}`).join(" · ");
    verdict.textContent = say(result.smile > 0 ? "smiles" : "no_smile");
    const about = say("spoken", { block: state.block, layer: state.layer, smile: readings.smile.textContent,
      effective: readings.effective.textContent, offset: readings.offset.textContent, verdict: verdict.textContent });
    picture.setAttribute("aria-label", about);
    clearTimeout(showNumbers.timer);
    showNumbers.timer = setTimeout(() => (spoken.textContent = about), 700);
  }

  // ---- two features as a cloud -------------------------------------------------------------------
  const nameOf = (feature) => { // "K 15" of a feature counted through Q, K and V
    let part = 0;
    for (; feature >= data.sizes[part]; part++) feature -= data.sizes[part];
    return `${"QKV"[part]} ${feature}`;
  };
  const cloud = pairOfFeatures({ say, number, change, state, nameOf });
  // ---- the worker --------------------------------------------------------------------------------
  const worker = new Worker(`${HERE}worker.js`);
  let latest = 0, busy = false, waiting = false;
  const notice = make("p", { className: "ex-notice", role: "alert" });
  function ask() {
    if (busy) { waiting = true; return; }
    busy = true;
    root.setAttribute("aria-busy", "true");
    const word = words.find((w) => w.name === state.word);
    const url = new URL(`vectors/${word.name}-${String(state.layer).padStart(2, "0")}.bin`, HERE).href;
    worker.postMessage({ ...state, id: ++latest, url, sizes: data.sizes, matrix: root.dataset.matrix !== undefined });
  }
  worker.onmessage = ({ data: result }) => {
    busy = false;
    if (waiting) { waiting = false; ask(); }
    else root.removeAttribute("aria-busy");
    if (result.error) { notice.textContent = say("failed", { reason: result.error }); return; }
    notice.textContent = "";
    const started = performance.now();
    showHistogram(result);
    showNumbers(result);
    cloud.show(result.pair);
    root.explorer = { state: { ...state }, result, took: result.took + performance.now() - started };
    root.dispatchEvent(new Event("drawn"));
  };
  function change(values) {
    Object.assign(state, values);
    refresh.forEach((bring) => bring());
    clearTimeout(change.timer);
    change.timer = setTimeout(writeLink, 300);
    ask();
  }
  addEventListener("hashchange", () => { readLink(); change({}); });

  root.replaceChildren(
    make("div", { className: "ex-stage" },
      make("div", { className: "ex-left" }, picture, legend, controls.querySelector(".ex-a"), table, verdict),
      make("div", { className: "ex-right" }, controls)),
    notice, spoken);
  if (root.dataset.only !== "histogram") root.append(cloud.node, swapView({ say, number, data }));
  readLink();
  change({});
}

// Two features, a point for each sentence; the mean and every point can be moved.
function pairOfFeatures({ say, number, change, state, nameOf }) {
  const SIZE = 320, HALF = SIZE / 2;
  const points = draw("g", { class: "ex-points" });
  const arrow = draw("path", { class: "ex-arrow" });
  const handle = draw("circle", { class: "ex-handle", r: 9, tabindex: 0, role: "slider", "aria-label": say("mean_handle"), "aria-valuemin": -100, "aria-valuemax": 100, "aria-valuenow": 0 });
  const axes = draw("path", { class: "ex-axes", d: `M8 ${HALF}H${SIZE - 8}M${HALF} 8V${SIZE - 8}` });
  const names = [draw("text", { x: SIZE - 8, y: HALF - 6, "text-anchor": "end" }), draw("text", { x: HALF + 6, y: 16 })];
  const picture = draw("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "ex-cloud", role: "group", "aria-label": say("cloud") }, axes, ...names, points, arrow, handle);
  const wedge = draw("path", { class: "ex-wedge" }), rays = draw("path", { class: "ex-rays" });
  const angle = draw("svg", { viewBox: "0 0 160 96", class: "ex-angle", role: "img" }, wedge, rays);
  const readings = make("dl", { className: "ex-numbers" }), cells = {};
  for (const key of ["pair_cosine", "pair_correlation", "angle"])
    readings.append(make("div", {}, make("dt", {}, say(key)), (cells[key] = make("dd"))));
  const choose = make("input", { type: "range", min: -1, max: 1, step: 0.01 });
  const chosen = make("output");
  choose.addEventListener("input", () => change({ pair: +choose.value }));
  const back = make("button", { type: "button", onclick: () => take(original) }, say("undo"));
  const centre = make("button", { type: "button", onclick: () => shift(-mean(x), -mean(y)) }, say("to_origin"));
  const node = make("section", { className: "ex-pair" }, make("h3", {}, say("pair_title")), make("p", {}, say("pair_text")),
    make("div", { className: "ex-pair-body" }, picture, make("div", {}, angle, readings,
      make("label", { className: "ex-slider" }, make("span", {}, say("pair"), " ", chosen), choose),
      make("div", { className: "ex-buttons" }, centre, back))));

  let x = [], y = [], unit = 1, original = null, key = "";
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const dot = (a, b) => a.reduce((sum, value, t) => sum + value * b[t], 0);
  const place = (u, v) => [HALF + u * unit, HALF - v * unit];

  function show(pair) {
    const now = JSON.stringify([pair.i, pair.j, pair.x[0], pair.y[0], pair.x.length]);
    choose.value = state.pair;
    chosen.value = number(state.pair, 2);
    if (now === key) return;
    key = now;
    original = pair;
    take(pair);
  }
  function take(pair) {
    [x, y] = [[...pair.x], [...pair.y]];
    const far = Math.max(...x.map(Math.abs), ...y.map(Math.abs));
    unit = (HALF - 14) / (1.25 * far || 1);
    points.replaceChildren(...x.map((_, t) => {
      const point = draw("circle", { r: 4.5, tabindex: t ? -1 : 0, role: "img", "aria-label": say("point", { number: t + 1 }) });
      const move = (u, v) => { [x[t], y[t]] = [u, v]; redraw(); };
      drag(point, move);
      point.addEventListener("keydown", (event) => {
        const by = arrowKeys(event), other = points.children[t + ({ PageDown: 1, PageUp: -1 }[event.key] ?? NaN)];
        if (by) move(x[t] + by[0], y[t] + by[1]);
        if (other) { event.preventDefault(); point.tabIndex = -1; other.tabIndex = 0; other.focus(); }
      });
      return point;
    }));
    names[0].textContent = `${say("feature")} ${nameOf(pair.i)}`;
    names[1].textContent = `${say("feature")} ${nameOf(pair.j)}`;
    redraw();
  }
  function shift(u, v) {
    x = x.map((value) => value + u);
    y = y.map((value) => value + v);
    redraw();
  }
  function redraw() {
    const [mx, my] = [mean(x), mean(y)];
    [...points.children].forEach((point, t) => {
      const [u, v] = place(x[t], y[t]);
      point.setAttribute("cx", u.toFixed(1));
      point.setAttribute("cy", v.toFixed(1));
    });
    const [u, v] = place(mx, my);
    arrow.setAttribute("d", `M${HALF} ${HALF}L${u.toFixed(1)} ${v.toFixed(1)}`);
    handle.setAttribute("cx", u.toFixed(1));
    handle.setAttribute("cy", v.toFixed(1));
    const [cx, cy] = [x.map((value) => value - mx), y.map((value) => value - my)];
    const cosine = dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y)), r = dot(cx, cy) / Math.sqrt(dot(cx, cx) * dot(cy, cy));
    const turned = Math.acos(Math.min(1, Math.max(-1, cosine)));
    cells.pair_cosine.textContent = number(cosine, 3);
    cells.pair_correlation.textContent = number(r, 3);
    cells.angle.textContent = `${number((turned * 180) / Math.PI, 0)}°`;
    handle.setAttribute("aria-valuenow", Math.round(100 * cosine));
    handle.setAttribute("aria-valuetext", `${say("pair_cosine")} ${number(cosine, 2)}, ${say("pair_correlation")} ${number(r, 2)}`);
    angle.setAttribute("aria-label", `${say("angle")} ${cells.angle.textContent}`);
    const end = (length, by) => `${(80 + length * Math.cos(by)).toFixed(1)} ${(88 - length * Math.sin(by)).toFixed(1)}`;
    rays.setAttribute("d", `M${end(72, 0)}L80 88L${end(72, turned)}`);
    wedge.setAttribute("d", `M80 88L${end(30, 0)}A30 30 0 0 0 ${end(30, turned)}Z`);
    node.pair = { x, y, cosine, r };
  }
  function drag(target, move) {
    target.addEventListener("pointerdown", (event) => { target.setPointerCapture(event.pointerId); event.preventDefault(); });
    target.addEventListener("pointermove", (event) => {
      if (!target.hasPointerCapture(event.pointerId)) return;
      const box = picture.getBoundingClientRect(), inside = (value) => Math.min(SIZE - 6, Math.max(6, value));
      const u = inside(((event.clientX - box.left) / box.width) * SIZE), v = inside(((event.clientY - box.top) / box.height) * SIZE);
      move((u - HALF) / unit, (HALF - v) / unit);
    });
  }
  drag(handle, (u, v) => shift(u - mean(x), v - mean(y)));
  function arrowKeys(event) { // by how much an arrow key moves something, if it is one
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way) return null;
    event.preventDefault();
    return way.map((value) => (5 * value) / unit);
  }
  handle.addEventListener("keydown", (event) => {
    const by = arrowKeys(event);
    if (by) shift(...by);
  });
  return { node, show };
}

// From notebook 09: which later words change when one word's offset is put in the place of another's.
function swapView({ say, number, data }) {
  const node = make("section", { className: "ex-swap" }, make("h3", {}, say("swap_title")), make("p", {}, say("swap_text")));
  const load = async () => {
    const swaps = await (await fetch(`${HERE}swap.json`)).json();
    const which = make("select"), into = make("select");
    const line = make("p", { className: "ex-sentence", lang: "en" }), list = make("div", { className: "ex-predictions", role: "status" });
    swaps.sentences.forEach((sentence, i) => which.append(make("option", { value: i }, sentence.text)));
    swaps.words.forEach((word) => into.append(make("option", { value: word }, word.trim())));
    let at = 0;
    const show = () => {
      const sentence = swaps.sentences[which.value], change = sentence.swaps[into.value];
      at = Math.min(at, change.length - 1);
      line.replaceChildren(sentence.before, make("b", {}, ` ${swaps.target.trim()} → ${into.value.trim()}`), ...sentence.after.map((token, i) => {
        const moved = change[i] ? change[i].kl : null;
        const button = make("button", { type: "button", className: "ex-token", disabled: moved === null, onclick: () => { at = i; show(); } }, token);
        if (moved !== null) {
          button.style.setProperty("--moved", Math.min(1, moved / swaps.most).toFixed(3));
          button.setAttribute("aria-pressed", i === at);
          button.setAttribute("aria-label", `${token}: KL ${number(moved, 2)}`);
        }
        return button;
      }));
      const here = change[at];
      list.replaceChildren(...["unedited", "swapped", "goal"].map((run) => make("div", {}, make("h4", {}, say(`run_${run}`)),
        make("ol", {}, ...here[run].map(([token, p]) => make("li", {}, make("span", { lang: "en" }, token.trim() || "␣"), ` ${number(100 * p, 0)}%`))))));
    };
    which.onchange = into.onchange = show;
    node.append(make("div", { className: "ex-buttons" }, make("label", {}, say("sentence"), " ", which), make("label", {}, say("instead"), " ", into)), line, list,
      make("p", { className: "ex-small" }, say("swap_legend", { model: data.model.replace(data.text.en.dequantised, say("dequantised")) })));
    show();
  };
  new IntersectionObserver((seen, observer) => {
    if (seen.some((entry) => entry.isIntersecting)) { observer.disconnect(); load(); }
  }, { rootMargin: "200px" }).observe(node);
  return node;
}

const start = async () => {
  const roots = document.querySelectorAll(".explorer");
  if (!roots.length) return;
  const data = await (await fetch(`${HERE}data.json`)).json();
  roots.forEach((root) => explorer(root, data));
};
document.readyState === "loading" ? addEventListener("DOMContentLoaded", start) : start();
})();
