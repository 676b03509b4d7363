"use strict";

// Copy buttons, which the page shows only where this script runs.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {  // no permission, or a browser that has no clipboard for files
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

for (const button of document.querySelectorAll("button.copy")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = (await copy(button.dataset.text)) ? "Copied" : "Copying is not allowed here";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// The table of all candidates.
const source = document.getElementById("candidate-data");
if (source) showCandidates(JSON.parse(source.textContent));

function showCandidates(rows) {
  const PAGE = 50;
  const section = document.getElementById("candidates");
  const headers = [...section.querySelectorAll("th")];
  const numeric = headers.map((th) => th.classList.contains("number"));
  const body = section.querySelector("tbody");
  const filter = section.querySelector("input");
  const status = section.querySelector("select");
  const note = section.querySelector("[role=status]");
  const [previous, next] = section.querySelectorAll(".pages button");
  const RULE = 1, STATUS = 3, REASON = 6;
  const texts = rows.map((row) => `${row[0]} ${row[RULE]} ${row[REASON] ?? ""}`.toLowerCase());
  let order = rows.map((_, i) => i), shown = order, first = 0;

  function compare(a, b, column, sign) {
    const x = rows[a][column], y = rows[b][column];
    if (x === y) return a - b;
    if (x === null) return 1;  // what is missing comes last in both directions
    if (y === null) return -1;
    return x < y ? -sign : sign;
  }

  function sortBy(column) {
    const before = headers[column].getAttribute("aria-sort");
    const direction = before ? (before === "ascending" ? "descending" : "ascending")
      : column === 2 ? "descending" : "ascending";  // of rewards the best first
    headers.forEach((th) => th.removeAttribute("aria-sort"));
    headers[column].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    order = order.sort((a, b) => compare(a, b, column, sign));
    select();
  }

  function select() {
    const words = filter.value.toLowerCase().trim();
    shown = order.filter((i) => (!status.value || rows[i][STATUS] === status.value)
      && (!words || texts[i].includes(words)));
    first = 0;
    draw();
  }

  function written(value, column) {
    if (value === null) return "";
    if (column === 2) {
      const plain = value === 0 || (Math.abs(value) >= 0.01 && Math.abs(value) < 100);
      return (plain ? value.toFixed(4) : value.toPrecision(4)).replace("-", "\u2212");
    }
    if (column === 4) return value >= 1e-3 ? String(value) : value.toExponential().replace(".0", "");
    return String(value);
  }

  function draw() {
    body.replaceChildren(...shown.slice(first, first + PAGE).map((i) => {
      const line = document.createElement("tr");
      rows[i].forEach((value, column) => {
        const cell = document.createElement("td");
        const holder = column === RULE ? document.createElement("code") : cell;
        holder.textContent = written(value, column);
        if (holder !== cell) cell.append(holder);
        if (numeric[column]) cell.className = "number";
        line.append(cell);
      });
      return line;
    }));
    const last = Math.min(first + PAGE, shown.length);
    note.textContent = shown.length
      ? `${first + 1} to ${last} of ${shown.length.toLocaleString("en")}` : "no candidate matches";
    previous.disabled = first === 0;
    next.disabled = last === shown.length;
  }

  headers.forEach((th, column) => {
    th.querySelector("button").addEventListener("click", () => sortBy(column));
  });
  filter.addEventListener("input", select);
  status.addEventListener("change", select);
  previous.addEventListener("click", () => { first -= PAGE; draw(); });
  next.addEventListener("click", () => { first += PAGE; draw(); });
  section.querySelector("#candidate-table").hidden = false;
  draw();
}
