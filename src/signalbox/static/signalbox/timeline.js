// The live timeline: inserts new rows, counts them while paused, and reconnects after errors.
(() => {
  "use strict";
  const queryOne = (selector, within = document) => within.querySelector(selector);
  const queryAll = (selector, within = document) => [...within.querySelectorAll(selector)];
  const announce = (text) => document.dispatchEvent(new CustomEvent("signalbox:announce", { detail: text }));

  // The menu of formats closes when a format was chosen, with Escape, and when something else is clicked.
  const exportMenu = queryOne("[data-export]");
  if (exportMenu) {
    const close = () => { exportMenu.open = false; };
    exportMenu.addEventListener("submit", () => setTimeout(close));
    exportMenu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !exportMenu.open) return;
      event.stopPropagation();
      close();
      queryOne("summary", exportMenu).focus();
    });
    document.addEventListener("click", (event) => {
      if (!exportMenu.contains(event.target)) close();
    });
  }

  // A typed search adds one entry to the browser's history, not one for each letter.
  document.addEventListener("htmx:beforeHistoryUpdate", (event) => {
    if (event.detail.target.id !== "results") return;
    const { history, requestConfig } = event.detail;
    const typed = requestConfig.triggeringEvent?.target.id === "q" && new URLSearchParams(location.search).has("q");
    if (typed || history.path === location.pathname + location.search) history.type = "replace";
  });

  // The page's state: live, paused, reconnecting (the server does not respond) or logged out.
  const MAX_LINES = 400;
  const MAX_PREPENDED = 100;
  const MAX_RETRY_DELAY_MS = 30_000;
  const pause = queryOne("[data-pause]");
  const newCount = queryOne("[data-new-count]");
  const loggedOutLink = queryOne("[data-logged-out]");
  let paused = false;
  let failures = 0;
  let retryAt = 0;
  let loggedOut = false;
  let counting = false;
  let reloading = false;
  let openButtonIds = [];
  let pending = { trace_count: 0, has_more: false };

  const updateState = () => {
    const state = loggedOut ? "logged-out" : failures ? "reconnecting" : paused ? "paused" : "live";
    const before = document.body.dataset.live;
    if (state === before) return;
    document.body.dataset.live = state;
    if (!pause) return;
    pause.hidden = loggedOut;
    loggedOutLink.hidden = !loggedOut;
    loggedOutLink.href = location.href;
    pause.setAttribute("aria-pressed", String(paused));
    queryOne("[data-pause-label]").textContent = signalboxText(state);
    if (before) announce(signalboxText(state));
  };
  const poll = () => {
    const position = queryOne("#position");
    if (position) htmx.trigger(position, "poll");
  };
  const showNewCount = (number, more = false) => {
    newCount.hidden = number === 0;
    const text = signalboxText("new", { number: `${number}${more ? "+" : ""}` });
    if (newCount.textContent !== text) newCount.textContent = text;
  };
  const clearPending = () => {
    pending = { trace_count: 0, has_more: false };
    showNewCount(0);
  };
  // Too many new rows for one update: reload the list, and expand the same rows again.
  const reload = async () => {
    if (reloading) return;
    reloading = true;
    openButtonIds = queryAll("[data-expand][aria-expanded=true]").map((button) => button.id);
    try {
      await htmx.ajax("GET", location.pathname + location.search, { target: "#results", swap: "outerHTML" });
    } catch {
      // The next poll reports again that the page is behind.
    }
    reloading = false;
  };
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target?.id !== "results") return;
    for (const id of openButtonIds) document.getElementById(id)?.click();
    openButtonIds = [];
  });
  document.addEventListener("signalbox:reload", () => {
    if (!paused) reload();
  });

  // While paused, request only the number of new traces, until it has reached its maximum.
  const countNew = async () => {
    if (counting || pending.has_more) return;
    counting = true;
    const position = queryOne("#position");
    try {
      const response = await fetch(`${position.getAttribute("hx-get")}&count=1`, {
        headers: { "HX-Request": "true" },
        signal: AbortSignal.timeout(8000),
      });
      if (!response.ok || response.redirected) handleFailure(response.status, response.url);
      else {
        const found = await response.json();
        handleSuccess();
        if (paused && position.isConnected) {
          pending = found;
          showNewCount(found.trace_count, found.has_more);
        }
      }
    } catch {
      handleFailure(0, "");
    }
    counting = false;
  };
  const setPaused = (value) => {
    paused = value;
    updateState();
    if (paused) return;
    if (pending.has_more || pending.trace_count > MAX_PREPENDED) reload();
    else poll();
    clearPending();
  };
  updateState();
  if (!pause) return;

  pause.addEventListener("click", () => setPaused(!paused));
  newCount.addEventListener("click", () => {
    setPaused(false);
    queryOne("#traces").scrollIntoView({ block: "nearest" });
    pause.focus();
  });

  const isPoll = (event) => event.detail.requestConfig?.elt?.id === "position";
  const isRefused = (status, address) => status === 401 || status === 403 || (address && new URL(address).pathname !== queryOne("#position").dataset.endpoint);
  const handleFailure = (status, address) => {
    if (isRefused(status, address)) {
      loggedOut = true;
    } else {
      failures += 1;
      retryAt = Date.now() + Math.min(MAX_RETRY_DELAY_MS, 1000 * 2 ** failures);
    }
    updateState();
  };
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (isPoll(event)) handleFailure(event.detail.xhr.status, event.detail.xhr.responseURL);
    });
  }
  const handleSuccess = () => {
    failures = retryAt = 0;
    loggedOut = false;
    updateState();
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!isPoll(event) || event.detail.requestConfig.triggeringEvent?.type === "poll") return;
    const isIdle = document.hidden || loggedOut || Date.now() < retryAt;
    if (isIdle || paused) event.preventDefault();
    if (paused && !isIdle) countNew();
  });
  // Poll at once when the page becomes visible or the network returns, also after a login in another tab.
  const resume = () => {
    if (document.hidden || !(failures || loggedOut)) return;
    retryAt = 0;
    if (paused) countNew();
    else poll();
  };
  document.addEventListener("visibilitychange", resume);
  window.addEventListener("focus", resume);
  window.addEventListener("online", resume);

  // Existing rows keep their place, focus and expanded content. New rows are added at the top.
  const updateLine = (line, newer) => {
    const button = queryOne("[data-expand]", line);
    const content = queryOne("[data-events]", line);
    const focused = document.activeElement === queryOne("a.trace-link", line);
    queryOne(".visually-hidden", button).textContent = queryOne("[data-expand] .visually-hidden", newer).textContent;
    while (button.nextSibling) button.nextSibling.remove();
    button.after(...[...queryOne(".row", newer).children].slice(1));
    line.className = newer.className.replace("is-new", "").trim();
    if (focused) queryOne("a.trace-link", line).focus({ preventScroll: true });
    // Keep the old content until the new content has loaded.
    if (content.hidden) content.replaceChildren();
    else htmx.trigger(button, "fetch");
  };
  const trimLines = () => {
    const lines = queryAll("[data-line]", queryOne("#results"));
    if (lines.length <= MAX_LINES) return;
    // Lines are in the order of their times, and pages in that of the keys: the next page begins with the newest of these.
    const trimmed = lines.slice(MAX_LINES);
    const before = Math.max(...trimmed.map((line) => Number(line.dataset.lastEvent))) + 1;
    for (const line of trimmed) line.remove();
    const nextLink = queryOne("#next-page a.button");
    if (!nextLink) return;
    const address = new URL(nextLink.href);
    address.searchParams.set("before", String(before));
    nextLink.href = address.search;
    nextLink.setAttribute("hx-get", address.search);
    htmx.process(nextLink);
  };
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, requestConfig, target } = event.detail;
    if (target.id === "next-page") {
      const page = new DOMParser().parseFromString(event.detail.serverResponse, "text/html");
      for (const line of queryAll("[data-line]", page)) if (document.getElementById(line.id)) line.remove();
      event.detail.serverResponse = page.body.innerHTML;
      return;
    }
    if (!isPoll(event)) return;
    if (xhr.status >= 400) return;
    const isAccessRefused = isRefused(xhr.status, xhr.responseURL);
    if (isAccessRefused) handleFailure(xhr.status, xhr.responseURL);
    else handleSuccess();
    // Ignore responses to outdated requests.
    if (isAccessRefused || paused || requestConfig.elt !== queryOne("#position")) event.detail.shouldSwap = false;
    if (!event.detail.shouldSwap) return;
    const response = new DOMParser().parseFromString(event.detail.serverResponse, "text/html");
    const lines = queryAll("[data-line]", response);
    for (const line of lines) {
      const existing = document.getElementById(line.id);
      if (!existing) continue;
      updateLine(existing, line);
      line.remove();
    }
    for (const removed of queryAll("[data-removed]", response)) {
      document.getElementById(`t-${removed.dataset.removed}`)?.remove();
      removed.remove();
    }
    event.detail.serverResponse = response.body.innerHTML;
    if (!lines.length) return;
    queryOne("#next-page .empty")?.remove();
    document.dispatchEvent(new CustomEvent("signalbox:new-events"));
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id === "traces") trimLines();
    if (event.detail.target?.id === "results") clearPending();
  });
})();
