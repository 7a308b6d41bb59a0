// Before anything is painted: the colours that this browser was told to use.
(() => {
  "use strict";
  let chosen = null;
  try {
    chosen = localStorage.getItem("signalbox-scheme");
  } catch {
    // Storage may be forbidden; the system's choice then holds.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.scheme = chosen;
})();
