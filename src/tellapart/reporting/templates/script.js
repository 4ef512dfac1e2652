"use strict";
// Sorting and the toggles of the confusion matrix. Without this script the page says the same, in its first order.

// A table.sortable sorts its rows by a column: th > button sorts by the cells' data-v, or else by their text.
function cellValue(row, place) {
  const cell = row.cells[place];
  const raw = cell.dataset.v ?? cell.textContent.trim();
  const number = raw === "" ? NaN : Number(raw);
  return Number.isNaN(number) ? raw : number;
}

function compare(a, b) {
  const missing = (a === "") - (b === "");
  if (missing) return missing;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, head, isAscending) {
  const place = head.cellIndex;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const keys = new Map(rows.map((row, at) => [row, [cellValue(row, place), at]]));
  rows.sort((one, other) => {
    const [a, i] = keys.get(one), [b, j] = keys.get(other);
    // What is not defined stays at the end, whichever way the rest is turned.
    if (a === "" || b === "") return compare(a, b) || i - j;
    return (isAscending ? compare(a, b) : compare(b, a)) || i - j;
  });
  body.append(...rows);
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  if (table.classList.contains("matrix")) orderColumns(table, rows);
}

// The columns of the matrix follow its rows, so that what is right stays on the diagonal.
function orderColumns(table, rows) {
  const order = rows.map((row) => row.dataset.k);
  for (const row of [table.tHead.rows[table.tHead.rows.length - 1], ...rows]) {
    const cells = new Map();
    for (const cell of row.cells) if (cell.dataset.k !== undefined) cells.set(cell.dataset.k, cell);
    row.append(...order.filter((key) => cells.has(key)).map((key) => cells.get(key)));
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th[aria-sort]");
    if (!head || !event.target.closest("button")) return;
    const now = head.getAttribute("aria-sort");
    const first = head.dataset.first === "descending";
    sortBy(table, head, now === "none" ? !first : now === "descending");
  });
}

// Counts or shares of the row in the cells of the matrix.
for (const group of document.querySelectorAll("[data-cells]")) {
  const table = document.getElementById(group.dataset.cells);
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    for (const row of table.tBodies[0].rows) {
      const total = Number(row.dataset.n);
      for (const cell of row.cells) {
        if (cell.dataset.k === undefined || cell.tagName !== "TD") continue;
        cell.dataset.c ??= cell.textContent;
        const count = Number(cell.dataset.c.replaceAll(",", ""));
        const share = total ? (100 * count) / total : 0;
        const percent = count === 0 ? "0" : share < 0.1 ? "<0.1" : share.toFixed(share < 10 ? 1 : 0);
        cell.textContent = button.value === "row" ? percent : cell.dataset.c;
      }
    }
  });
}

// The part that is being read, in the navigation.
if ("IntersectionObserver" in window) {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
}

// On paper nothing can be unfolded.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open]):not(.numbers)")) {
    details.open = true;
    details.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) {
    details.open = false;
    delete details.dataset.printed;
  }
});
