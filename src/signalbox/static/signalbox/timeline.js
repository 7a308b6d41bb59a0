// The live timeline: pause, resume, what is new, the strip chart.
(() => {
  "use strict";
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const pause = one("[data-pause]");
  const news = one("[data-news]");
  let paused = false;

  // Filters: opened by a button, open from the start where one is in force.
  const filters = one("[data-filters]");
  const fields = one("#filters");
  const showFields = (open) => {
    fields.hidden = !open;
    filters.setAttribute("aria-expanded", String(open));
    if (open) htmx.trigger(fields, "opened");
  };
  filters.addEventListener("click", () => {
    showFields(fields.hidden);
    if (!fields.hidden) one("select, input", fields).focus();
  });
  if (all("select, input", fields).some((field) => field.value !== "")) showFields(true);

  // The answer to a poll is lines: those that are here already are put in their place, the others stand on top.
  const isPoll = (event) => event.detail.requestConfig?.elt?.id === "position";
  const showNews = (number) => {
    news.hidden = number === 0;
    const text = `${number} new`;
    if (news.textContent !== text) news.textContent = text;
  };
  const setPaused = (value) => {
    paused = value;
    pause.setAttribute("aria-pressed", String(paused));
    one("[data-pause-label]").textContent = paused ? "Paused" : "Live";
    document.body.classList.toggle("paused", paused);
    if (!paused) {
      showNews(0);
      htmx.trigger(one("#position"), "look");
    }
  };
  if (pause) {
    pause.addEventListener("click", () => setPaused(!paused));
    news.addEventListener("click", () => {
      setPaused(false);
      one("#traces").scrollIntoView({ block: "nearest" });
      pause.focus();
    });
  }
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isPoll(event) && document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!isPoll(event) || event.detail.xhr.status !== 200) return;
    const lines = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html").querySelectorAll("[data-line]");
    if (paused) {
      event.detail.shouldSwap = false;
      showNews(lines.length);
    } else if (lines.length) {
      redrawSoon();
    }
  });
  const merge = () => {
    const traces = one("#traces");
    const seen = new Map();
    for (const line of all(":scope > [data-line]", traces)) {
      const newer = seen.get(line.id);
      if (!newer) {
        seen.set(line.id, line);
        continue;
      }
      // The new one takes the old one's place, open if that was open, with focus if that had it.
      const button = one("[data-twist]", line);
      const open = button.getAttribute("aria-expanded") === "true";
      const focus = line.contains(document.activeElement) ? document.activeElement.className : null;
      newer.classList.remove("fresh");
      line.replaceWith(newer);
      htmx.process(newer);
      if (open) one("[data-twist]", newer).click();
      if (focus !== null) one(focus.includes("twist") ? "[data-twist]" : "a.what", newer).focus();
    }
    const lines = all(":scope > [data-line]", traces);
    for (const line of lines.slice(400)) line.remove();
    if (lines.length) one("#more .empty")?.remove();
  };
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id === "traces") merge();
    if (event.detail.target?.id === "found") redraw();
  });

  // The strip chart: stacked bars per step, errors in red at the foot.
  const plot = one("[data-strip]");
  const legend = one("[data-legend]");
  const probe = plot.appendChild(document.createElement("i"));
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  let chart = null;
  let latest = null;
  let soon = 0;

  const stack = ({ now, seconds, step, groups, buckets }) => {
    const end = Math.floor(now / step) * step;
    const start = end - seconds;
    const times = [];
    for (let at = start; at <= end; at += step) times.push(at);
    const place = new Map(times.map((at, index) => [at, index]));
    const present = groups.filter((group) => buckets.some((bucket) => bucket[1] === group));
    const layers = present.map(() => new Array(times.length).fill(0));
    const errors = new Array(times.length).fill(0);
    for (const [at, group, number, failed] of buckets) {
      const index = place.get(at);
      if (index === undefined) continue;
      layers[present.indexOf(group)][index] += number / step;
      errors[index] += failed / step;
    }
    const sums = new Array(times.length).fill(0);
    const stacked = layers.map((layer) => layer.map((value, index) => (sums[index] += value)));
    return { times, present, stacked, errors, sums };
  };

  // The server's time zone, as everywhere on the page.
  const clock = (at) => new Date((at + latest.offset) * 1000).toISOString().slice(11, 16);

  const draw = () => {
    if (!latest) return;
    const { times, present, stacked, errors, sums } = stack(latest);
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
    const options = {
      width: plot.clientWidth,
      height: 92,
      padding: [6, 0, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: true, range: [times[0], times[times.length - 1] + latest.step] }, y: { range: [0, top * 1.1] } },
      axes: [
        { stroke: ink, font, size: 22, gap: 4, grid: { show: false }, ticks: { show: false }, space: 90, values: (_, splits) => splits.map(clock) },
        { stroke: ink, font, size: 38, gap: 6, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, space: 30 },
      ],
      series,
    };
    chart?.destroy();
    chart = new uPlot(options, data, plot);
    const failed = errors.some((value) => value > 0);
    legend.replaceChildren(
      ...[...present.map((group) => [group, `g-${group}`]), ...(failed ? [["errors", "bad"]] : [])].map(([text, name]) => {
        const item = document.createElement("li");
        const glyph = document.createElement("span");
        glyph.className = `glyph ${name}`;
        item.append(glyph, text);
        return item;
      }),
    );
    const total = Math.round(sums.reduce((sum, value) => sum + value, 0) * latest.step);
    plot.setAttribute("aria-label", `${total} events in the last ${Math.round(latest.seconds / 60)} minutes${present.length ? `: ${present.join(", ")}` : ""}${failed ? "; some failed" : ""}`);
  };
  const redraw = async () => {
    const query = new URLSearchParams(location.search);
    query.delete("before");
    const answer = await fetch(`${plot.dataset.strip}?${query}`, { headers: { "HX-Request": "true" } });
    if (!answer.ok) return;
    latest = await answer.json();
    draw();
  };
  const redrawSoon = () => {
    if (soon) return;
    soon = setTimeout(() => {
      soon = 0;
      redraw();
    }, 1500);
  };
  // The axis moves on by itself; nothing is asked for while nothing happens.
  setInterval(() => {
    if (!latest || document.hidden || paused) return;
    latest.now = Math.max(latest.now + latest.step, Date.now() / 1000 - 1);
    draw();
  }, 5000);
  document.addEventListener("schemechange", draw);
  new ResizeObserver(() => chart && chart.setSize({ width: plot.clientWidth, height: 92 })).observe(plot);
  redraw();
})();
