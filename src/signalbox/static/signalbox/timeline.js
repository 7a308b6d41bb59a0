// The live timeline: what is new is put in its place, or counted while it is paused; and what if nothing is answered.
(() => {
  "use strict";
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => document.dispatchEvent(new CustomEvent("signalbox:say", { detail: text }));

  // Filters: opened by a button, and open from the start where one is in force and there is room for both.
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
  const roomy = matchMedia("(min-width: 761px)").matches;
  if (roomy && all("select, input", fields).some((field) => field.value !== "")) showFields(true);

  // Ranges of time that one press asks for; a second press asks for all of it again.
  const ranges = all("[data-since]", fields);
  const [since, until] = ["since", "until"].map((name) => one(`[name=${name}]`, fields));
  const showRange = () => {
    for (const button of ranges) button.setAttribute("aria-pressed", String(button.dataset.since === since.value && !until.value));
  };
  for (const button of ranges) {
    button.addEventListener("click", () => {
      since.value = button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.since;
      until.value = "";
      since.dispatchEvent(new Event("change", { bubbles: true }));
    });
  }
  fields.addEventListener("change", showRange);

  // A search that is being typed is one step back, not one for each letter.
  document.addEventListener("htmx:beforeHistoryUpdate", (event) => {
    if (event.detail.target.id !== "found") return;
    const { history, requestConfig } = event.detail;
    const typed = requestConfig.triggeringEvent?.target.id === "text" && new URLSearchParams(location.search).has("text");
    if (typed || history.path === location.pathname + location.search) history.type = "replace";
  });

  // What the page says of itself: live, paused, lost (the server does not answer), out (it wants a login).
  const MOST = 400;
  const AT_ONCE = 100;
  const SLOWEST = 30_000;
  const pause = one("[data-pause]");
  const news = one("[data-news]");
  const out = one("[data-out]");
  let paused = false;
  let failures = 0;
  let notBefore = 0;
  let stopped = false;
  let counting = false;
  let reloading = false;
  let open = [];
  let waiting = { traces: 0, more: false };

  const labels = { live: "Live", paused: "Paused", lost: "Reconnecting…", out: "Logged out" };
  const show = () => {
    const state = stopped ? "out" : failures ? "lost" : paused ? "paused" : "live";
    const before = document.body.dataset.live;
    if (state === before) return;
    document.body.dataset.live = state;
    if (!pause) return;
    pause.hidden = stopped;
    out.hidden = !stopped;
    out.href = location.href;
    pause.setAttribute("aria-pressed", String(paused));
    one("[data-pause-label]").textContent = labels[state];
    if (before) say(labels[state]);
  };
  const look = () => {
    const position = one("#position");
    if (position) htmx.trigger(position, "look");
  };
  const showNews = (number, more = false) => {
    news.hidden = number === 0;
    const text = `${number}${more ? "+" : ""} new`;
    if (news.textContent !== text) news.textContent = text;
  };
  const forget = () => {
    waiting = { traces: 0, more: false };
    showNews(0);
  };
  // More is new than lines can say one by one: the list is fetched anew, and what was open in it is opened again.
  const reload = async () => {
    if (reloading) return;
    reloading = true;
    open = all("[data-twist][aria-expanded=true]").map((button) => button.id);
    try {
      await htmx.ajax("GET", location.pathname + location.search, { target: "#found", swap: "outerHTML" });
    } catch {
      // The next poll says again that the page is behind.
    }
    reloading = false;
  };
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target?.id !== "found") return;
    for (const id of open) document.getElementById(id)?.click();
    open = [];
  });
  document.addEventListener("behind", () => {
    if (!paused) reload();
  });

  // While it is paused the page asks for a number, and no more once that is as good as it gets.
  const count = async () => {
    if (counting || waiting.more) return;
    counting = true;
    const position = one("#position");
    try {
      const answer = await fetch(`${position.getAttribute("hx-get")}&count=1`, {
        headers: { "HX-Request": "true" },
        signal: AbortSignal.timeout(8000),
      });
      if (!answer.ok || answer.redirected) failed(answer.status, answer.url);
      else {
        const found = await answer.json();
        answered();
        if (paused && position.isConnected) {
          waiting = found;
          showNews(found.traces, found.more);
        }
      }
    } catch {
      failed(0, "");
    }
    counting = false;
  };
  const setPaused = (value) => {
    paused = value;
    show();
    if (paused) return;
    if (waiting.more || waiting.traces > AT_ONCE) reload();
    else look();
    forget();
  };
  show();
  if (!pause) return;

  pause.addEventListener("click", () => setPaused(!paused));
  news.addEventListener("click", () => {
    setPaused(false);
    one("#traces").scrollIntoView({ block: "nearest" });
    pause.focus();
  });

  const isPoll = (event) => event.detail.requestConfig?.elt?.id === "position";
  const refused = (status, address) => status === 401 || status === 403 || (address && new URL(address).pathname !== one("#position").dataset.at);
  const failed = (status, address) => {
    if (refused(status, address)) {
      stopped = true;
    } else {
      failures += 1;
      notBefore = Date.now() + Math.min(SLOWEST, 1000 * 2 ** failures);
    }
    show();
  };
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (isPoll(event)) failed(event.detail.xhr.status, event.detail.xhr.responseURL);
    });
  }
  const answered = () => {
    failures = notBefore = 0;
    stopped = false;
    show();
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!isPoll(event) || event.detail.requestConfig.triggeringEvent?.type === "look") return;
    const resting = document.hidden || stopped || Date.now() < notBefore;
    if (resting || paused) event.preventDefault();
    if (paused && !resting) count();
  });
  // Whoever comes back, or has a network again, need not wait; who logged in elsewhere finds the page live again.
  const again = () => {
    if (document.hidden || !(failures || stopped)) return;
    notBefore = 0;
    if (paused) count();
    else look();
  };
  document.addEventListener("visibilitychange", again);
  window.addEventListener("focus", again);
  window.addEventListener("online", again);

  // A line that is here already stays where it is, open or in focus as it was; the others come on top.
  const update = (line, newer) => {
    const button = one("[data-twist]", line);
    const inside = one("[data-inside]", line);
    const focused = document.activeElement === one("a.what", line);
    one(".unseen", button).textContent = one("[data-twist] .unseen", newer).textContent;
    while (button.nextSibling) button.nextSibling.remove();
    button.after(...[...one(".row", newer).children].slice(1));
    line.className = newer.className.replace("fresh", "").trim();
    if (focused) one("a.what", line).focus({ preventScroll: true });
    // What stands inside stays until what is there now has arrived.
    if (inside.hidden) inside.replaceChildren();
    else htmx.trigger(button, "fetch");
  };
  const trim = () => {
    const lines = all("[data-line]", one("#found"));
    if (lines.length <= MOST) return;
    for (const line of lines.slice(MOST)) line.remove();
    const rest = one("#more a.button");
    if (!rest) return;
    const address = new URL(rest.href);
    address.searchParams.set("before", lines[MOST - 1].dataset.last);
    rest.href = address.search;
    rest.setAttribute("hx-get", address.search);
    htmx.process(rest);
  };
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, requestConfig, target } = event.detail;
    if (target.id === "more") {
      const page = new DOMParser().parseFromString(event.detail.serverResponse, "text/html");
      for (const line of all("[data-line]", page)) if (document.getElementById(line.id)) line.remove();
      event.detail.serverResponse = page.body.innerHTML;
      return;
    }
    if (!isPoll(event)) return;
    if (xhr.status >= 400) return;
    const away = refused(xhr.status, xhr.responseURL);
    if (away) failed(xhr.status, xhr.responseURL);
    else answered();
    // An answer to what is not asked any more is left alone.
    if (away || paused || requestConfig.elt !== one("#position")) event.detail.shouldSwap = false;
    if (!event.detail.shouldSwap) return;
    const answer = new DOMParser().parseFromString(event.detail.serverResponse, "text/html");
    const lines = all("[data-line]", answer);
    for (const line of lines) {
      const known = document.getElementById(line.id);
      if (!known) continue;
      update(known, line);
      line.remove();
    }
    event.detail.serverResponse = answer.body.innerHTML;
    if (!lines.length) return;
    one("#more .empty")?.remove();
    document.dispatchEvent(new CustomEvent("signalbox:news"));
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target?.id === "traces") trim();
    if (event.detail.target?.id === "found") forget();
  });
})();
