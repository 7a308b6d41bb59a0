// The map: dagre computes the layout of senders, signals and receivers from left to right. The table has the same data.
(() => {
  "use strict";
  const canvas = document.querySelector("[data-map]");
  const form = document.querySelector("[data-graph-filter]");
  const rows = [...document.querySelectorAll("[data-edges] tbody tr")];
  const svgNamespace = "http://www.w3.org/2000/svg";
  const healthOrder = ["unmeasured", "idle", "durable", "ok", "slow", "failing", "dead"];
  const createSvgElement = (name, attributes = {}, text = null) => {
    const element = document.createElementNS(svgNamespace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  const shortName = (dotted) => dotted.slice(dotted.lastIndexOf(".") + 1);
  const truncate = (text, maxLength) => (text.length > maxLength ? `${text.slice(0, maxLength - 1)}…` : text);
  // Touch targets of 44 pixels on a phone.
  const nodeHeight = () => (matchMedia("(max-width: 760px)").matches ? 44 : 26);
  const BADGE_WIDTH = 92;
  let edges = [];

  const buildPredicate = () => {
    const { app, health, django } = form.elements;
    const state = health.selectedOptions[0].dataset.health;
    return (edge) => (app.value ? edge.app_label === app.value : django.checked || !edge.is_django) && (!state || edge.health === state);
  };

  // The filter is kept in the URL, for reloads and shared links.
  const readUrl = () => {
    const params = new URLSearchParams(location.search);
    form.reset();
    for (const field of form.elements) {
      if (!params.has(field.name)) continue;
      if (field.type === "checkbox") field.checked = true;
      else if ([...field.options].some((option) => option.value === params.get(field.name))) field.value = params.get(field.name);
    }
  };
  const writeUrl = () => {
    const params = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(history.state, "", `${location.pathname}${params.size ? `?${params}` : ""}${location.hash}`);
  };

  const layout = (shown) => {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 7, ranksep: 120, marginx: 8, marginy: 34 });
    graph.setDefaultEdgeLabel(() => ({}));
    const nodes = new Map();
    const links = new Map();
    const node = (id, label, full, kind, extra) => {
      if (!nodes.has(id)) nodes.set(id, { id, label, full, kind, width: Math.max(60, truncate(label, 30).length * 7.3 + 30), height: nodeHeight(), health: "unmeasured", ...extra });
      return nodes.get(id);
    };
    const link = (from, to, edge) => {
      const id = `${from}\n${to}`;
      const existing = links.get(id) || { from, to, calls: 0, health: "unmeasured" };
      existing.calls += edge.calls;
      if (healthOrder.indexOf(edge.health) > healthOrder.indexOf(existing.health)) existing.health = edge.health;
      links.set(id, existing);
    };
    shown.forEach((edge) => {
      node(`s ${edge.sender}`, edge.sender.includes(".") && edge.sender.split(".").length > 2 ? shortName(edge.sender) : edge.sender, edge.sender, "sender");
      node(`g ${edge.signal}`, shortName(edge.signal), edge.signal, "signal", { group: edge.group, href: edge.signal_url });
      const receiver = node(`r ${edge.receiver} ${edge.location}`, shortName(edge.receiver), `${edge.receiver}\n${edge.location}`, "receiver", { href: edge.receiver_url, dead: edge.dead_deliveries, deadHref: edge.dead_url });
      if (healthOrder.indexOf(edge.health) > healthOrder.indexOf(receiver.health)) receiver.health = edge.health;
      link(`s ${edge.sender}`, `g ${edge.signal}`, edge);
      link(`g ${edge.signal}`, receiver.id, edge);
    });
    // Equal widths within a column, and equal space between columns.
    const widths = {};
    for (const item of nodes.values()) widths[item.kind] = Math.max(widths[item.kind] || 110, item.width);
    const badgeWidth = [...nodes.values()].some((item) => item.dead) ? BADGE_WIDTH : 0;
    const freeWidth = canvas.clientWidth - badgeWidth - Object.values(widths).reduce((sum, width) => sum + width, 0) - 60;
    graph.graph().ranksep = Math.min(Math.max(freeWidth / 2, 48), 340);
    for (const item of nodes.values()) {
      item.width = widths[item.kind];
      graph.setNode(item.id, item);
    }
    for (const item of links.values()) graph.setEdge(item.from, item.to, { item });
    dagre.layout(graph);
    return { graph, nodes, links, badgeWidth };
  };

  // A link to the dead deliveries of a durable receiver, beside its node.
  const createBadge = (item) => {
    const left = item.x + item.width / 2 + 8;
    const badge = createSvgElement("a", { href: item.deadHref, class: "dead-badge" });
    const text = signalboxText("dead", { number: item.dead });
    badge.append(createSvgElement("title", {}, `${item.full.split("\n")[0]}: ${text}`));
    badge.append(createSvgElement("rect", { x: left, y: item.y - item.height / 2, width: BADGE_WIDTH - 14, height: item.height, rx: 6 }));
    badge.append(createSvgElement("path", { d: `M${left + 9} ${item.y + 4}l5-9 5 9z`, class: "dead-mark" }));
    badge.append(createSvgElement("text", { x: left + 25, y: item.y + 4 }, text));
    return badge;
  };

  const draw = () => {
    const matches = buildPredicate();
    const shown = edges.filter(matches);
    rows.forEach((row, index) => {
      row.hidden = !matches(edges[index]);
    });
    document.querySelector("[data-count]").textContent = String(shown.length);
    if (!shown.length) {
      canvas.replaceChildren(Object.assign(document.createElement("p"), { className: "empty-message", textContent: signalboxText("no-receiver") }));
      return;
    }
    const { graph, nodes, links, badgeWidth } = layout(shown);
    const { width, height } = graph.graph();
    const fullWidth = width + badgeWidth;
    const svg = createSvgElement("svg", { viewBox: `0 0 ${fullWidth} ${height}`, width: fullWidth, height, class: "graph" });
    for (const kind of ["sender", "signal", "receiver"]) {
      const first = [...nodes.values()].find((item) => item.kind === kind);
      svg.append(createSvgElement("text", { x: first.x - first.width / 2, y: 16, class: "column" }, signalboxText(`${kind}s`)));
    }
    const maxCalls = Math.max(1, ...[...links.values()].map((item) => item.calls));
    const drawn = [];
    for (const item of links.values()) {
      const from = nodes.get(item.from);
      const to = nodes.get(item.to);
      const [x1, x2] = [from.x + from.width / 2, to.x - to.width / 2];
      const controlOffset = (x2 - x1) / 2;
      const line = createSvgElement("path", {
        d: `M${x1} ${from.y}C${x1 + controlOffset} ${from.y} ${x2 - controlOffset} ${to.y} ${x2} ${to.y}`,
        class: `link h-${item.health}`,
        "stroke-width": (1.2 + 5 * Math.sqrt(item.calls / maxCalls) * (item.calls ? 1 : 0)).toFixed(2),
      });
      line.append(createSvgElement("title", {}, signalboxText("calls", { from: from.full, to: to.full.split("\n")[0], number: item.calls })));
      drawn.push([item, line]);
      svg.append(line);
    }
    for (const item of nodes.values()) {
      const href = item.kind === "sender" ? `${canvas.dataset.map}?sender=${encodeURIComponent(item.full)}` : item.href;
      const box = !href || /^any |^\?$/.test(item.full) ? createSvgElement("g") : createSvgElement("a", { href });
      box.setAttribute("class", `node ${item.kind}`);
      box.append(createSvgElement("title", {}, item.full));
      box.append(createSvgElement("rect", { x: item.x - item.width / 2, y: item.y - item.height / 2, width: item.width, height: item.height, rx: 6 }));
      const mark = item.kind === "receiver" ? `dot h-${item.health}` : item.kind === "signal" ? `g-${item.group}` : "plain";
      const markX = item.x - item.width / 2 + 12;
      box.append(
        item.health === "failing" && item.kind === "receiver"
          ? createSvgElement("rect", { x: markX - 3.5, y: item.y - 3.5, width: 7, height: 7, class: mark })
          : createSvgElement("circle", { cx: markX, cy: item.y, r: 3.5, class: mark }),
      );
      box.append(createSvgElement("text", { x: item.x - item.width / 2 + 22, y: item.y + 4 }, truncate(item.label, 30)));
      const highlight = (on) => () => {
        svg.classList.toggle("has-highlight", on);
        for (const [link, line] of drawn) line.classList.toggle("highlighted", on && (link.from === item.id || link.to === item.id));
      };
      box.addEventListener("pointerenter", highlight(true));
      box.addEventListener("pointerleave", highlight(false));
      box.addEventListener("focus", highlight(true));
      box.addEventListener("blur", highlight(false));
      svg.append(box);
      if (item.dead) svg.append(createBadge(item));
    }
    canvas.replaceChildren(svg);
  };

  const init = () => {
    edges = JSON.parse(document.getElementById("edges").textContent);
    readUrl();
    form.addEventListener("change", () => {
      writeUrl();
      draw();
    });
    draw();
  };
  init();
})();
