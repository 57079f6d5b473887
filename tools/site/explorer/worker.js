// Similarities between the features of one captured word, computed from its vectors.
//
// A file holds mean and step of each feature (float32) and its values (int16, in steps from the mean), feature by
// feature.  The products x_i . x_j are summed once for each choice of word, layer, block, sentences and shuffle; the
// share `a` of the mean that is taken out then costs no new sum, because
//     (x_i - a m_i) . (x_j - a m_j) = x_i . x_j - (2a - a^2) n m_i m_j.
"use strict";

const BINS = 100;
const PARTS = { Q: 0, K: 1, V: 2 };
const files = new Map(); // address -> promise of {count, values: Float32Array [feature][sample]}
let shown = null; // {key, pairs, ...} of the last request

async function load(url, nFeatures) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${url}`);
  const bytes = await answer.arrayBuffer();
  const scales = new Float32Array(bytes, 0, 2 * nFeatures);
  const steps = new Int16Array(bytes, 8 * nFeatures);
  const n = steps.length / nFeatures;
  const values = new Float32Array(steps.length);
  for (let f = 0; f < nFeatures; f++)
    for (let t = 0; t < n; t++) values[f * n + t] = scales[f] + scales[nFeatures + f] * steps[f * n + t];
  return { n, values };
}

// Marsaglia's xorshift, 32 bits: the same draw for the same seed on every machine.
function random(seed) {
  let state = (seed * 2654435761 + 88675123) >>> 0 || 1;
  return () => {
    state ^= state << 13; state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5; state >>>= 0;
    return state / 4294967296;
  };
}

function permute(values, start, end, draw) {
  for (let i = end - 1; i > start; i--) {
    const j = start + Math.floor(draw() * (i - start + 1));
    [values[i], values[j]] = [values[j], values[i]];
  }
}

// The first n samples of every feature, shuffled in one of the ways of notebook 05.
function samples({ n: most, values }, n, shuffle, seed) {
  const nFeatures = values.length / most;
  const x = new Float32Array(nFeatures * n);
  for (let f = 0; f < nFeatures; f++) x.set(values.subarray(f * most, f * most + n), f * n);
  const draw = random(seed);
  if (shuffle === "entries") permute(x, 0, x.length, draw);
  if (shuffle === "within") for (let f = 0; f < nFeatures; f++) permute(x, f * n, (f + 1) * n, draw);
  if (shuffle === "flip") {
    const sign = Float32Array.from({ length: n }, () => (draw() < 0.5 ? -1 : 1));
    for (let i = 0; i < x.length; i++) x[i] *= sign[i % n];
  }
  return x;
}

function product(x, i, j, n) {
  let sum = 0;
  for (let t = 0, p = i * n, q = j * n; t < n; t++) sum += x[p + t] * x[q + t];
  return sum;
}

// All products of a block, with the means and squares of the features.
function sums(x, n, sizes, block) {
  const starts = [0, sizes[0], sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]];
  const [first, second] = [...block].map((part) => PARTS[part]);
  const nFeatures = starts[3];
  const mean = new Float64Array(nFeatures);
  const square = new Float64Array(nFeatures);
  for (let f = 0; f < nFeatures; f++) {
    let total = 0;
    for (let t = 0; t < n; t++) total += x[f * n + t];
    mean[f] = total / n;
    square[f] = product(x, f, f, n);
  }
  const same = first === second;
  const rows = sizes[first], columns = sizes[second];
  const products = new Float64Array(same ? (rows * (rows - 1)) / 2 : rows * columns);
  let at = 0;
  for (let i = starts[first]; i < starts[first + 1]; i++)
    for (let j = same ? i + 1 : starts[second]; j < starts[second + 1]; j++) products[at++] = product(x, i, j, n);
  return { n, x, mean, square, products, same, range: [starts[first], starts[first + 1], starts[second], starts[second + 1]] };
}

// Visit (s, i, j) of every pair of the block with the share `a` of the mean taken out; s is NaN where a feature is
// zero throughout (or constant, with the whole mean gone).
function visit({ n, mean, square, products, same, range }, a, each) {
  const lost = (2 * a - a * a) * n;
  const [rowStart, rowEnd, columnStart, columnEnd] = range;
  const inverse = new Float64Array(mean.length);
  for (let f = 0; f < mean.length; f++) {
    const left = square[f] - lost * mean[f] * mean[f];
    inverse[f] = left > 1e-12 * square[f] ? 1 / Math.sqrt(left) : NaN;
  }
  let at = 0;
  for (let i = rowStart; i < rowEnd; i++) {
    const shift = lost * mean[i], scale = inverse[i];
    for (let j = same ? i + 1 : columnStart; j < columnEnd; j++)
      each((products[at++] - shift * mean[j]) * scale * inverse[j], i, j);
  }
}

function histogram(data, a) {
  const counts = new Float64Array(BINS);
  let squares = 0, defined = 0;
  visit(data, a, (s) => {
    if (s !== s) return;
    counts[Math.min(BINS - 1, Math.max(0, Math.floor(((s + 1) * BINS) / 2)))]++;
    squares += s * s;
    defined++;
  });
  const share = (from, to) => counts.subarray(from, to).reduce((sum, count) => sum + count, 0) / defined;
  return {
    counts,
    defined,
    smile: share(0, 10) + share(90, 100) - share(40, 60),
    effective: defined / squares + (a === 1 ? 1 : 0),
  };
}

// Mean over the features of a part of the share of the mean in the square, after the share `a` of it is taken out.
function offsetShares({ n, mean, square }, sizes, a) {
  let f = 0;
  return sizes.map((size) => {
    let total = 0, number = 0;
    for (const end = f + size; f < end; f++) {
      const left = (1 - a) ** 2 * mean[f] ** 2, spread = square[f] / n - mean[f] ** 2;
      if (left + spread > 0) { total += left / (left + spread); number++; }
    }
    return total / number;
  });
}

// The pair whose similarity, with the whole mean, is nearest to `wanted`.
function nearest(data, wanted) {
  let best = { distance: Infinity };
  visit(data, 0, (s, i, j) => {
    const distance = Math.abs(s - wanted);
    if (distance < best.distance) best = { distance, i, j };
  });
  const column = (f) => Array.from(data.x.subarray(f * data.n, (f + 1) * data.n));
  return { i: best.i, j: best.j, x: column(best.i), y: column(best.j) };
}

onmessage = async ({ data: wish }) => {
  try {
    const { url, sizes, n, block, shuffle, seed, a } = wish;
    const nFeatures = sizes[0] + sizes[1] + sizes[2];
    const key = JSON.stringify([url, n, block, shuffle, seed]);
    if (!files.has(url)) files.set(url, load(url, nFeatures));
    const file = await files.get(url).catch((error) => { files.delete(url); throw error; });
    const started = performance.now();
    if (shown?.key !== key) {
      shown = { key, ...sums(samples(file, n, shuffle, seed), n, sizes, block) };
      shown.whole = histogram(shown, 0);
      shown.none = histogram(shown, 1);
    }
    const result = a === 0 ? shown.whole : a === 1 ? shown.none : histogram(shown, a);
    if (shown.wanted !== wish.pair) Object.assign(shown, { wanted: wish.pair, pair: nearest(shown, wish.pair) });
    const tallest = Math.max(...shown.whole.counts, ...shown.none.counts) / shown.whole.defined;
    postMessage({ id: wish.id, ...result, tallest, shares: offsetShares(shown, sizes, a), pair: shown.pair,
      matrix: wish.matrix ? shown.x : undefined, took: performance.now() - started });
  } catch (error) {
    postMessage({ id: wish.id, error: String(error.message ?? error) });
  }
};
