// Each .slider shows the reference left of its handle and the artifact right of it. Mouse, finger, arrow keys.
"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const move = (share) => {
    const at = Math.round(Math.min(1, Math.max(0, share)) * 100);
    slider.style.setProperty("--at", at + "%");
    slider.setAttribute("aria-valuenow", String(at));
    slider.setAttribute("aria-valuetext", at + " % reference");
  };
  const follow = (event) => {
    const box = slider.getBoundingClientRect();
    move((event.clientX - box.left) / box.width);
  };
  let held = false;
  slider.addEventListener("pointerdown", (event) => {
    held = true;
    slider.setPointerCapture(event.pointerId); // the pointer may leave the picture while its button is down
    slider.focus({ preventScroll: true });
    follow(event);
    event.preventDefault();
  });
  window.addEventListener("pointermove", (event) => {
    if (held) follow(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    window.addEventListener(end, () => {
      held = false;
    });
  }
  slider.addEventListener("keydown", (event) => {
    const now = Number(slider.getAttribute("aria-valuenow"));
    const to = { ArrowLeft: now - 5, ArrowDown: now - 5, ArrowRight: now + 5, ArrowUp: now + 5, Home: 0, End: 100 };
    if (!(event.key in to)) return;
    move(to[event.key] / 100);
    event.preventDefault();
  });
  const figure = slider.closest("figure");
  for (const choice of figure.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => {
      slider.querySelector(".right").src = figure.querySelector("[data-view=" + choice.value + "]").src;
      figure.querySelector(".right-name").textContent = choice.dataset.name;
    });
  }
}
