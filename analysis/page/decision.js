"use strict";

// The decision's mathematics, as in analysis/decisions/search.py and lifetime.py, on one law and one pair of costs:
//
//   minimise  D train(N) + D_inf serve(N)   subject to   E + (A N^-alpha + B D^-beta)^k = loss      (Sardana et al. 2024)
//
// A shape is {A, B, E, alpha, beta, k}; a cost {intercept, slope, exponent} is intercept + slope N^exponent a token, or slope
// times its bend {level, share, falls, side}, level N (1 + share N^-falls)^side, where it has one. Where data run out a shape also has {unique_tokens, r_d_star}, and {unique_params, r_n_star} where sizes are discounted too
// (Muennighoff et al. 2023, analysis/laws/repetition.py). No document here: tests hold these functions against Python's.
const decision = (() => {
  const SEARCH_FACTOR = 1e6;
  const GOLDEN = (Math.sqrt(5) - 1) / 2;
  const SECTIONS = 75;
  const BISECTIONS = 50;

  const bySize = ({ bend, exponent }, n) =>
    bend ? bend.level * n * (1 + bend.share * n ** -bend.falls) ** bend.side : n ** exponent;

  const tokenCost = (cost, n) => cost.intercept + cost.slope * bySize(cost, n);

  const scaled = (cost, factor) => ({ ...cost, intercept: cost.intercept * factor, slope: cost.slope * factor });

  // What x out of `unique` is worth in fresh ones, and the x that is worth so much; no `unique`: nothing repeats.
  function effective(x, unique, rStar) {
    if (unique === undefined || unique === null) return x;
    const repetitions = Math.max(x / unique - 1, 0);
    return Math.min(x, unique) * (1 - rStar * Math.expm1(-repetitions / rStar));
  }

  function forEffective(worth, unique, rStar) {
    if (unique === undefined || unique === null) return worth;
    const used = Math.max(worth / unique - 1, 0) / rStar;
    return used < 1 ? Math.min(worth, unique) * (1 - rStar * Math.log1p(-used)) : Infinity;
  }

  const sizeTerm = (shape, n) => shape.A * effective(n, shape.unique_params, shape.r_n_star) ** -shape.alpha;
  const dataTerm = (shape, d) => shape.B * effective(d, shape.unique_tokens, shape.r_d_star) ** -shape.beta;

  const loss = (shape, n, d) => shape.E + (sizeTerm(shape, n) + dataTerm(shape, d)) ** shape.k;

  // A N^-alpha + B D^-beta at this loss; 0 where the law never comes to it.
  const room = (shape, target) => (target > shape.E ? (target - shape.E) ** (1 / shape.k) : 0);

  // The D at which a model of N reaches the loss; infinite where it never does.
  function tokensForLoss(shape, n, target) {
    const left = room(shape, target) - sizeTerm(shape, n);
    if (!(left > 0)) return Infinity;
    return forEffective((shape.B / left) ** (1 / shape.beta), shape.unique_tokens, shape.r_d_star);
  }

  // The N below which no number of tokens reaches the loss.
  function smallestSize(shape, target) {
    // However often they repeat, the unique tokens are worth no more than this.
    const most = shape.unique_tokens ? shape.B * (shape.unique_tokens * (1 + shape.r_d_star)) ** -shape.beta : 0;
    const left = room(shape, target) - most;
    if (!(left > 0)) return Infinity;
    return forEffective((shape.A / left) ** (1 / shape.alpha), shape.unique_params, shape.r_n_star);
  }

  const totalCost = (costs, n, d, demand) =>
    d * tokenCost(costs.train, n) + (demand > 0 ? demand * tokenCost(costs.serve, n) : 0);

  const costOfSize = (shape, costs, target, demand, n) =>
    totalCost(costs, n, tokensForLoss(shape, n, target), demand);

  // {n, d, cost} of the least total cost, by golden section in ln N; null where no model reaches the loss.
  function cheapest(shape, costs, target, demand) {
    const smallest = smallestSize(shape, target);
    if (!Number.isFinite(smallest)) return null;
    const cost = (logN) => costOfSize(shape, costs, target, demand, Math.exp(logN));
    let low = Math.log(smallest);
    let high = low + Math.log(SEARCH_FACTOR);
    let left = high - GOLDEN * (high - low);
    let right = low + GOLDEN * (high - low);
    let costLeft = cost(left);
    let costRight = cost(right);
    for (let k = 0; k < SECTIONS; k++) {
      // Infinite on the left only: at the smallest size no D is enough.
      if (costLeft < costRight) {
        [high, right, costRight] = [right, left, costLeft];
        left = high - GOLDEN * (high - low);
        costLeft = cost(left);
      } else {
        [low, left, costLeft] = [left, right, costRight];
        right = low + GOLDEN * (high - low);
        costRight = cost(right);
      }
    }
    const n = Math.exp((low + high) / 2);
    const d = tokensForLoss(shape, n, target);
    return { n, d, cost: totalCost(costs, n, d, demand) };
  }

  // [lo, hi] of N whose cost lies within `share` of the least, by bisection on either side of the optimum.
  function within(shape, costs, target, demand, best, share) {
    const allowed = best.cost * (1 + share);
    return [Math.log(smallestSize(shape, target)), Math.log(best.n) + Math.log(SEARCH_FACTOR)].map((far) => {
      let inside = Math.log(best.n);
      let beyond = far;
      for (let k = 0; k < BISECTIONS; k++) {
        const middle = (inside + beyond) / 2;
        if (costOfSize(shape, costs, target, demand, Math.exp(middle)) <= allowed) inside = middle;
        else beyond = middle;
      }
      return Math.exp(inside);
    });
  }

  // Tokens served from which `small` is the cheaper to own; 0 where it is no dearer to train, Infinity where it never is.
  function breakEven(costs, small, large) {
    const saved = tokenCost(costs.serve, large.n) - tokenCost(costs.serve, small.n);
    const extra = small.d * tokenCost(costs.train, small.n) - large.d * tokenCost(costs.train, large.n);
    if (saved > 0) return Math.max(extra, 0) / saved;
    return extra <= 0 ? 0 : Infinity;
  }

  // What of a model lies outside the fitted runs: names out of N, D, D/N, compute, loss.
  function outside(range, shape, n, d) {
    const said = [
      ["N", n, range.n_params],
      ["D", d, range.n_tokens],
      ["D/N", d / n, range.tokens_per_param],
      ["compute", n * d, range.n_times_d],
    ].filter(([, value, [lo, hi]]) => !(lo * 0.999 <= value && value <= hi * 1.001)).map(([name]) => name);
    // The best of many noisy runs is no limit to within the law's own scatter.
    if (loss(shape, n, d) < range.loss[0] * (1 - range.loss_tolerance)) said.push("loss");
    return said;
  }

  // [lo, hi] between the order statistics nearest to 2.5 and 97.5 %: some draws may be infinite.
  function interval(values) {
    const sorted = Float64Array.from(values).sort();
    return [0.025, 0.975].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
  }

  // Base costs under a price, utilisations and a multiplier on serving; `price` is per unit of the base costs.
  const priced = (base, { price, trainUtilisation, serveUtilisation, serveMultiplier }) => ({
    train: scaled(base.train, price / trainUtilisation),
    serve: scaled(base.serve, (price * serveMultiplier) / serveUtilisation),
  });

  // The whole decision: both optima, bands, break-even and the draws' intervals; null where the loss is out of reach.
  function decide(data, { demand, target, ...prices }) {
    const costs = priced(data.costs, prices);
    const toTrain = cheapest(data.shape, costs, target, 0);
    const toOwn = cheapest(data.shape, costs, target, demand);
    if (toTrain === null || toOwn === null) return null;
    const never = { n: Infinity, d: Infinity, cost: Infinity };
    const drawn = data.draws.map((draw) => cheapest(draw, costs, target, demand) ?? never);
    return {
      costs,
      toTrain,
      toOwn,
      // What the model that is cheapest to train costs to own.
      trainedOwned: totalCost(costs, toTrain.n, toTrain.d, demand),
      within1: within(data.shape, costs, target, demand, toOwn, 0.01),
      within5: within(data.shape, costs, target, demand, toOwn, 0.05),
      breakEven: toOwn.n < toTrain.n * (1 - 1e-6) ? breakEven(costs, toOwn, toTrain) : null,
      outside: outside(data.range, data.shape, toOwn.n, toOwn.d),
      ci95: drawn.length > 0
        ? Object.fromEntries(["n", "d", "cost"].map((key) => [key, interval(drawn.map((each) => each[key]))]))
        : null,
    };
  }

  const trainingCost = (costs, n, d) => d * tokenCost(costs.train, n);

  // Sizes to draw the cost over: around the optimum, as far as eight times the least cost.
  function curve(shape, costs, target, demand, best, points = 161) {
    const [low, high] = within(shape, costs, target, demand, best, 7).map(Math.log);
    return Array.from({ length: points }, (_, k) => Math.exp(low + ((high - low) * k) / (points - 1)));
  }

  const SUFFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const SUPERSCRIPT = Object.fromEntries([..."0123456789-"].map((digit, k) => [digit, "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"[k]]));

  // A number as analysis.plots.style.format_number writes it, to three digits: 39.4k, 1.2×10¹², 2.75, 31 %.
  function words(value, unit) {
    if (value === Infinity) return "∞";
    if (!Number.isFinite(value)) return "–";
    const magnitude = Math.abs(Number(value.toExponential(2)));
    if (unit === "percent") return `${plain(100 * value)} %`;
    if (unit === "power") return power(value);
    if (unit === "count") {
      if (magnitude >= 1e15) return power(value);
      for (const [scale, suffix] of SUFFIXES) if (magnitude >= scale) return plain(value / scale) + suffix;
    }
    return plain(value);
  }

  function plain(value) {
    if (value !== 0 && !(Math.abs(value) >= 1e-4 && Math.abs(value) < 1e7)) return power(value);
    const rounded = Number(value.toExponential(2));
    const text = Math.abs(rounded) >= 10_000 ? rounded.toLocaleString("en-US") : String(rounded);
    return text.replace("-", "−");
  }

  function power(value) {
    if (value === 0) return "0";
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const short = mantissa.replace(/\.?0+$/, "").replace("-", "−");
    const raised = "10" + [...String(Number(exponent))].map((digit) => SUPERSCRIPT[digit]).join("");
    return short === "1" ? raised : `${short}×${raised}`;
  }

  // Round positions inside [low, high] on a log axis, six or so.
  function ticks(low, high) {
    const first = Math.floor(Math.log10(low));
    const last = Math.ceil(Math.log10(high));
    const decades = Array.from({ length: last - first + 1 }, (_, k) => first + k);
    for (const parts of [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = decades.flatMap((e) => parts.map((part) => Number(`${part}e${e}`))).filter((x) => low <= x && x <= high);
      if (found.length <= 8 && found.length > 0) return found;
    }
    const stride = Math.ceil(decades.length / 7);
    return decades.filter((e) => e % stride === 0).map((e) => 10 ** e).filter((x) => low <= x && x <= high);
  }

  return {
    loss, tokensForLoss, smallestSize, cheapest, within, breakEven, outside, interval, priced, costOfSize, trainingCost, curve,
    decide, words, ticks,
  };
})();

if (typeof module !== "undefined") module.exports = decision;
