// Before anything is painted: the colours that this browser was told to use.
(() => {
  "use strict";
  let storedScheme = null;
  try {
    storedScheme = localStorage.getItem("signalbox-scheme");
  } catch {
    // Storage may be forbidden; the system's choice then holds.
  }
  if (storedScheme === "light" || storedScheme === "dark") document.documentElement.dataset.scheme = storedScheme;
})();
