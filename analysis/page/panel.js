"use strict";

// The decision panel: sliders and number fields around `decision` (decision.js). Nothing is fetched and nothing is stored.
(() => {
  const place = document.getElementById("decision");
  const data = JSON.parse(document.getElementById("decision-data").textContent);
  if (place === null || data === null) return;
  const field = (name) => place.querySelector(`[data-field="${name}"]`);
  const say = (name, text) => { field(name).textContent = text; };
  const SLIDER_STEPS = 1000;
  // The slider's lowest place where a value may go unnamed.
  const UNNAMED = ["price", "peak"];
  const state = Object.fromEntries(data.controls.map(({ name, start }) => [name, start]));

  const count = (value) => decision.words(value, "count");
  const span = ([lo, hi]) => `${count(lo)} to ${count(hi)}`;

  // What costs are told in, and what one unit of the page's base costs is of it.
  function money() {
    const { price, peak } = state;
    if (data.unit === "USD") return { unit: "USD", factor: price ?? 1 };
    if (price === null || (data.unit === "FLOPs" && peak === null)) return { unit: data.unit, factor: 1 };
    return { unit: "USD", factor: data.unit === "FLOPs" ? price / 3600 / (peak * 1e12) : price / 3600 };
  }

  function show() {
    const { unit, factor } = money();
    const found = decision.decide(data, { ...state, price: factor });
    const cost = (value) => decision.words(value, unit === "FLOPs" ? "power" : "count");
    say("unit", unit);
    if (found === null) {
      say("sentence", `The law never reaches a loss of ${state.target.toPrecision(4)}: its limit is ${data.shape.E.toPrecision(4)}.`);
      for (const each of place.querySelectorAll("[data-field]"))
        if (!["sentence", "unit"].includes(each.dataset.field)) each.textContent = "–";
      draw(null);
      return;
    }
    const { toTrain, toOwn, costs } = found;
    const served = state.demand > 0 ? `${count(state.demand)} tokens served` : "no demand";
    const saved = 1 - toOwn.cost / found.trainedOwned;
    const instead = saved > 5e-4
      ? `, ${decision.words(saved, "percent")} less than the ${count(toTrain.n)} that is cheapest to train`
      : ", which is also the cheapest to train";
    say("sentence", `At ${served} and a loss of ${state.target.toPrecision(4)}, the cheapest model to own has ${count(toOwn.n)} ` +
      `parameters, trained on ${count(toOwn.d)} tokens: ${cost(toOwn.cost)} ${unit}${instead}.`);
    for (const [key, model, whole] of [["train", toTrain, found.trainedOwned], ["own", toOwn, toOwn.cost]]) {
      say(`${key}-n`, count(model.n));
      say(`${key}-d`, count(model.d));
      say(`${key}-ratio`, decision.words(model.d / model.n, "plain"));
      say(`${key}-training`, cost(decision.trainingCost(costs, model.n, model.d)));
      say(`${key}-cost`, cost(whole));
    }
    say("own-ci", found.ci95 === null ? "–" : span(found.ci95.n));
    say("within-1", span(found.within1));
    say("within-5", span(found.within5));
    say("break-even", found.breakEven === null ? "both are the same model" : `${count(found.breakEven)} tokens served`);
    say("ground", found.outside.length > 0 ? `extrapolated: outside the fitted runs in ${found.outside.join(", ")}` : "inside");
    draw({ ...found, unit });
  }

  function draw(found) {
    const chart = place.querySelector(".chart");
    if (found === null) {
      Plotly.purge(chart);
      return;
    }
    const { toTrain, toOwn, within5, ci95, costs, unit } = found;
    const n_s = decision.curve(data.shape, costs, state.target, state.demand, toOwn);
    const cost_s = n_s.map((n) => decision.costOfSize(data.shape, costs, state.target, state.demand, n));
    const xs = [n_s[0], n_s[n_s.length - 1]];
    const top = Math.max(...cost_s);
    const rectangle = (x0, x1, fillcolor) => ({
      type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, x0, x1, fillcolor, line: { width: 0 }, layer: "below",
    });
    const [lo, hi] = data.range.n_params;
    const shapes = [];
    if (xs[0] < lo) shapes.push(rectangle(xs[0], Math.min(lo, xs[1]), "#ededed"));
    if (xs[1] > hi) shapes.push(rectangle(Math.max(hi, xs[0]), xs[1], "#ededed"));
    shapes.push(rectangle(Math.max(within5[0], xs[0]), Math.min(within5[1], xs[1]), "rgba(0,114,178,0.12)"));
    const point = (name, model, cost, symbol, color, size) => ({
      type: "scatter", mode: "markers", name, x: [model.n], y: [cost], marker: { symbol, color, size, line: { color: "#fff", width: 1 } },
      hovertemplate: `${name}<br>N ${count(model.n)}<br>D ${count(model.d)}<extra></extra>`,
    });
    const traces = [{
      type: "scatter", mode: "lines", name: "cost of each N", x: n_s, y: cost_s, line: { color: "#222222", width: 2 },
      text: n_s.map((n) => `N ${count(n)}<br>D ${count(decision.tokensForLoss(data.shape, n, state.target))}`),
      hovertemplate: "%{text}<br>%{y:.3~s} " + unit + "<extra></extra>",
    }];
    if (ci95 !== null) {
      const ends = [Math.max(ci95.n[0], xs[0]), Math.min(ci95.n[1], xs[1])];
      traces.push({
        type: "scatter", mode: "lines", name: "95 % of the best N", x: ends, y: [toOwn.cost, toOwn.cost],
        line: { color: "#d55e00", width: 5 }, opacity: 0.45, hoverinfo: "skip",
      });
    }
    traces.push(point("cheapest to train", toTrain, found.trainedOwned, "diamond", "#0072b2", 11));
    traces.push(point("cheapest to own", toOwn, toOwn.cost, "star", "#d55e00", 16));
    const axis = { type: "log", gridcolor: "#e3e3e3", linecolor: "#767676", zeroline: false, automargin: true };
    const ticks = (low, high, kind) => {
      const tickvals = decision.ticks(low, high);
      return { tickmode: "array", tickvals, ticktext: tickvals.map((value) => decision.words(value, kind)) };
    };
    const bottom = toOwn.cost / (top / toOwn.cost) ** 0.06;
    Plotly.react(chart, traces, {
      font: { family: "system-ui, sans-serif", size: 13, color: "#222222" },
      height: 340,
      margin: { l: 60, r: 12, t: 8, b: 44 },
      paper_bgcolor: "#ffffff",
      plot_bgcolor: "#ffffff",
      hovermode: "closest",
      shapes,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      xaxis: { ...axis, ...ticks(...xs, "count"), title: { text: "parameters N", standoff: 6 }, range: xs.map(Math.log10) },
      yaxis: {
        ...axis, ...ticks(bottom, top, unit === "FLOPs" ? "power" : "count"),
        title: { text: `training and serving (${unit})`, standoff: 6 }, range: [bottom, top].map(Math.log10),
      },
    }, { responsive: true, displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" });
  }

  function wire(control) {
    const group = place.querySelector(`[data-control="${control.name}"]`);
    const slider = group.querySelector('input[type="range"]');
    const number = group.querySelector('input[type="number"]');
    const scale = group.dataset.percent ? 100 : 1;
    const optional = UNNAMED.includes(control.name) && control.start === null;
    const place_ = control.log ? Math.log10 : (value) => value;
    const value_ = control.log ? (at) => 10 ** at : (at) => at;
    const low = place_(control.low);
    const high = place_(control.high);
    // The place below the lowest value stands for "not named", or for no demand at all.
    const none = control.name === "demand" ? 0 : null;
    const gap = optional || control.name === "demand" ? (high - low) / 50 : 0;
    slider.min = low - gap;
    slider.max = high;
    slider.step = (high - low + gap) / SLIDER_STEPS;
    const hint = group.querySelector(".soft");
    const explained = hint.textContent;
    function written(value) {
      if (value === null) return "";
      const short = Number((value * scale).toPrecision(4));
      return short >= 1e6 ? short.toExponential().replace("+", "") : String(short);
    }
    const told = (value) => (value === null ? "not named" : control.name === "demand" ? `${count(value)} tokens` : written(value));
    function reflect(from) {
      const value = state[control.name];
      if (from !== slider) slider.value = value === null || value === 0 ? low - gap : Math.min(high, Math.max(low, place_(value)));
      if (from !== number) number.value = written(value);
      slider.setAttribute("aria-valuetext", told(value));
      if (control.name === "demand") hint.textContent = `${told(value)} ${explained}`;
      number.removeAttribute("aria-invalid");
    }
    slider.addEventListener("input", () => {
      const at = Number(slider.value);
      state[control.name] = gap > 0 && at < low - gap / 2 ? none : value_(Math.max(low, at));
      reflect(slider);
      later();
    });
    number.addEventListener("input", () => {
      const typed = number.value.trim() === "" ? null : Number(number.value) / scale;
      const fine = typed === null ? optional : Number.isFinite(typed) && (typed > 0 || (typed === 0 && none === 0));
      const share = control.name.endsWith("Utilisation") && typed > 1;
      if (!fine || share) {
        number.setAttribute("aria-invalid", "true");
        return;
      }
      state[control.name] = typed;
      reflect(number);
      later();
    });
    number.addEventListener("change", () => reflect(null));
    if (optional) number.placeholder = "not named";
    reflect(null);
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      show();
    });
  }

  data.controls.forEach(wire);
  for (const each of place.querySelectorAll("[hidden]")) each.hidden = false;
  place.querySelector(".static-note").remove();
  show();
})();
