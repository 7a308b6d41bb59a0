// The slider over an object's history: each stop is a version, whose link htmx follows.
(() => {
  "use strict";
  const slider = document.querySelector("[data-slider]");
  const mark = (id) => {
    for (const step of document.querySelectorAll("[data-version]")) step.classList.toggle("chosen", step.dataset.version === id);
  };
  const stops = slider ? slider.dataset.versions.split(",") : [];
  document.addEventListener("htmx:afterSwap", () => {
    const id = document.getElementById("state").dataset.at;
    mark(id);
    if (slider && stops.includes(id)) slider.value = stops.indexOf(id);
  });
  if (!slider) return;
  slider.addEventListener("input", () => {
    const step = document.querySelector(`[data-version="${CSS.escape(stops[slider.value])}"]`);
    slider.setAttribute("aria-valuetext", step.querySelector("time").textContent);
    htmx.trigger(step.querySelector("a.step-when"), "click");
  });
})();
