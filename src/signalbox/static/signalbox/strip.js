// The strip chart above the timeline: stacked bars per step, errors in red at the foot.
(() => {
  "use strict";
  const one = (selector, within = document) => within.querySelector(selector);
  const strip = one(".strip");
  const plot = one("[data-strip]");
  const legend = one("[data-legend]");
  const limit = one("[data-limit]");
  const HEIGHT = 84;
  const probe = plot.appendChild(document.createElement("i"));
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  let chart = null;
  let latest = null;
  let ahead = 0;
  let soon = 0;

  const stack = ({ now, seconds, step, groups, buckets }) => {
    const end = Math.floor(now / step) * step;
    const start = end - seconds;
    const times = [];
    for (let at = start; at <= end; at += step) times.push(at);
    const place = new Map(times.map((at, index) => [at, index]));
    const shown = buckets.filter((bucket) => place.has(bucket[0]));
    const present = groups.filter((group) => shown.some((bucket) => bucket[1] === group));
    const layers = present.map(() => new Array(times.length).fill(0));
    const errors = new Array(times.length).fill(0);
    for (const [at, group, number, failed] of shown) {
      const index = place.get(at);
      layers[present.indexOf(group)][index] += number / step;
      errors[index] += failed / step;
    }
    const sums = new Array(times.length).fill(0);
    const stacked = layers.map((layer) => layer.map((value, index) => (sums[index] += value)));
    return { times, present, stacked, errors, sums };
  };

  // The server's time zone, as everywhere on the page.
  const clock = (at, length = 5) => new Date((at + latest.offset) * 1000).toISOString().slice(11, 11 + length);

  const glyph = (text, name) => {
    const item = document.createElement("li");
    const square = document.createElement("span");
    square.className = `glyph ${name}`;
    item.append(square, text);
    return item;
  };

  const draw = () => {
    if (!latest) return;
    const { times, present, stacked, errors, sums } = stack(latest);
    const minutes = Math.round(latest.seconds / 60);
    const failed = errors.some((value) => value > 0);
    const total = Math.round(sums.reduce((sum, value) => sum + value, 0) * latest.step);
    plot.setAttribute("aria-label", `${total} event${total === 1 ? "" : "s"} in the last ${minutes} minutes${present.length ? `: ${present.join(", ")}` : ""}${failed ? "; some failed" : ""}`);
    limit.textContent = latest.begins ? `only the latest events, since ${clock(latest.begins, 8)}` : total ? "" : `none in the last ${minutes} minutes`;
    legend.replaceChildren(...present.map((group) => glyph(group, `g-${group}`)), ...(failed ? [glyph("errors", "bad")] : []));
    strip.classList.toggle("quiet-now", total === 0);
    chart?.destroy();
    chart = null;
    if (total === 0) return;
    const bars = uPlot.paths.bars({ size: [0.72, 14, 1], align: 1 });
    const series = [{}];
    const data = [times];
    // The tallest first: each lower sum covers the one below it.
    for (let index = present.length - 1; index >= 0; index -= 1) {
      const fill = colour(`--g-${present[index]}`);
      series.push({ paths: bars, fill, stroke: fill, width: 0, points: { show: false } });
      data.push(stacked[index]);
    }
    series.push({ paths: bars, fill: colour("--bad-fill"), stroke: colour("--bad-fill"), width: 0, points: { show: false } });
    data.push(errors.map((value) => value || null));
    const top = Math.max(1, ...sums);
    const ink = colour("--dim");
    const font = `11px ${getComputedStyle(plot).fontFamily}`;
    const end = times[times.length - 1] + latest.step;
    // A label needs half its width beyond its tick: one that has not got it is left out.
    const half = (18 * (end - times[0])) / Math.max(plot.clientWidth - 38, 1);
    const options = {
      width: plot.clientWidth,
      height: HEIGHT,
      padding: [6, 0, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: true, range: [times[0], end] }, y: { range: [0, top * 1.1] } },
      axes: [
        { stroke: ink, font, size: 22, gap: 4, grid: { show: false }, ticks: { show: false }, space: 90, values: (_, splits) => splits.map((at) => (at + half > end ? "" : clock(at))) },
        { stroke: ink, font, size: 38, gap: 6, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, space: 20 },
      ],
      series,
    };
    chart = new uPlot(options, data, plot);
  };
  const redraw = async () => {
    const query = new URLSearchParams(location.search);
    query.delete("before");
    try {
      const answer = await fetch(`${plot.dataset.strip}?${query}`, { headers: { "HX-Request": "true" }, redirect: "error" });
      if (!answer.ok) return;
      latest = await answer.json();
    } catch {
      // The list says that the server doesn't answer; the chart stays as it is.
      return;
    }
    // The bars are in the server's time, whatever this machine's clock says.
    ahead = latest.now - Date.now() / 1000;
    draw();
  };
  document.addEventListener("signalbox:news", () => {
    if (soon) return;
    soon = setTimeout(() => {
      soon = 0;
      redraw();
    }, 1500);
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id === "found") redraw();
  });
  // The axis moves on by itself; nothing is asked for while nothing happens.
  setInterval(() => {
    if (!latest || document.hidden || document.body.dataset.live !== "live") return;
    latest.now = Date.now() / 1000 + ahead;
    draw();
  }, 5000);
  document.addEventListener("schemechange", draw);
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
  redraw();
})();
