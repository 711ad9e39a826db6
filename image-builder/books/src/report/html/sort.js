"use strict";
// Makes each column's name a button that sorts by it; what has no figure stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const names = table.tHead.rows[table.tHead.rows.length - 1].cells;
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!names[column].classList.contains("n")) return cell.textContent;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  [...names].forEach((name, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    name.append(button);
    button.addEventListener("click", () => {
      const was = name.getAttribute("aria-sort");
      const descends = was ? was === "ascending" : name.classList.contains("n");
      for (const other of names) other.removeAttribute("aria-sort");
      name.setAttribute("aria-sort", descends ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort(([one], [other]) => {
        if (one === null || other === null) return (one === null) - (other === null);
        const order = typeof one === "number" ? one - other : one.localeCompare(other);
        return descends ? -order : order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}
