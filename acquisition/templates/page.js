// What the page does by itself: pictures, the surface that turns, charts, events. It asks its own server only.
const rilievo = (() => {
  const $ = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const narrow = () => innerWidth <= 700;
  const address = (run, number, what) => `/frame/${encodeURIComponent(run)}/${number}/${what}`;
  // What is asked for again and again is asked for once at a time; the last wish counts.
  const latest = (work) => {
    let busy = false, wish = null;
    const next = async (...given) => {
      wish = given;
      if (busy) return;
      busy = true;
      while (wish) { const now = wish; wish = null; try { await work(...now); } catch (error) { console.warn(error); } }
      busy = false;
    };
    return next;
  };

  function frame(run, number, names, caption) {
    const grid = $("segments");
    if (!grid) return;
    if (grid.dataset.names !== names.join("|")) {
      grid.dataset.names = names.join("|");
      grid.style.setProperty("--columns", names.length === 1 ? 1 : names.length <= 4 ? 2 : 3);
      grid.replaceChildren(...names.map((name) => {
        const figure = document.createElement("figure"), picture = document.createElement("img"), words = document.createElement("figcaption");
        picture.alt = `segment ${name}`; words.textContent = name;
        figure.append(picture, words);
        return figure;
      }));
    }
    grid.querySelectorAll("img").forEach((picture, index) => {
      picture.dataset.frame = number;
      picture.src = address(run, number, `segment/${encodeURIComponent(names[index])}.png`);
    });
    $("frame-caption").textContent = caption;
  }

  let viewer = null, shown = null, stretch = 50;
  const surface = latest(async (run, number) => {
    const canvas = $("surface");
    if (!canvas) return;
    const answer = await fetch(address(run, number, "surface.json"));
    if (!answer.ok) return;
    const made = new Viewer(canvas, await answer.json());
    if (viewer) { made.angle = viewer.angle; made.tilt = viewer.tilt; }
    made.slide(stretch);
    viewer = made;
    $("no-surface").classList.add("hidden");
    viewer.draw();
    canvas.dataset.frame = number;
    tell();
  });
  const tell = () => {
    if (!viewer) return;
    const sides = viewer.scene.sides.map((side) => Number((side / 1000).toPrecision(3)));
    $("surface-note").textContent = `${sides[0]} × ${sides[1]} µm, heights × ${Number(viewer.stretch.toPrecision(2))}`;
  };
  function shape(run, number, caption) {
    const picture = $("heights");
    if (!picture) return;
    picture.classList.remove("hidden");
    $("no-heights").classList.add("hidden");
    picture.dataset.frame = number;
    picture.src = address(run, number, "heights.png");
    $("heights-caption").textContent = caption;
    shown = [run, number];
    if (visible.has("surface")) surface(run, number);
  }
  const nudge = (turn, tilt, taller) => {
    if (!viewer) return;
    viewer.angle += turn;
    viewer.tilt = Math.max(0.15, Math.min(1.5, viewer.tilt + tilt));
    if (taller) { stretch = Math.max(0, Math.min(100, stretch + taller)); viewer.slide(stretch); tell(); }
    viewer.draw();
  };

  const visible = new Set();
  let plotly = null, wanted = null, drawn = null;
  const library = () => plotly ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "/static/plotly.min.js"; script.onload = done; script.onerror = failed;
    document.head.append(script);
  });
  const strokes = {solid: "━━", dashdot: "━ ·", longdash: "━ ━", longdashdot: "━ ━ ·"};
  const layout = (height) => ({
    height, margin: {l: narrow() ? 44 : 58, r: narrow() ? 8 : 14, t: 26, b: 30}, showlegend: false, dragmode: narrow() ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x unified", annotations: [],
    font: {family: 'system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif', size: 11.5, color: colour("soft")},
    hoverlabel: {bgcolor: colour("head"), bordercolor: colour("faint"), font: {color: colour("ink")}},
    xaxis: {type: "date", gridcolor: colour("faint"), linecolor: colour("faint"), tickformat: "%H:%M\n%-d %b", hoverformat: "%H:%M:%S UTC", nticks: narrow() ? 4 : 9},
  });
  const axis = (domain, more) => ({domain, gridcolor: colour("faint"), zerolinecolor: colour("faint"), automargin: false, nticks: 5, fixedrange: true, ...more});
  const heading = (text, top) => ({text, x: 0, y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false, font: {size: 12.5, color: colour("ink")}});
  const settings = {displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset"};
  const places = (count) => Array.from({length: count}, (_, index) => {
    const gap = 0.1, high = (1 - gap * (count - 1)) / count, top = 1 - index * (high + gap);
    return [Math.max(0, top - high), top];
  });
  // The box has the height of the drawing, which plotly forgets when the window changes its size.
  const draw = (id, traces, made) => {
    $(id).style.height = `${made.height}px`;
    return Plotly.react($(id), traces, made, settings);
  };
  const moments = (start, seconds) => seconds.map((second) => (start + second) * 1000);

  function night(body) {
    const panels = body.panels, spots = places(panels.length), traces = [], made = layout(panels.length * (narrow() ? 165 : 175) + 50);
    panels.forEach((panel, index) => {
      const name = index ? `y${index + 1}` : "y";
      made[index ? `yaxis${index + 1}` : "yaxis"] = axis(spots[index], {type: panel.log ? "log" : "linear", exponentformat: "power", rangemode: panel.log ? "normal" : "tozero"});
      let words = `<b>${panel.title}</b>, ${panel.unit}`;
      panel.lines.forEach((line) => {
        const paint = colour(line.style);
        words += `   <span style="color:${paint}">${strokes[line.dash]} ${line.label}</span>`;
        if (line.asked) traces.push({x: moments(body.start, line.asked.x), y: line.asked.y, yaxis: name, mode: "lines", name: `${line.label}, asked`,
          line: {color: paint, width: 1.4, dash: "dot", shape: "hv"}, hovertemplate: `%{y:.4g} ${panel.unit}`});
        traces.push({x: moments(body.start, line.x), y: line.y, yaxis: name, mode: "lines", name: line.label, connectgaps: false,
          line: {color: paint, width: 1.8, dash: line.dash}, hovertemplate: `%{y:.4g} ${panel.unit}`});
      });
      if (index === 0) words += "   ┈┈ asked for";
      made.annotations.push(heading(words, spots[index][1]));
    });
    made.xaxis.anchor = panels.length > 1 ? `y${panels.length}` : "y";
    return draw("chart-night", traces, made);
  }
  function figures(body) {
    const spots = places(body.figures.length), traces = [], made = layout(body.figures.length * (narrow() ? 165 : 175) + 50);
    body.figures.forEach((figure, index) => {
      const name = index ? `y${index + 1}` : "y", paint = colour(index ? "c1" : "c0");
      made[index ? `yaxis${index + 1}` : "yaxis"] = axis(spots[index], figure.unit === "%" ? {range: [-4, 104]} : {rangemode: "tozero"});
      const points = (part, open) => ({x: moments(body.start, part.x), y: part.y, yaxis: name, mode: "markers", name: open ? "cannot be told" : "estimate ± σ", customdata: part.frame,
        marker: {color: paint, size: open ? 5 : 6, symbol: open ? "circle-open" : index ? "square" : "circle", opacity: open ? 0.5 : 1},
        error_y: {type: "data", array: part.sigma.map((one) => one ?? 0), color: paint, thickness: 1.1, width: 0},
        hovertemplate: `%{y:.4g} ${figure.unit} (frame %{customdata})`});
      traces.push(points(figure.told, false));
      if (figure.untold.x.length) traces.push(points(figure.untold, true));
      made.annotations.push(heading(`<b>${figure.title}</b>, ${figure.unit}   <span style="color:${paint}">${index ? "■" : "●"} estimate ± σ</span>`, spots[index][1]));
    });
    made.xaxis.anchor = body.figures.length > 1 ? `y${body.figures.length}` : "y";
    return draw("chart-figures", traces, made);
  }
  const charts = latest(async (version) => {
    wanted = version;
    if (document.hidden || !$("chart-night") || !(visible.has("chart-night") || visible.has("chart-figures"))) return;
    const answer = await fetch(`/curves.json?version=${version}`);
    if (!answer.ok) return;
    const body = await answer.json();
    await library();
    if (!$("chart-night")) return;
    for (const [id, make, parts] of [["chart-night", night, body.panels], ["chart-figures", figures, body.figures]]) {
      if (!parts.length || !visible.has(id)) continue;
      $(id).querySelector(".none")?.remove();
      await make(body);
    }
    drawn = version;
    $("chart-night").dataset.version = version;
  });

  function events(rows) {
    const body = document.querySelector("#events tbody"), box = $("event-box");
    if (!body) return;
    for (const row of rows) {
      if (body.querySelector(`[data-number="${row[0]}"]`)) continue;
      const line = document.createElement("tr");
      line.dataset.number = row[0];
      row.forEach((text, index) => {
        const cell = document.createElement("td");
        if (index === 2) { const mark = document.createElement("span"); mark.className = `state ${text}`; mark.textContent = {error: "✕ error", warning: "⚠ warning"}[text] ?? text; cell.append(mark); } else cell.textContent = text;
        line.append(cell);
      });
      body.prepend(line);
    }
    while (body.rows.length > 200) body.rows[body.rows.length - 1].remove();
    if (box && !box.matches(":hover, :focus")) box.scrollTop = 0;
  }

  function gutter(problems) {
    const area = $("recipe"), lines = $("recipe-lines");
    if (!area || !lines) return;
    if (problems) area.dataset.problems = problems.join(",");
    const wrong = new Set((area.dataset.problems || "").split(",").filter(Boolean).map(Number));
    lines.replaceChildren(...area.value.split("\n").flatMap((_, index) => {
      const row = document.createElement(wrong.has(index + 1) ? "b" : "span");
      row.textContent = wrong.has(index + 1) ? `✕ ${index + 1}\n` : `${index + 1}\n`;
      return [row];
    }));
    lines.scrollTop = area.scrollTop;
  }
  function jump(line, column) {
    const area = $("recipe"), before = area.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    area.focus();
    area.setSelectionRange(before + column - 1, before + column - 1);
    area.scrollTop = Math.max(0, (line - 6) * 21);
  }
  function theme(name) {
    const chosen = name ?? (document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("rilievo-theme", chosen); } catch { /* kept for this page only */ }
    if (wanted !== null) charts(wanted);
  }

  function begin() {
    const canvas = $("surface");
    if (canvas && !canvas.dataset.ready) {
      canvas.dataset.ready = "yes";
      let held = null;
      canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
      canvas.addEventListener("pointermove", (event) => {
        if (!held) return;
        nudge((event.clientX - held[0]) * 0.008, (event.clientY - held[1]) * 0.006, 0);
        held = [event.clientX, event.clientY];
      });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
      canvas.addEventListener("keydown", (event) => {
        const step = {ArrowLeft: [-0.1, 0, 0], ArrowRight: [0.1, 0, 0], ArrowUp: [0, -0.08, 0], ArrowDown: [0, 0.08, 0], "+": [0, 0, 5], "-": [0, 0, -5]}[event.key];
        if (!step) return;
        event.preventDefault();
        nudge(...step);
      });
    }
    const watcher = new IntersectionObserver((seen) => {
      for (const one of seen) {
        if (one.isIntersecting) visible.add(one.target.id); else visible.delete(one.target.id);
        if (!one.isIntersecting) continue;
        if (one.target.id === "surface" && shown) surface(...shown);
        if (one.target.id.startsWith("chart") && wanted !== null) charts(wanted);
      }
    }, {rootMargin: "200px"});
    for (const id of ["surface", "chart-night", "chart-figures"]) if ($(id)) watcher.observe($(id));
    document.addEventListener("visibilitychange", () => { if (!document.hidden && wanted !== null && wanted !== drawn) charts(wanted); });
    const area = $("recipe");
    if (area) {
      area.addEventListener("input", () => gutter());
      area.addEventListener("scroll", () => { $("recipe-lines").scrollTop = area.scrollTop; });
      gutter();
    }
  }
  return {frame, shape, charts, events, gutter, jump, theme, begin, nudge};
})();
