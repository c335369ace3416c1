"use strict";

// The first number of a cell, for sorting; null where there is none ("missing", "-").
function numberOf(text) {
  const found = text.trim().match(/^[<>[(]?\s*([+\-−]?\d[\d,]*\.?\d*(?:e[+\-]?\d+)?)/i);
  if (!found) return null;
  const value = Number(found[1].replace(/,/g, "").replace("−", "-"));
  return Number.isNaN(value) ? null : value;
}

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).map((row) => {
    const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    return { row, text, number: numberOf(text) };
  });
  const empty = (entry) => entry.number === null && (entry.text === "" || entry.text === "-" || entry.text === "missing");
  const known = rows.filter((entry) => !empty(entry));
  const numeric = known.length > 0 && known.every((entry) => entry.number !== null);
  known.sort((a, b) => direction * (numeric ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true })));
  for (const entry of [...known, ...rows.filter(empty)]) body.append(entry.row); // what is missing stays last
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (!table.tHead || !table.tBodies.length) continue;
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.scope = "col";
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending ? -1 : 1);
    });
  });
}

const dialog = document.getElementById("large");
const image = document.getElementById("large-image");
let scale = 1;

function resize(factor) {
  scale = Math.min(8, Math.max(0.25, scale * factor));
  image.width = Math.round(scale * dialog.querySelector(".scroll").clientWidth);
}

for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const small = button.querySelector("img");
    image.src = small.src;
    image.alt = small.alt;
    document.getElementById("large-title").textContent = button.closest("figure").querySelector("h3").textContent;
    dialog.showModal();
    scale = 1;
    resize(1);
  });
}
document.getElementById("larger").addEventListener("click", () => resize(1.5));
document.getElementById("smaller").addEventListener("click", () => resize(1 / 1.5));
document.getElementById("close").addEventListener("click", () => dialog.close());
image.addEventListener("click", () => resize(1.5));
