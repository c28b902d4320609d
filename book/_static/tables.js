/* Long tables are sorted by their headings and searched. Without JavaScript, and in print, they are plain tables. */
(() => {
  const LONG = 12; // lines: a longer table is looked up, not read from top to bottom
  const NUMBER = /^[+−-]?\d[\d.]*(e[+-]?\d+)?/; // how a number begins a cell, its interval or unit behind it

  /* What a cell is sorted by: its first number, if every cell of the column that is not empty begins with one. */
  function order(rows, column) {
    const texts = rows.map((row) => row.cells[column].textContent.trim());
    const found = texts.map((text) => text.match(NUMBER));
    if (texts.some((text, line) => text && !found[line])) return;
    rows.forEach((row, line) => {
      row.cells[column].dataset.order = found[line] ? found[line][0].replace("−", "-") : "";
    });
  }

  function enhance(table) {
    const rows = [...table.tBodies[0].rows];
    rows[0].querySelectorAll("td, th").forEach((_, column) => order(rows, column));
    const made = new DataTable(table, {
      autoWidth: false,
      info: false,
      language: { search: "Search this table", zeroRecords: "No line has these words." },
      layout: { topStart: "search", topEnd: null, bottomStart: null, bottomEnd: null },
      order: [],
      paging: false,
    });
    const room = document.createElement("div"); // scrolls, so that the head stays in sight
    room.className = "long-table";
    room.tabIndex = 0;
    room.setAttribute("role", "region");
    room.setAttribute("aria-label", "Table");
    table.replaceWith(room);
    room.append(table);
    return made;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const long = [...document.querySelectorAll("article table")].filter(
      (table) => table.tHead && table.tBodies[0]?.rows.length > LONG && !table.tBodies[0].querySelector("[rowspan], [colspan]"),
    );
    if (!long.length) return;
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root ?? "./"}_static/datatables/dataTables.min.js`;
    script.onload = () => long.forEach(enhance);
    document.head.append(script);
  });
})();
