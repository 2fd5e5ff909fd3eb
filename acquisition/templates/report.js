// Figures under the pointer, and what moves the surface (surface.js). It asks the network for nothing.

const read = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
};

// Linear interpolation in a sorted series; null outside it.
function at(times, values, moment) {
  let low = 0, high = times.length - 1;
  if (high < 0 || moment < times[0] || moment > times[high]) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (times[middle] <= moment) low = middle; else high = middle;
  }
  const span = times[high] - times[low];
  return span > 0 ? values[low] + (values[high] - values[low]) * (moment - times[low]) / span : values[high];
}

function cursor(svg) {
  const data = read("data-" + svg.dataset.chart);
  if (!data) return;
  const tip = svg.parentElement.querySelector(".tip");
  const line = svg.querySelector(".cursor");
  const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
  const hide = () => { tip.hidden = true; line.setAttribute("visibility", "hidden"); };
  const row = (label, value) => {
    const span = document.createElement("span");
    const name = document.createElement("i"), figure = document.createElement("b");
    name.textContent = label; figure.textContent = value; name.style.fontStyle = "normal";
    span.append(name, figure);
    return span;
  };
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    if (x < left || x > right) return hide();
    const moment = data.low + (x - left) / (right - left) * (data.high - data.low);
    line.setAttribute("x1", x); line.setAttribute("x2", x); line.setAttribute("visibility", "visible");
    const title = document.createElement("b");
    title.textContent = new Date((data.start + moment) * 1000).toISOString().slice(11, 19) + " UTC";
    const parts = [title];
    const step = data.steps.find((one) => one[0] <= moment && moment <= one[1]);
    if (step) parts.push(row(step[2], ""));
    for (const one of data.lines) {
      const value = at(one.times, one.values, moment);
      if (value !== null) parts.push(row(one.label, Number(value.toPrecision(4)) + "\u00a0" + one.unit));
    }
    const near = data.marks.reduce((best, one) =>
      Math.abs(one[0] - moment) < Math.abs(best[0] - moment) ? one : best, [Infinity, ""]);
    if (Math.abs(near[0] - moment) * (right - left) / (data.high - data.low) < 4) parts.push(row(near[1], ""));
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const host = svg.parentElement.getBoundingClientRect();
    const place = event.clientX - host.left;
    const width = tip.offsetWidth;
    tip.style.left = Math.max(4, place + 16 + width < host.width ? place + 16 : place - 16 - width) + "px";
    tip.style.top = Math.min(Math.max(8, event.clientY - host.top - 30), host.height - tip.offsetHeight - 8) + "px";
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
document.querySelectorAll("svg.chart").forEach(cursor);

(function start() {
  const scene = read("scene"), canvas = document.getElementById("surface");
  if (!scene || !canvas) return;
  const viewer = new Viewer(canvas, scene);
  const buttons = [...document.querySelectorAll("[data-surface]")];
  const note = document.getElementById("surface-note"), stretched = document.getElementById("stretched");
  const play = document.getElementById("play"), slider = document.getElementById("stretch");
  let turning = !matchMedia("(prefers-reduced-motion: reduce)").matches, visible = false, playing = 0, last = 0;
  const micrometres = (one) => Number((one.width / 1000).toPrecision(3));
  const tell = () => {
    const one = scene.surfaces[viewer.chosen];
    const side = Number((micrometres(one) * one.rows / one.columns).toPrecision(3));
    note.textContent = `${one.label} · ${micrometres(one)} × ${side} µm · drag to turn`;
    stretched.textContent = "× " + Number(viewer.stretch.toPrecision(2));
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === viewer.chosen)));
  };
  const choose = (index) => { viewer.chosen = index; tell(); viewer.draw(); };
  const stop = () => { clearInterval(playing); playing = 0; play.textContent = "Play the night"; };
  buttons.forEach((button, index) => button.addEventListener("click", () => { stop(); choose(index); }));
  play.addEventListener("click", () => {
    if (playing) return stop();
    play.textContent = "Stop";
    playing = setInterval(() => choose((viewer.chosen + 1) % scene.surfaces.length), 900);
  });
  if (buttons.length < 2) play.hidden = true;
  slider.addEventListener("input", () => { viewer.slide(Number(slider.value)); tell(); viewer.draw(); });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY]; turning = false; canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    viewer.angle += (event.clientX - held[0]) * 0.008;
    viewer.tilt = Math.max(0.15, Math.min(1.5, viewer.tilt + (event.clientY - held[1]) * 0.006));
    held = [event.clientX, event.clientY];
    viewer.draw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  const turn = (now) => {
    if (!visible || !turning) return;
    if (now - last > 40) {
      viewer.angle += last ? Math.min(0.03, (now - last) * 0.00022) : 0;
      last = now;
      viewer.draw();
    }
    requestAnimationFrame(turn);
  };
  new IntersectionObserver((seen) => {
    visible = seen[0].isIntersecting;
    last = 0;
    if (visible) requestAnimationFrame(turn);
  }).observe(canvas);
  choose(scene.surfaces.reduce((best, one, index) =>
    one.high - one.low > scene.surfaces[best].high - scene.surfaces[best].low ? index : best, 0));
})();

// Paper has nothing to click on.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
