// Each .slider shows one picture left of its handle and another right of it. Mouse, finger, arrow keys.
"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const left = slider.querySelector(".left");
  const right = slider.querySelector(".right");
  const move = (share) => {
    const at = Math.round(Math.min(1, Math.max(0, share)) * 100);
    slider.style.setProperty("--at", at + "%");
    slider.setAttribute("aria-valuenow", String(at));
    slider.setAttribute("aria-valuetext", at + " % " + left.alt);
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
  const first = right.src; // the other pictures are stored beside it, this one is not there twice
  for (const choice of figure.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => {
      right.src = figure.querySelector("[data-view=" + choice.value + "]")?.src ?? first;
      right.alt = choice.dataset.name;
      figure.querySelector(".right-name").textContent = choice.dataset.name;
    });
  }
}
