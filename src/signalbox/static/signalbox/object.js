// The slider over an object's history: each position is a version, and htmx requests its link.
(() => {
  "use strict";
  const slider = document.querySelector("[data-slider]");
  const versionIds = slider ? slider.dataset.versions.split(",") : [];
  let clickTimer = 0;
  const selectVersion = (id) => {
    for (const version of document.querySelectorAll("[data-version]")) version.classList.toggle("selected", version.dataset.version === id);
  };
  document.addEventListener("htmx:afterSwap", () => {
    if (clickTimer) return;
    const id = document.getElementById("state").dataset.event;
    selectVersion(id);
    if (versionIds.includes(id)) slider.value = versionIds.indexOf(id);
  });
  if (!slider) return;
  // Positions that the slider only passes are not requested.
  slider.addEventListener("input", () => {
    const version = document.querySelector(`[data-version="${CSS.escape(versionIds[slider.value])}"]`);
    slider.setAttribute("aria-valuetext", version.querySelector("time").textContent);
    selectVersion(versionIds[slider.value]);
    clearTimeout(clickTimer);
    clickTimer = setTimeout(() => {
      clickTimer = 0;
      htmx.trigger(version.querySelector("a.version-link"), "click");
    }, 120);
  });
})();
