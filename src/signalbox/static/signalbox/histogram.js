// The histogram above the timeline: stacked bars per step, errors in red at the foot.
(() => {
  "use strict";
  const queryOne = (selector, within = document) => within.querySelector(selector);
  const histogram = queryOne(".histogram");
  const plot = queryOne("[data-histogram]");
  const legend = queryOne("[data-legend]");
  const limitNote = queryOne("[data-histogram-limit]");
  const HEIGHT = 84;
  const probe = plot.appendChild(document.createElement("i"));
  const resolveColor = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  let chart = null;
  let latest = null;
  let clockOffset = 0;
  let redrawTimer = 0;

  const stackBuckets = ({ now, range_seconds: rangeSeconds, step_seconds: stepSeconds, groups, buckets }) => {
    const end = Math.floor(now / stepSeconds) * stepSeconds;
    const start = end - rangeSeconds;
    const times = [];
    for (let time = start; time <= end; time += stepSeconds) times.push(time);
    const indexByTime = new Map(times.map((time, index) => [time, index]));
    const shown = buckets.filter((bucket) => indexByTime.has(bucket[0]));
    const presentGroups = groups.filter((group) => shown.some((bucket) => bucket[1] === group));
    const layers = presentGroups.map(() => new Array(times.length).fill(0));
    const errors = new Array(times.length).fill(0);
    for (const [time, group, number, failed] of shown) {
      const index = indexByTime.get(time);
      layers[presentGroups.indexOf(group)][index] += number / stepSeconds;
      errors[index] += failed / stepSeconds;
    }
    const sums = new Array(times.length).fill(0);
    const stacked = layers.map((layer) => layer.map((value, index) => (sums[index] += value)));
    return { times, presentGroups, stacked, errors, sums };
  };

  // The server's time zone, as everywhere on the page.
  const formatTime = (time, length = 5) => new Date((time + latest.utc_offset_seconds) * 1000).toISOString().slice(11, 11 + length);

  const legendItem = (text, name) => {
    const item = document.createElement("li");
    const marker = document.createElement("span");
    marker.className = `glyph ${name}`;
    item.append(marker, text);
    return item;
  };

  const draw = () => {
    if (!latest) return;
    const { times, presentGroups, stacked, errors, sums } = stackBuckets(latest);
    const minutes = Math.round(latest.range_seconds / 60);
    const failed = errors.some((value) => value > 0);
    const total = Math.round(sums.reduce((sum, value) => sum + value, 0) * latest.step_seconds);
    plot.setAttribute("aria-label", `${total} event${total === 1 ? "" : "s"} in the last ${minutes} minutes${presentGroups.length ? `: ${presentGroups.join(", ")}` : ""}${failed ? "; some failed" : ""}`);
    limitNote.textContent = latest.start ? `only the latest events, since ${formatTime(latest.start, 8)}` : total ? "" : `none in the last ${minutes} minutes`;
    legend.replaceChildren(...presentGroups.map((group) => legendItem(group, `g-${group}`)), ...(failed ? [legendItem("errors", "bad")] : []));
    histogram.classList.toggle("is-empty", total === 0);
    chart?.destroy();
    chart = null;
    if (total === 0) return;
    const bars = uPlot.paths.bars({ size: [0.72, 14, 1], align: 1 });
    const series = [{}];
    const data = [times];
    // The tallest first: each lower sum covers the one below it.
    for (let index = presentGroups.length - 1; index >= 0; index -= 1) {
      const fill = resolveColor(`--g-${presentGroups[index]}`);
      series.push({ paths: bars, fill, stroke: fill, width: 0, points: { show: false } });
      data.push(stacked[index]);
    }
    series.push({ paths: bars, fill: resolveColor("--bad-fill"), stroke: resolveColor("--bad-fill"), width: 0, points: { show: false } });
    data.push(errors.map((value) => value || null));
    const top = Math.max(1, ...sums);
    const textColor = resolveColor("--text-muted");
    const font = `11px ${getComputedStyle(plot).fontFamily}`;
    const end = times[times.length - 1] + latest.step_seconds;
    // A label needs half its width beyond its tick: one that has not got it is left out.
    const halfLabel = (18 * (end - times[0])) / Math.max(plot.clientWidth - 38, 1);
    const options = {
      width: plot.clientWidth,
      height: HEIGHT,
      padding: [6, 0, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: true, range: [times[0], end] }, y: { range: [0, top * 1.1] } },
      axes: [
        { stroke: textColor, font, size: 22, gap: 4, grid: { show: false }, ticks: { show: false }, space: 90, values: (_, splits) => splits.map((time) => (time + halfLabel > end ? "" : formatTime(time))) },
        { stroke: textColor, font, size: 38, gap: 6, grid: { stroke: resolveColor("--divider"), width: 1 }, ticks: { show: false }, space: 20 },
      ],
      series,
    };
    chart = new uPlot(options, data, plot);
  };
  const redraw = async () => {
    const query = new URLSearchParams(location.search);
    query.delete("before");
    try {
      const response = await fetch(`${plot.dataset.histogram}?${query}`, { headers: { "HX-Request": "true" }, redirect: "error" });
      if (!response.ok) return;
      latest = await response.json();
    } catch {
      // The list says that the server doesn't answer; the chart stays as it is.
      return;
    }
    // The bars are in the server's time, whatever this machine's clock says.
    clockOffset = latest.now - Date.now() / 1000;
    draw();
  };
  document.addEventListener("signalbox:new-events", () => {
    if (redrawTimer) return;
    redrawTimer = setTimeout(() => {
      redrawTimer = 0;
      redraw();
    }, 1500);
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id === "results") redraw();
  });
  // The axis moves on by itself; nothing is asked for while nothing happens.
  setInterval(() => {
    if (!latest || document.hidden || document.body.dataset.live !== "live") return;
    latest.now = Date.now() / 1000 + clockOffset;
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
