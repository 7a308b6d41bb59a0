// The list of deliveries: the selection, its number, and what is kept when the list is refreshed.
(() => {
  "use strict";
  const queryAll = (selector) => [...document.querySelectorAll(selector)];
  const bar = document.querySelector("[data-bulk]");
  const number = document.querySelector("[data-selected-count]");
  const emptyText = number?.textContent;

  // The message about an action is not repeated by a reload.
  if (document.querySelector("[data-result]")) {
    const address = new URL(location.href);
    address.searchParams.delete("result");
    history.replaceState(history.state, "", address);
  }

  // A typed search adds one entry to the browser's history, not one for each letter.
  document.addEventListener("htmx:beforeHistoryUpdate", (event) => {
    if (event.detail.target.id !== "queue") return;
    const { history: update, requestConfig } = event.detail;
    const typed = requestConfig.triggeringEvent?.target.id === "q" && new URLSearchParams(location.search).get("q");
    if (typed || update.path === location.pathname + location.search) update.type = "replace";
  });

  const countSelected = () => {
    const all = document.querySelector("[data-select-all]");
    if (all?.checked) return Number(all.dataset.count);
    const groups = queryAll("[data-select-group]:checked");
    const whole = new Set(groups.map((box) => box.value));
    const rows = queryAll("[data-select-row]:checked").filter((box) => !whole.has(box.dataset.group));
    return groups.reduce((sum, box) => sum + Number(box.dataset.count), 0) + rows.length;
  };
  const show = () => {
    if (!bar) return;
    const count = countSelected();
    bar.classList.toggle("active", count > 0);
    const text = count === 0 ? emptyText : count === 1 ? number.dataset.one : number.dataset.many.replace("%s", count.toLocaleString("en").replaceAll(",", "\u202f"));
    if (number.textContent !== text) number.textContent = text;
  };
  // A group contains its rows: both have the same state.
  document.addEventListener("change", (event) => {
    const box = event.target;
    const all = document.querySelector("[data-select-all]");
    if (box.matches("[data-select-all]")) {
      for (const other of queryAll("[data-select-group], [data-select-row]")) other.checked = box.checked;
    } else if (box.matches("[data-select-group]")) {
      for (const row of queryAll(`[data-select-row][data-group="${CSS.escape(box.value)}"]`)) row.checked = box.checked;
      if (!box.checked && all) all.checked = false;
    } else if (box.matches("[data-select-row]")) {
      const group = box.dataset.group && document.getElementById(`select-${box.dataset.group}`);
      if (!box.checked && group) group.checked = false;
      if (!box.checked && all) all.checked = false;
    } else return;
    show();
  });

  // A refresh replaces the list. The selection and open details are kept; htmx keeps the focus by its id.
  let kept = [];
  let opened = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target?.id !== "queue") return;
    kept = queryAll("#queue input[type=checkbox]:checked").map((box) => box.id);
    opened = queryAll("#queue details[data-keep-open][open]").map((details) => details.id);
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id !== "queue") return;
    for (const id of kept) {
      const box = document.getElementById(id);
      if (box) box.checked = true;
    }
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    // The rows of a selected group that was opened, or that are new in it.
    const selected = document.querySelector("[data-select-all]:checked") ? "[data-select-group]" : "[data-select-group]:checked";
    for (const group of queryAll(selected)) {
      group.checked = true;
      for (const row of queryAll(`[data-select-row][data-group="${CSS.escape(group.value)}"]`)) row.checked = true;
    }
    show();
  });
  window.addEventListener("pageshow", show);
  show();
})();
