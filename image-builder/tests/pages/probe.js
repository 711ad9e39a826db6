"use strict";
// Looks at a page of the report from inside, and tells the frame around it.
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push(`${event.violatedDirective} ${event.blockedURI}`));

const columnsOf = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells].map((cell) => cell.textContent.trim());
const byCaption = (caption) =>
  [...document.querySelectorAll("table")].find((table) => table.caption && table.caption.textContent.trim() === caption);

function rowsOf(table) {
  if (!table) return [];
  const columns = columnsOf(table);
  return [...table.tBodies[0].rows].map((row) =>
    Object.fromEntries(columns.map((column, at) => [column, row.cells[at].dataset.v ?? row.cells[at].textContent])),
  );
}

function sortedBy(table, column) {
  const at = columnsOf(table).indexOf(column);
  const name = table.tHead.rows[table.tHead.rows.length - 1].cells[at];
  const values = [...table.tBodies[0].rows].map((row) => {
    const value = row.cells[at].dataset.v;
    return value === undefined ? row.cells[at].textContent : Number(value);
  });
  return { by: `${column} ${name.getAttribute("aria-sort")}`, values };
}

// A button that has the focus is clicked by Enter and by the space bar; the browser sees to that.
function press(table, column) {
  const at = columnsOf(table).indexOf(column);
  const button = table.tHead.rows[table.tHead.rows.length - 1].cells[at].querySelector("button");
  button.focus();
  if (document.activeElement !== button) errors.push(`the button ${column} takes no focus`);
  button.click();
  return sortedBy(table, column);
}

function luminance([red, green, blue]) {
  const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
}

const channels = (color) => color.match(/[\d.]+/g).map(Number);

function background(element) {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
}

// The elements whose own text is fainter than WCAG's AA allows.
function faint() {
  const found = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const ownText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!ownText || element.closest("script, style, svg")) continue;
    const [one, other] = [channels(getComputedStyle(element).color), background(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...found];
}

// The exits that the bars of each histogram say they stand for.
function drawn() {
  const charts = [...document.querySelectorAll("svg.histogram")];
  const exits = (bar) => Number(bar.textContent.match(/: (\d+) exits/)[1]);
  return Object.fromEntries(
    charts.map((chart) => [
      chart.closest("figure").querySelector("b").textContent,
      [...chart.querySelectorAll("rect title")].map(exits).reduce((sum, count) => sum + count, 0),
    ]),
  );
}

// The labels of the bars of each lane: the tick at which a step begins, and its exits.
function lanes() {
  const step = (bar) => bar.textContent.match(/from tick (\d+): (\d+) exits/).slice(1).map(Number);
  return Object.fromEntries(
    [...document.querySelectorAll("svg.lane")].map((lane) => [
      lane.previousElementSibling.textContent,
      [...lane.querySelectorAll("rect title")].map(step),
    ]),
  );
}

// The rates over time: what each area and each line says it stands for, and its beginning, end and top in thousandths of the chart's
// width and hundredths of its height.
function rates() {
  const chart = document.querySelector("svg.levels");
  const number = (shape, name) => Number(shape.getAttribute(name));
  return chart && {
    areas: [...chart.querySelectorAll("rect")].map((rect) => [
      rect.textContent, number(rect, "x"), number(rect, "x") + number(rect, "width"), number(rect, "y"),
    ]),
    lines: [...chart.querySelectorAll("line.level")].map((line) => [
      line.textContent, number(line, "x1"), number(line, "x2"), number(line, "y1"),
    ]),
    scale: [...document.querySelectorAll(".scale span")].map((label) => label.textContent),
    legend: [...chart.closest("figure").querySelectorAll(".legend li")].map((item) => item.textContent),
  };
}

// The lines of marks in each chart, by their titles, at their places in thousandths.
function flags() {
  const place = (line) => [line.textContent, Number(line.getAttribute("x1"))];
  const charts = [...document.querySelectorAll("svg.levels, svg.lane")].map((chart) => [...chart.querySelectorAll("line.flag")].map(place));
  return charts;
}

// The names of marks: each with the distance of its nearer edge from its line, in pixels; and the pairs of names that overlap.
function names() {
  const found = { lines: [], overlapping: [], outside: 0 };
  for (const group of document.querySelectorAll(".flags")) {
    const frame = group.getBoundingClientRect();
    const boxes = [...group.querySelectorAll("span")].map((span) => [span.textContent, span.getBoundingClientRect()]);
    const lines = [...group.querySelectorAll("line")].map((line) => frame.left + (Number(line.getAttribute("x1")) / 1000) * frame.width);
    boxes.forEach(([name, box], at) => {
      found.lines.push([name, Math.round(Math.min(Math.abs(box.left - lines[at]), Math.abs(box.right - lines[at])))]);
      found.outside += box.left < frame.left - 1 || box.right > frame.right + 1;
      for (const [other, next] of boxes.slice(at + 1)) {
        const apart = box.right <= next.left || next.right <= box.left || box.bottom <= next.top || next.bottom <= box.top;
        if (!apart) found.overlapping.push(`${name} and ${other}`);
      }
    });
  }
  return found;
}

const isBad = (table) =>
  !table.caption || !table.tHead || [...table.tBodies[0].rows].some((row) => row.cells[0].tagName !== "TH" || row.cells[0].scope !== "row");

addEventListener("load", () => {
  const main = byCaption("Exit reasons");
  const rows = rowsOf(main);
  const sorted = [];
  if (main) {
    sorted.push(sortedBy(main, "time"));
    sorted.push(press(main, "samples"), press(main, "samples"), press(main, "exit reason"));
  }
  const tables = Object.fromEntries(
    [...document.querySelectorAll("table")].map((table) => [
      table.caption?.textContent.trim(),
      [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim())),
    ]),
  );
  const totals = Object.fromEntries([...document.querySelectorAll("[data-total]")].map((total) => [total.dataset.total, total.dataset.v]));
  setTimeout(() => {
    parent.postMessage(
      JSON.stringify({
        errors,
        rows,
        sorted,
        tables,
        totals,
        drawn: drawn(),
        lanes: lanes(),
        rates: rates(),
        flags: flags(),
        names: names(),
        figures: document.getElementById("figures").textContent,
        text: document.querySelector("main").textContent,
        resources: performance.getEntriesByType("resource").length,
        foreign: document.querySelectorAll("img, iframe, object, embed, script[src], link:not([rel=icon]), main script, main b b").length,
        uncaptioned: [...document.querySelectorAll("table")].filter(isBad).length,
        unlabelled: document.querySelectorAll("svg:not([aria-hidden=true]):not([role=img][aria-label])").length,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        faint: faint(),
        width: innerWidth,
        dark: matchMedia("(prefers-color-scheme: dark)").matches,
      }),
      "*",
    );
  }, 50);
});
