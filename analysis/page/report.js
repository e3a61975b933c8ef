"use strict";

// Each figure holds its picture as SVG, which prints and needs no script. Where scripts run, an interactive chart of the
// same points takes its place on the screen once the figure comes near the viewport.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const NARROW = 640;

  function arranged(layout, width) {
    const out = structuredClone(layout);
    const panels = Object.keys(out).filter((key) => key.startsWith("xaxis")).map((key) => key.slice(5));
    if (width >= NARROW) {
      out.height = 470;
      return out;
    }
    // On a phone panels stand on top of each other, the legend below them, and a finger scrolls the page.
    const gap = 0.16;
    const share = (1 - gap * (panels.length - 1)) / panels.length;
    panels.forEach((suffix, k) => {
      const top = 1 - k * (share + gap);
      out["xaxis" + suffix].domain = [0, 1];
      out["yaxis" + suffix].domain = [Math.max(0, top - share), top];
      const x = out["xaxis" + suffix];
      if (x.tickvals.length > 6) {
        x.tickvals = x.tickvals.filter((_, at) => at % 2 === 0);
        x.ticktext = x.ticktext.filter((_, at) => at % 2 === 0);
      }
    });
    out.height = 120 + 330 * panels.length;
    out.margin = { l: 48, r: 8, t: out.margin.t, b: 110 };
    out.annotations = out.annotations.map((each) => ({ ...each, font: { ...each.font, size: 10 } }));
    for (const key of Object.keys(out).filter((each) => /^[xy]axis/.test(each))) out[key].title.font = { size: 11.5 };
    out.legend.title.side = "top";
    out.legend = { ...out.legend, orientation: "h", x: 0, yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } };
    out.dragmode = false;
    return out;
  }

  // A zoomed axis gets Plotly's own ticks, an axis put back its printed ones.
  function ticksAfter(change, place, layout) {
    const update = {};
    for (const key of Object.keys(change)) {
      const axis = key.match(/^([xy]axis\d*)\.range/)?.[1];
      if (!axis) continue;
      const back = place.layout[axis].range.every((end, k) => Math.abs(end - layout[axis].range[k]) < 1e-9);
      const mode = back ? "array" : "auto";
      if (place.layout[axis].tickmode !== mode) update[axis + ".tickmode"] = mode;
    }
    if (Object.keys(update).length > 0) Plotly.relayout(place, update);
  }

  function pick(place, point) {
    place.replaceChildren();
    // A trace of one run carries its link and name once, a trace of many runs one a point.
    const { customdata: urls = [], meta: names = [] } = point.data;
    const at = urls.length === 1 ? 0 : point.pointNumber;
    const url = urls[at];
    if (!url || !/^https?:/.test(url)) return;
    const link = document.createElement("a");
    link.href = url;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    link.textContent = "Open the run in MLflow";
    place.append(names[at] + ": ", link);
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  async function show(figure) {
    const { data, layout } = figures[figure.dataset.stem];
    const place = figure.querySelector(".interactive");
    figure.classList.add("live");
    const draw = () => Plotly.react(place, data, arranged(layout, figure.clientWidth), {
      responsive: true,
      displayModeBar: figure.clientWidth < NARROW ? false : "hover",
      displaylogo: false,
      // The report sends nothing anywhere.
      showSendToCloud: false,
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { filename: figure.dataset.stem, scale: 2 },
    });
    try {
      await draw();
    } catch (error) {
      figure.classList.remove("live");
      throw error;
    }
    place.on("plotly_relayout", (change) => ticksAfter(change, place, layout));
    place.on("plotly_click", (event) => pick(figure.querySelector(".picked"), event.points[0]));
    let narrow = figure.clientWidth < NARROW;
    window.addEventListener("resize", () => {
      if (figure.clientWidth < NARROW === narrow) return;
      narrow = !narrow;
      draw();
    });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      seen.unobserve(entry.target);
      show(entry.target);
    }
  }, { rootMargin: "600px" });

  const runs = JSON.parse(document.getElementById("runs-csv").textContent);
  document.querySelector(".save-runs").addEventListener("click", () => save("runs.csv", "text/csv", runs));

  // A long table of runs is searched by any text in its rows.
  const list = document.getElementById("run-list");
  list?.querySelector("#find-run").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const row of list.querySelectorAll("tbody tr")) {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    list.querySelector("#found-runs").textContent = wanted === "" ? "" : `${shown} found`;
  });

  // What is folded on the screen is printed, but for the list of runs.
  for (const [event, open] of [["beforeprint", true], ["afterprint", false]])
    window.addEventListener(event, () => {
      for (const each of document.querySelectorAll("details.printed")) each.open = open;
    });

  for (const figure of document.querySelectorAll("figure[data-stem]")) {
    const stem = figure.dataset.stem;
    figure.querySelector(".save-csv").addEventListener("click", () => save(stem + ".csv", "text/csv", figures[stem].csv));
    figure.querySelector(".save-svg").addEventListener("click", () =>
      save(stem + ".svg", "image/svg+xml", new XMLSerializer().serializeToString(figure.querySelector(".static svg"))));
    seen.observe(figure);
  }
})();
