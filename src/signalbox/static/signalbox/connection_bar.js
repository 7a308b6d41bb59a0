// The bar that says that the page gets no new data. It is visible wherever the page is scrolled.
(() => {
  "use strict";
  const bar = document.querySelector("[data-connection]");
  const label = document.querySelector("[data-connection-text]");
  let since = null;
  const show = (state) => {
    const visible = state === "reconnecting" || state === "logged-out";
    since = visible ? since || new Date() : null;
    bar.hidden = !visible;
    bar.dataset.state = visible ? state : "";
    if (!visible) return;
    const time = since.toLocaleTimeString("en-GB");
    label.textContent = state === "reconnecting" ? `${label.dataset.reconnecting} ${label.dataset.since.replace("%s", time)}` : label.dataset.loggedOutText;
  };

  // The timeline decides on its own, and has the state in an attribute.
  new MutationObserver(() => show(document.body.dataset.live)).observe(document.body, { attributeFilter: ["data-live"] });

  // Other pages poll one element.
  const isPoll = (event) => event.detail.elt?.matches?.("[data-polls]") || event.detail.requestConfig?.elt?.matches?.("[data-polls]");
  const announce = (text) => document.dispatchEvent(new CustomEvent("signalbox:announce", { detail: text }));
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (!isPoll(event)) return;
      const wasHidden = bar.hidden;
      show([401, 403].includes(event.detail.xhr?.status) ? "logged-out" : "reconnecting");
      if (wasHidden) announce(label.textContent);
    });
  }
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (isPoll(event) && event.detail.xhr.status < 400) show("");
  });
})();
