// Set the stored colour scheme before the first paint.
(() => {
  "use strict";
  let storedScheme = null;
  try {
    storedScheme = localStorage.getItem("signalbox-scheme");
  } catch {
    // Storage may be blocked: the system's scheme is used.
  }
  if (storedScheme === "light" || storedScheme === "dark") document.documentElement.dataset.scheme = storedScheme;
})();
