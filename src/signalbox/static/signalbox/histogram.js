// The histogram above the timeline: stacked bars per time step, with errors in red in front. Dragging selects a range of
// time, and the legend selects a group or the errors: both change tokens of the filter, which htmx submits.
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

  // In the time zone of all times on the page. Its offset may change within the axis.
  const getOffset = (time) => (latest.utc_offsets.findLast(([since]) => since <= time) || latest.utc_offsets[0])[1];
  const formatMoment = (time) => new Date((time + getOffset(time)) * 1000).toISOString().slice(0, 19);
  // With its offset: a shared address is the same moment in another zone, and in the hour that occurs twice.
  const formatToken = (time) => {
    const offset = getOffset(time);
    const length = new Date(Math.abs(offset) * 1000).toISOString().slice(11, 16);
    return `${formatMoment(time)}${offset === 0 ? "Z" : `${offset < 0 ? "-" : "+"}${length}`}`;
  };
  const formatTime = (time, length = 5) => formatMoment(time).slice(11, 11 + length);

  const form = queryOne("form.filter");
  const submit = (text) => {
    form.elements.q.value = text;
    form.requestSubmit();
  };

  const legendItem = (text, name, { token, is_chosen: isChosen }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const marker = document.createElement("span");
    marker.className = `glyph ${name}`;
    button.type = "button";
    button.className = "legend-button";
    button.dataset.token = token;
    button.setAttribute("aria-pressed", String(isChosen));
    button.append(marker, text);
    item.append(button);
    return item;
  };
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const choice = latest?.choices.find(({ token }) => token === button?.dataset.token);
    if (choice) submit(choice.text);
  });
  // A list that is replaced keeps the focus on the same entry.
  const showLegend = (items) => {
    const { token } = document.activeElement?.closest("[data-legend] button")?.dataset || {};
    legend.replaceChildren(...items);
    if (token) queryOne(`button[data-token="${CSS.escape(token)}"]`, legend)?.focus();
  };

  // The selected range: start and end in seconds, multiples of the step. It is the filter's, or one that is being made.
  const MIN_DRAG_PIXELS = 5;
  const band = document.createElement("div");
  band.className = "selection";
  let draft = null;
  let dragStart = null;
  const bounds = () => {
    const end = Math.floor(latest.now / latest.step_seconds) * latest.step_seconds + latest.step_seconds;
    return [end - latest.range_seconds - latest.step_seconds, end];
  };
  const clamp = (value) => Math.min(Math.max(value, bounds()[0]), bounds()[1]);
  const filterRange = () => {
    if (!latest || (latest.since === null && latest.until === null)) return null;
    const [first, last] = bounds();
    const range = { start: latest.since ?? first, end: latest.until ?? last };
    return range.end <= first || range.start >= last || (range.start <= first && range.end >= last) ? null : range;
  };
  const showBand = () => {
    const range = draft || filterRange();
    if (!chart || !range) {
      band.remove();
      return;
    }
    const left = chart.valToPos(clamp(range.start), "x");
    band.style.left = `${left}px`;
    band.style.width = `${Math.max(chart.valToPos(clamp(range.end), "x") - left, 1)}px`;
    chart.over.append(band);
  };
  const describeRange = (range) => `${formatTime(range.start, 8)} – ${formatTime(range.end, 8)}`;
  const announce = (text) => document.dispatchEvent(new CustomEvent("signalbox:announce", { detail: text }));
  const applyRange = (range) => {
    latest.since = range && range.start;
    latest.until = range && range.end;
    draft = null;
    showBand();
    const tokens = range ? [`since:${formatToken(range.start)}`, `until:${formatToken(range.end)}`] : [];
    submit([latest.text_without_time, ...tokens].join(" ").trim());
  };
  const roundRange = (from, to) => {
    const step = latest.step_seconds;
    const start = Math.floor(Math.min(from, to) / step) * step;
    return { start: clamp(start), end: clamp(Math.max(Math.ceil(Math.max(from, to) / step) * step, start + step)) };
  };
  const timeAt = (event) => clamp(chart.posToVal(event.clientX - chart.over.getBoundingClientRect().left, "x"));
  plot.addEventListener("pointerdown", (event) => {
    if (!chart || !event.isPrimary || event.button !== 0) return;
    dragStart = { x: event.clientX, time: timeAt(event) };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    if (!dragStart || Math.abs(event.clientX - dragStart.x) < MIN_DRAG_PIXELS) return;
    draft = roundRange(dragStart.time, timeAt(event));
    showBand();
  });
  plot.addEventListener("pointerup", () => {
    if (!dragStart) return;
    dragStart = null;
    if (draft) applyRange(draft);
  });
  // The browser takes the pointer if the gesture scrolls the page.
  plot.addEventListener("pointercancel", () => {
    dragStart = draft = null;
    showBand();
  });
  plot.addEventListener("keydown", (event) => {
    if (!chart || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && draft) applyRange(draft);
    else if (event.key === "Escape" && (draft || filterRange())) {
      if (draft) draft = null;
      else applyRange(null);
      showBand();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const [first, last] = bounds();
      const step = latest.step_seconds * 6;
      const by = event.key === "ArrowLeft" ? -step : step;
      const range = draft || filterRange() || { start: last - step - by, end: last - by };
      const length = event.shiftKey ? Math.max(range.end - range.start + by, latest.step_seconds) : range.end - range.start;
      const start = event.shiftKey ? range.start : Math.min(Math.max(range.start + by, first), last - length);
      draft = roundRange(start, start + length);
      showBand();
      announce(describeRange(draft));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  plot.addEventListener("blur", () => {
    if (!draft || dragStart) return;
    draft = null;
    showBand();
  });

  const draw = () => {
    if (!latest || dragStart) return;
    const { times, presentGroups, stacked, errors, sums } = stackBuckets(latest);
    const minutes = Math.round(latest.range_seconds / 60);
    const failed = errors.some((value) => value > 0);
    const total = Math.round(sums.reduce((sum, value) => sum + value, 0) * latest.step_seconds);
    plot.setAttribute("aria-label", `${signalboxText(total === 1 ? "events-one" : "events-other", { number: total, minutes })}${presentGroups.length ? `: ${presentGroups.join(", ")}` : ""}${failed ? `; ${signalboxText("some-failed")}` : ""}`);
    limitNote.textContent = latest.start ? signalboxText("chart-limit", { time: formatTime(latest.start, 8) }) : total ? "" : signalboxText("chart-empty", { minutes });
    // An active filter stays in the legend, to be removed there, even if it has no events in the chart.
    const items = latest.choices.flatMap((choice) => {
      const group = choice.token.startsWith("group:") ? choice.token.slice(6) : null;
      if (!choice.is_chosen && !(group ? presentGroups.includes(group) : failed)) return [];
      return [group ? legendItem(group, `g-${group}`, choice) : legendItem(signalboxText("errors"), "bad", choice)];
    });
    showLegend(items);
    histogram.classList.toggle("is-empty", total === 0);
    chart?.destroy();
    chart = null;
    if (total === 0) return;
    const bars = uPlot.paths.bars({ size: [0.72, 14, 1], align: 1 });
    const series = [{}];
    const data = [times];
    // Tallest first: each series is drawn over the previous one.
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
    // Labels without room for half their width after the tick are omitted.
    const halfLabel = (18 * (end - times[0])) / Math.max(plot.clientWidth - 38, 1);
    const options = {
      width: plot.clientWidth,
      height: HEIGHT,
      padding: [6, 0, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      // The scales are set when it draws, not when it is created.
      hooks: { draw: [showBand] },
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
      // timeline.js shows that the server does not respond.
      return;
    }
    // The offset from the client's clock to the server's clock.
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
  // Move the axis without a request while there are no new events.
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
