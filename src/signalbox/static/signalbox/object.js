// The slider over an object's history: each stop is a version, whose link htmx follows.
(() => {
  "use strict";
  const slider = document.querySelector("[data-slider]");
  const stops = slider ? slider.dataset.versions.split(",") : [];
  let soon = 0;
  const mark = (id) => {
    for (const step of document.querySelectorAll("[data-version]")) step.classList.toggle("chosen", step.dataset.version === id);
  };
  document.addEventListener("htmx:afterSwap", () => {
    if (soon) return;
    const id = document.getElementById("state").dataset.at;
    mark(id);
    if (stops.includes(id)) slider.value = stops.indexOf(id);
  });
  if (!slider) return;
  // What is only passed on the way need not be fetched.
  slider.addEventListener("input", () => {
    const step = document.querySelector(`[data-version="${CSS.escape(stops[slider.value])}"]`);
    slider.setAttribute("aria-valuetext", step.querySelector("time").textContent);
    mark(stops[slider.value]);
    clearTimeout(soon);
    soon = setTimeout(() => {
      soon = 0;
      htmx.trigger(step.querySelector("a.step-when"), "click");
    }, 120);
  });
})();
