// Suggestions for the filter: an editable combobox with a list box, after the ARIA Authoring Practices.
(() => {
  "use strict";
  const MAX_OPTIONS = 12;
  const input = document.getElementById("q");
  const list = document.getElementById("q-options");
  const search = input.closest("[data-suggestions]");
  const announce = (text) => document.dispatchEvent(new CustomEvent("signalbox:announce", { detail: text }));
  let tokens = null;
  let loading = null;
  let options = [];
  let active = -1;

  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");

  const load = () => {
    loading ??= fetch(search.dataset.suggestions, { headers: { "HX-Request": "true" }, redirect: "error" })
      .then((response) => (response.ok ? response.json() : Promise.reject(new Error(response.statusText))))
      .then((found) => { tokens = found.tokens; })
      .catch(() => { loading = null; });
    return loading;
  };

  // The part of the text that is completed: the token at the cursor, up to the cursor.
  const currentPart = () => {
    const cursor = input.selectionStart;
    let start = 0;
    let quoted = false;
    for (let index = 0; index < cursor; index += 1) {
      const character = input.value[index];
      if (character === "\\" && quoted) index += 1;
      else if (character === '"') quoted = !quoted;
      else if (!quoted && /\s/.test(character)) start = index + 1;
    }
    let end = cursor;
    while (!quoted && end < input.value.length && !/\s/.test(input.value[end])) end += 1;
    return { start, end, text: input.value.slice(start, cursor) };
  };
  // As Python's str.isspace(), which knows some more characters.
  const quote = (value) => (/[\s\x1c-\x1f\x85",]/.test(value)
    ? `"${value.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n").replace(/\r/g, "\\r")}"` : value);
  const score = (value, label, typed) => {
    const wanted = typed.toLowerCase();
    const place = value.toLowerCase().indexOf(wanted);
    if (place >= 0) return place;
    return label.toLowerCase().includes(wanted) ? 1000 : -1;
  };
  const best = (candidates, typed) => candidates
    .map((candidate) => ({ ...candidate, score: score(candidate.value, candidate.label, typed) }))
    .filter((candidate) => candidate.score >= 0)
    .sort((one, other) => one.score - other.score)
    .slice(0, MAX_OPTIONS);

  const findOptions = () => {
    const part = currentPart();
    const sign = part.text.startsWith("-") ? "-" : "";
    const match = /^-?([a-z]+)(:|>=|<=|>|<)(.*)$/i.exec(part.text);
    const aliases = { sender: "model", after: "since", before: "until" };
    const token = match && tokens.find(({ name }) => name === (aliases[match[1].toLowerCase()] ?? match[1].toLowerCase()));
    if (!token) {
      const typed = part.text.slice(sign.length);
      if (match || typed.includes('"')) return [];
      const named = tokens.filter(({ name }) => name.startsWith(typed.toLowerCase()));
      return named.map(({ name, operator, description }) => ({
        text: `${sign}${name}${operator}`, label: description, part, isName: true,
      }));
    }
    const values = match[3].split(",");
    const typed = values.pop().replace(/"/g, "");
    const before = part.text.slice(0, part.text.length - match[3].length) + values.map((value) => `${value},`).join("");
    const candidates = token.values.map(([value, label]) => ({ value, label }));
    return best(candidates, typed)
      .filter(({ value }) => value !== typed)
      .map(({ value, label }) => ({ text: `${before}${quote(value)}`, label, part, isName: false }));
  };

  const setActive = (index) => {
    active = index;
    [...list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === index)));
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", list.children[index].id);
      list.children[index].scrollIntoView({ block: "nearest" });
    }
  };
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    setActive(-1);
  };
  const show = () => {
    options = tokens && document.activeElement === input ? findOptions() : [];
    list.replaceChildren(...options.map(({ text, label }, index) => {
      const item = document.createElement("li");
      item.id = `q-option-${index}`;
      item.className = "option";
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      const value = document.createElement("span");
      value.className = "mono";
      value.textContent = text;
      const note = document.createElement("span");
      note.className = "dim";
      note.textContent = label;
      item.append(value, note);
      return item;
    }));
    if (!options.length) return close();
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    setActive(-1);
    announce(signalboxText(options.length === 1 ? "suggestions-one" : "suggestions-other", { number: options.length }));
  };
  const choose = (index) => {
    const { text, part, isName } = options[index];
    const rest = input.value.slice(part.end);
    const added = isName ? text : `${text} `;
    input.value = input.value.slice(0, part.start) + added + (isName ? rest : rest.replace(/^\s+/, ""));
    const cursor = part.start + added.length;
    input.setSelectionRange(cursor, cursor);
    close();
    if (isName) show();
    else input.dispatchEvent(new Event("input", { bubbles: true }));
  };

  input.addEventListener("focus", () => load());
  input.addEventListener("input", (event) => {
    if (event.isTrusted) load().then(show);
  });
  input.addEventListener("click", () => load().then(show));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) load().then(show);
      else {
        const step = event.key === "ArrowDown" ? 1 : -1;
        const next = active + step;
        setActive(next >= options.length ? -1 : next < -1 ? options.length - 1 : next);
      }
    } else if ((event.key === "Enter" || (event.key === "Tab" && !event.shiftKey)) && !list.hidden && active >= 0) {
      event.preventDefault();
      choose(active);
    } else if (event.key === "Enter") close();
    else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  });
  // Before the field loses focus.
  list.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const item = event.target.closest("[role=option]");
    if (item) choose([...list.children].indexOf(item));
  });

  // An incomplete token such as "signal:" is not searched while it is typed.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { requestConfig } = event.detail;
    if (requestConfig?.triggeringEvent?.target === input && /(^|\s)-?[a-z]+(:|>=|<=|>|<)$/i.test(input.value)) event.preventDefault();
  });
  // The error is that of the text which was sent last.
  document.addEventListener("htmx:afterSettle", () => {
    const isInvalid = document.getElementById("filter-error").textContent.trim() !== "";
    if (isInvalid) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  });
})();
