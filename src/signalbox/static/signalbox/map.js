// The map: dagre lays senders, signals and receivers out from left to right; the table below says the same in words.
(() => {
  "use strict";
  const canvas = document.querySelector("[data-map]");
  const form = document.querySelector("[data-map-filter]");
  const rows = [...document.querySelectorAll("[data-edges] tbody tr")];
  const svgNamespace = "http://www.w3.org/2000/svg";
  const worst = ["unmeasured", "idle", "durable", "ok", "slow", "failing", "dead"];
  const make = (name, given = {}, text = null) => {
    const element = document.createElementNS(svgNamespace, name);
    for (const [key, value] of Object.entries(given)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  const tail = (dotted) => dotted.slice(dotted.lastIndexOf(".") + 1);
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  let edges = [];

  const wanted = () => {
    const { app, health, django } = form.elements;
    const state = health.selectedOptions[0].dataset.health;
    return (edge) => (app.value ? edge.app === app.value : django.checked || !edge.django) && (!state || edge.health === state);
  };

  // What the map is narrowed to stands in the address: it survives a reload, and can be shared.
  const readAddress = () => {
    const given = new URLSearchParams(location.search);
    form.reset();
    for (const field of form.elements) {
      if (!given.has(field.name)) continue;
      if (field.type === "checkbox") field.checked = true;
      else if ([...field.options].some((option) => option.value === given.get(field.name))) field.value = given.get(field.name);
    }
  };
  const writeAddress = () => {
    const chosen = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(history.state, "", `${location.pathname}${chosen.size ? `?${chosen}` : ""}${location.hash}`);
  };

  const layout = (shown) => {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 7, ranksep: 120, marginx: 8, marginy: 34 });
    graph.setDefaultEdgeLabel(() => ({}));
    const nodes = new Map();
    const links = new Map();
    const node = (id, label, full, kind, more) => {
      if (!nodes.has(id)) nodes.set(id, { id, label, full, kind, width: Math.max(60, cut(label, 30).length * 7.3 + 30), height: 26, health: "unmeasured", ...more });
      return nodes.get(id);
    };
    const link = (from, to, edge) => {
      const id = `${from}\n${to}`;
      const known = links.get(id) || { from, to, calls: 0, health: "unmeasured" };
      known.calls += edge.calls;
      if (worst.indexOf(edge.health) > worst.indexOf(known.health)) known.health = edge.health;
      links.set(id, known);
    };
    shown.forEach((edge) => {
      node(`s ${edge.sender}`, edge.sender.includes(".") && edge.sender.split(".").length > 2 ? tail(edge.sender) : edge.sender, edge.sender, "sender");
      node(`g ${edge.signal}`, tail(edge.signal), edge.signal, "signal", { group: edge.group });
      const receiver = node(`r ${edge.receiver} ${edge.place}`, tail(edge.receiver), `${edge.receiver}\n${edge.place}`, "receiver", { row: edge.row });
      if (worst.indexOf(edge.health) > worst.indexOf(receiver.health)) receiver.health = edge.health;
      link(`s ${edge.sender}`, `g ${edge.signal}`, edge);
      link(`g ${edge.signal}`, receiver.id, edge);
    });
    // One width for each column, and columns as far apart as there is room.
    const widths = {};
    for (const each of nodes.values()) widths[each.kind] = Math.max(widths[each.kind] || 110, each.width);
    const room = canvas.clientWidth - Object.values(widths).reduce((sum, width) => sum + width, 0) - 60;
    graph.graph().ranksep = Math.min(Math.max(room / 2, 80), 340);
    for (const each of nodes.values()) {
      each.width = widths[each.kind];
      graph.setNode(each.id, each);
    }
    for (const each of links.values()) graph.setEdge(each.from, each.to, { each });
    dagre.layout(graph);
    return { graph, nodes, links };
  };

  const draw = () => {
    const fits = wanted();
    const shown = edges.filter(fits);
    rows.forEach((row, index) => {
      row.hidden = !fits(edges[index]);
    });
    document.querySelector("[data-count]").textContent = String(shown.length);
    if (!shown.length) {
      canvas.replaceChildren(Object.assign(document.createElement("p"), { className: "nothing", textContent: "No receiver fits." }));
      return;
    }
    const { graph, nodes, links } = layout(shown);
    const { width, height } = graph.graph();
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "graph" });
    for (const kind of ["sender", "signal", "receiver"]) {
      const first = [...nodes.values()].find((each) => each.kind === kind);
      svg.append(make("text", { x: first.x - first.width / 2, y: 16, class: "column" }, `${kind[0].toUpperCase()}${kind.slice(1)}s`));
    }
    const most = Math.max(1, ...[...links.values()].map((each) => each.calls));
    const drawn = [];
    for (const each of links.values()) {
      const from = nodes.get(each.from);
      const to = nodes.get(each.to);
      const [x1, x2] = [from.x + from.width / 2, to.x - to.width / 2];
      const bend = (x2 - x1) / 2;
      const line = make("path", {
        d: `M${x1} ${from.y}C${x1 + bend} ${from.y} ${x2 - bend} ${to.y} ${x2} ${to.y}`,
        class: `link h-${each.health}`,
        "stroke-width": (1.2 + 5 * Math.sqrt(each.calls / most) * (each.calls ? 1 : 0)).toFixed(2),
      });
      line.append(make("title", {}, `${from.full} → ${to.full.split("\n")[0]}: ${each.calls} calls`));
      drawn.push([each, line]);
      svg.append(line);
    }
    for (const each of nodes.values()) {
      const address = each.kind === "receiver" ? `#r-${each.row}` : `${canvas.dataset.map}?${each.kind}=${encodeURIComponent(each.full)}`;
      const box = /^any |^\?$/.test(each.full) ? make("g") : make("a", { href: address });
      box.setAttribute("class", `node ${each.kind}`);
      box.append(make("title", {}, each.full));
      box.append(make("rect", { x: each.x - each.width / 2, y: each.y - each.height / 2, width: each.width, height: each.height, rx: 6 }));
      const mark = each.kind === "receiver" ? `dot h-${each.health}` : each.kind === "signal" ? `g-${each.group}` : "plain";
      box.append(make("circle", { cx: each.x - each.width / 2 + 12, cy: each.y, r: 3.5, class: mark }));
      box.append(make("text", { x: each.x - each.width / 2 + 22, y: each.y + 4 }, cut(each.label, 30)));
      const near = (on) => () => {
        svg.classList.toggle("looking", on);
        for (const [link, line] of drawn) line.classList.toggle("near", on && (link.from === each.id || link.to === each.id));
      };
      box.addEventListener("pointerenter", near(true));
      box.addEventListener("pointerleave", near(false));
      box.addEventListener("focus", near(true));
      box.addEventListener("blur", near(false));
      svg.append(box);
    }
    canvas.replaceChildren(svg);
  };

  const start = () => {
    edges = JSON.parse(document.getElementById("edges").textContent);
    readAddress();
    form.addEventListener("change", () => {
      writeAddress();
      draw();
    });
    draw();
  };
  start();
})();
