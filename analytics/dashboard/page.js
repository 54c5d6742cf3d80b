// Draws the charts, asks pages again without a flicker, and lets the keyboard do all that the mouse can. No framework:
// pages come whole from the server, and what has an id is put in the place of what had it.

const root = document.documentElement;
const still = matchMedia("(prefers-reduced-motion: reduce)");

// -- charts

function property(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

// A text that begins with "--" is the name of a colour of the style sheet.
function coloured(value) {
  if (typeof value === "string") return value.startsWith("--") ? property(value) : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
  }
  return value;
}

function layout(own) {
  const ink = property("--soft"), grid = property("--grid"), line = property("--line");
  const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, zerolinewidth: 1, automargin: true, fixedrange: true };
  return {
    margin: { l: 44, r: 12, t: 8, b: 28 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 11.5, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x unified",
    hoverlabel: { bgcolor: property("--card"), bordercolor: line, font: { color: property("--ink"), size: 12 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: ink } },
    ...own,
    xaxis: { ...axis, showgrid: false, nticks: 7, tickangle: 0, automargin: false, ...own.xaxis },
    yaxis: { ...axis, nticks: 5, ...own.yaxis },
  };
}

function draw(place) {
  if (!window.Plotly || !place.dataset.figure) return;
  const figure = coloured(JSON.parse(place.dataset.figure));
  const config = { displayModeBar: false, responsive: true, showTips: false };
  window.Plotly.react(place, figure.data, layout(figure.layout), config);
}

function drawAll(within = document) {
  for (const place of within.querySelectorAll(".chart")) draw(place);
}

// -- putting new parts of a page in the place of old ones

const sources = new WeakMap();

// A chart that stays gets its new data and is not drawn anew, so that nothing flickers and the pointer keeps its place.
function put(old, fresh) {
  const charts = new Map([...fresh.querySelectorAll(".chart")].map((one) => [one.id, one]));
  const kept = [...old.querySelectorAll(".chart")];
  const same = kept.length > 0 && kept.length === charts.size && kept.every((one) => charts.has(one.id));
  if (same && old.id === "curves") {
    for (const one of kept) {
      const next = charts.get(one.id);
      if (one.dataset.figure === next.dataset.figure) continue;
      one.dataset.figure = next.dataset.figure;
      one.setAttribute("aria-label", next.getAttribute("aria-label"));
      one.parentElement.querySelector("figcaption").replaceWith(next.parentElement.querySelector("figcaption"));
      draw(one);
    }
    return;
  }
  const source = fresh.innerHTML;
  if (sources.get(old) === source) return;
  for (const one of kept) window.Plotly?.purge(one);
  old.replaceChildren(...document.importNode(fresh, true).childNodes);
  sources.set(old, source);
  drawAll(old);
}

async function ask(address, signal) {
  const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin", signal });
  if (answer.redirected && new URL(answer.url).pathname === "/login") location.reload();
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function refresh() {
  if (document.hidden || document.activeElement?.closest("[data-live] form")) return;
  try {
    const page = await ask(location.href);
    for (const old of document.querySelectorAll("[data-live][id]")) {
      const fresh = page.getElementById(old.id);
      if (fresh && !old.contains(document.activeElement)) put(old, fresh);
    }
    const badge = page.getElementById("tabs");
    if (badge) put(document.getElementById("tabs"), badge);
    root.classList.remove("away");
  } catch (error) {
    if (error instanceof TypeError) root.classList.add("away"); // the process is away: what is shown stays
    else throw error;
  }
}

let asking = null;
async function swap(address, ids, push = true) {
  asking?.abort();
  asking = new AbortController();
  const running = document.getElementById("running");
  if (running) running.textContent = "running…";
  try {
    const page = await ask(address, asking.signal);
    for (const id of ids) {
      const old = document.getElementById(id), fresh = page.getElementById(id);
      if (old && fresh) put(old, fresh);
    }
    if (push) history.pushState({}, "", address);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (running) running.textContent = "the warehouse did not answer";
    if (!(error instanceof TypeError)) throw error;
    return;
  }
  if (running) running.textContent = "";
}

// -- the heat map: one cell is in the way of Tab, the arrows move it

function near(cell, key) {
  const row = cell.closest("tr"), cells = [...row.querySelectorAll("a.cell")];
  const rows = [...row.parentElement.children], at = rows.indexOf(row), column = cell.parentElement.cellIndex;
  const sideways = { ArrowLeft: -1, ArrowRight: 1, Home: -cells.length, End: cells.length }[key];
  if (sideways !== undefined) {
    return cells[Math.min(Math.max(cells.indexOf(cell) + sideways, 0), cells.length - 1)];
  }
  const step = key === "ArrowUp" ? -1 : 1;
  for (let next = at + step; next >= 0 && next < rows.length; next += step) {
    const found = rows[next].cells[column]?.querySelector("a.cell");
    if (found) return found;
  }
  return cell;
}

function focusCell(cell) {
  for (const one of document.querySelectorAll('#heat a.cell[tabindex="0"]')) one.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
  cell.scrollIntoView({ block: "nearest", inline: "nearest", behavior: still.matches ? "auto" : "smooth" });
}

async function openCell(cell) {
  for (const one of document.querySelectorAll('#heat a.cell[aria-current]')) one.removeAttribute("aria-current");
  cell.setAttribute("aria-current", "true");
  focusCell(cell);
  await swap(cell.href, ["detail"]);
}

// -- events

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const link = event.target.closest("a");
  if (!link) return;
  if (link.matches("#heat a.cell")) {
    event.preventDefault();
    openCell(link);
  } else if (link.dataset.swap) {
    event.preventDefault();
    swap(link.href, [link.dataset.swap]);
  } else if (link.dataset.query !== undefined) {
    event.preventDefault();
    const query = document.getElementById("query");
    query.value = link.dataset.query;
    query.rows = Math.min(24, Math.max(8, query.value.split("\n").length + 1));
    query.form.requestSubmit();
  }
});

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-send]")) event.target.form.requestSubmit();
});

document.addEventListener("submit", (event) => {
  if (event.target.id !== "ask") return;
  event.preventDefault();
  const query = new URLSearchParams({ query: document.getElementById("query").value });
  swap(`/console?${query}`, ["result"]);
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.target.id === "query" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.target.form.requestSubmit();
    return;
  }
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const tabs = [...document.querySelectorAll("#tabs a")];
  if (/^[1-9]$/.test(event.key) && tabs[event.key - 1]) {
    tabs[event.key - 1].click();
  } else if (event.key === "/") {
    event.preventDefault();
    const query = document.getElementById("query");
    if (query) query.focus();
    else location.assign("/console#query");
  } else if (event.target.matches("#heat a.cell") && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    focusCell(near(event.target, event.key));
  } else if (event.target.matches("#tabs a") && /^Arrow(Left|Right)$/.test(event.key)) {
    event.preventDefault();
    const step = event.key === "ArrowLeft" ? tabs.length - 1 : 1;
    tabs[(tabs.indexOf(event.target) + step) % tabs.length].focus();
  }
});

addEventListener("popstate", () => location.reload());

// -- light and dark: a cookie, so that the next page comes in its colours at once

function show(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  document.querySelector('meta[name="color-scheme"]').content = theme || "light dark";
  document.cookie = `penstock_theme=${theme}; Path=/; SameSite=Lax; Max-Age=${theme ? 31536000 : 0}`;
  named();
  drawAll();
}

function named() {
  const button = document.getElementById("theme");
  if (button) button.textContent = { light: "Light", dark: "Dark" }[root.dataset.theme] || "Auto";
}

document.getElementById("theme")?.addEventListener("click", () => {
  const order = ["", "light", "dark"];
  show(order[(order.indexOf(root.dataset.theme || "") + 1) % order.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());

named();
drawAll();
if (location.hash === "#query") document.getElementById("query")?.focus();
const heat = document.querySelector('#heat a.cell[aria-current="true"]');
if (heat) {
  const map = heat.closest(".scroll");
  map.scrollLeft += heat.getBoundingClientRect().left - map.getBoundingClientRect().left - map.clientWidth / 2;
} else {
  for (const map of document.querySelectorAll(".heats")) map.scrollLeft = map.scrollWidth;
}
const seconds = Number(document.body.dataset.refresh || 0);
if (seconds) setInterval(refresh, seconds * 1000);
