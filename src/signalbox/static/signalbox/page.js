// Behaviour of every page: colour scheme, keyboard, copy buttons, expandable rows.
(() => {
  "use strict";
  const root = document.documentElement;
  const queryOne = (selector, within = document) => within.querySelector(selector);
  const queryAll = (selector, within = document) => [...within.querySelectorAll(selector)];
  const announce = (text) => {
    queryOne("[data-announcement]").textContent = text;
  };
  document.addEventListener("signalbox:announce", (event) => announce(event.detail));

  // Texts in the language of the page, with values for the words in braces.
  const texts = JSON.parse(document.getElementById("texts").textContent);
  window.signalboxText = (name, values = {}) => texts[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

  // Colour scheme: system, light, dark.
  const schemes = ["system", "light", "dark"];
  const scheme = () => root.dataset.scheme || "system";
  const showSchemeName = () => {
    queryOne("[data-scheme-name]").textContent = signalboxText(`scheme-${scheme()}`);
  };
  const setScheme = (name) => {
    if (name === "system") delete root.dataset.scheme;
    else root.dataset.scheme = name;
    try {
      if (name === "system") localStorage.removeItem("signalbox-scheme");
      else localStorage.setItem("signalbox-scheme", name);
    } catch {
      // Storage may be blocked: the choice is then lost on reload.
    }
    showSchemeName();
    document.dispatchEvent(new CustomEvent("schemechange"));
  };
  showSchemeName();
  queryOne("[data-scheme-toggle]").addEventListener("click", () => {
    setScheme(schemes[(schemes.indexOf(scheme()) + 1) % schemes.length]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new CustomEvent("schemechange"));
  });

  // Expandable rows. htmx requests the content, and retries until it has loaded; this shows and hides it.
  const toggle = (button, open) => {
    const content = document.getElementById(button.getAttribute("aria-controls"));
    button.setAttribute("aria-expanded", String(open));
    content.hidden = !open;
    if (open && !queryOne(".tree", content)) htmx.trigger(button, "fetch");
  };
  const showLoadError = (event) => {
    const { target } = event.detail;
    if (!target?.matches("[data-events]") || queryOne(".tree", target)) return;
    const note = document.createElement("p");
    note.className = "empty-message bad";
    note.textContent = signalboxText("load-failed");
    target.replaceChildren(note);
  };
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(name, showLoadError);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-expand]");
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
    announce(signalboxText("copied"));
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

  // Horizontally scrollable elements are focusable while they overflow.
  const scrollObserver = new ResizeObserver((entries) => {
    for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  });
  const observeScrollable = (within) => {
    for (const element of queryAll(".scroll-x", within)) scrollObserver.observe(element);
  };
  observeScrollable(document);
  document.addEventListener("htmx:afterSettle", (event) => observeScrollable(event.target));

  // Empty filter fields are not added to the URL.
  document.addEventListener("htmx:configRequest", (event) => {
    const parameters = event.detail.parameters;
    for (const name of Object.keys(parameters)) if (parameters[name] === "") delete parameters[name];
  });
  for (const form of queryAll("form.filter")) {
    form.addEventListener("submit", () => {
      for (const field of queryAll("[name]", form)) field.disabled = field.value === "";
    });
  }

  // Keyboard.
  const help = queryOne("dialog.keys");
  queryOne("[data-help]").addEventListener("click", () => help.showModal());
  const visibleLines = () => queryAll("[data-line]").filter((line) => line.offsetParent !== null);
  const moveFocus = (by) => {
    const list = visibleLines();
    if (!list.length) return;
    const currentIndex = list.indexOf(document.activeElement?.closest("[data-line]"));
    const next = list[currentIndex < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(currentIndex + by, 0), list.length - 1)];
    const target = queryOne("a.trace-link, a.waterfall-link, a.version-link, a", next) || next;
    target.focus();
    target.scrollIntoView({ block: "nearest" });
  };
  const actions = {
    j: () => moveFocus(1),
    k: () => moveFocus(-1),
    o: () => queryOne("[data-expand]", document.activeElement?.closest("[data-line]") || document.createElement("i"))?.click(),
    p: () => queryOne("[data-pause]")?.click(),
    "/": () => queryOne("#q")?.focus(),
    "?": () => help.showModal(),
  };
  let shortcutStartedAt = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const field = event.target.closest("input, select, textarea");
    if (field) {
      if (event.key === "Escape" && field.getAttribute("aria-expanded") !== "true") field.blur();
      return;
    }
    if (Date.now() - shortcutStartedAt < 1200) {
      shortcutStartedAt = 0;
      const link = queryOne(`[data-shortcut="${CSS.escape(event.key)}"]`);
      if (link) {
        event.preventDefault();
        link.click();
      }
      return;
    }
    if (event.key === "g") shortcutStartedAt = Date.now();
    else if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
})();
