// Each .film shows the frame of its strip that was chosen last. Mouse, finger, arrow keys.
"use strict";
for (const film of document.querySelectorAll(".film")) {
  const strip = film.querySelector(".strip");
  const frames = [...strip.querySelectorAll("button")];
  const large = film.querySelector(".frame img");
  const show = (frame) => {
    for (const one of frames) one.setAttribute("aria-pressed", String(one === frame));
    large.src = frame.querySelector("img").src;
    large.alt = frame.dataset.caption;
    film.querySelector("figcaption").textContent = frame.dataset.caption;
  };
  frames.forEach((frame, place) => {
    frame.addEventListener("click", () => show(frame));
    frame.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: frames.length - 1 }[event.key];
      if (frames[to] === undefined) return;
      frames[to].focus();
      show(frames[to]);
      event.preventDefault();
    });
  });
  strip.scrollLeft = strip.scrollWidth; // the last one is shown
}
