// What every page does: colours, keyboard, copying, opening lines.
(() => {
  "use strict";
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => {
    one("[data-said]").textContent = text;
  };
  document.addEventListener("signalbox:say", (event) => say(event.detail));

  // Colours: the system's, light, dark.
  const schemes = ["system", "light", "dark"];
  const scheme = () => root.dataset.scheme || "system";
  const nameScheme = () => {
    const name = scheme();
    one("[data-scheme-name]").textContent = name[0].toUpperCase() + name.slice(1);
  };
  const chooseScheme = (name) => {
    if (name === "system") delete root.dataset.scheme;
    else root.dataset.scheme = name;
    try {
      if (name === "system") localStorage.removeItem("signalbox-scheme");
      else localStorage.setItem("signalbox-scheme", name);
    } catch {
      // Storage may be forbidden: the choice then ends with the page.
    }
    nameScheme();
    document.dispatchEvent(new CustomEvent("schemechange"));
  };
  nameScheme();
  one("[data-scheme-toggle]").addEventListener("click", () => {
    chooseScheme(schemes[(schemes.indexOf(scheme()) + 1) % schemes.length]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new CustomEvent("schemechange"));
  });

  // Lines that open. htmx fetches what is inside, and again as long as it did not come; this shows and hides it.
  const toggle = (button, open) => {
    const inside = document.getElementById(button.getAttribute("aria-controls"));
    button.setAttribute("aria-expanded", String(open));
    inside.hidden = !open;
    if (open && !one(".tree", inside)) htmx.trigger(button, "fetch");
  };
  const missed = (event) => {
    const { target } = event.detail;
    if (!target?.matches("[data-inside]") || one(".tree", target)) return;
    const note = document.createElement("p");
    note.className = "nothing bad";
    note.textContent = "The server did not answer. Close and open the line to ask again.";
    target.replaceChildren(note);
  };
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(name, missed);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-twist]");
    if (button) toggle(button, button.getAttribute("aria-expanded") !== "true");
  });

  // Copying.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say("Copied");
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) return;
    const source = button.dataset.copyFrom;
    copy(source ? document.getElementById(source).textContent : button.dataset.copy).then(() => {
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 1200);
    });
  });

  // What scrolls sideways can be reached by keyboard, as long as it does.
  const sideways = new ResizeObserver((entries) => {
    for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  });
  const watch = (within) => {
    for (const wide of all(".wide", within)) sideways.observe(wide);
  };
  watch(document);
  document.addEventListener("htmx:afterSettle", (event) => watch(event.target));

  // Filters: empty fields stay out of the address.
  document.addEventListener("htmx:configRequest", (event) => {
    const given = event.detail.parameters;
    for (const name of Object.keys(given)) if (given[name] === "") delete given[name];
  });
  for (const form of all("form.filter")) {
    form.addEventListener("submit", () => {
      for (const field of all("[name]", form)) field.disabled = field.value === "";
    });
  }

  // Keyboard.
  const help = one("dialog.keys");
  one("[data-help]").addEventListener("click", () => help.showModal());
  const lines = () => all("[data-line]").filter((line) => line.offsetParent !== null);
  const step = (by) => {
    const list = lines();
    if (!list.length) return;
    const here = list.indexOf(document.activeElement?.closest("[data-line]"));
    const next = list[here < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(here + by, 0), list.length - 1)];
    const target = one("a.what, a.fall-link, a.step-when, a", next) || next;
    target.focus();
    target.scrollIntoView({ block: "nearest" });
  };
  const actions = {
    j: () => step(1),
    k: () => step(-1),
    o: () => one("[data-twist]", document.activeElement?.closest("[data-line]") || document.createElement("i"))?.click(),
    p: () => one("[data-pause]")?.click(),
    f: () => one("[data-filters]")?.click(),
    "/": () => one("#text")?.focus(),
    "?": () => help.showModal(),
  };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const field = event.target.closest("input, select, textarea");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (Date.now() - going < 1200) {
      going = 0;
      const link = one(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) {
        event.preventDefault();
        link.click();
      }
      return;
    }
    if (event.key === "g") going = Date.now();
    else if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
})();
