// Tables of class "sortable". A click on a heading sorts, a second one turns the order round, a third one restores it.
// The field above keeps rows that hold every word; "S/N > 8" and "mag < 14" compare the numbers of a column.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const text = (row, column) => row.cells[column].textContent.trim();
  const number = (words) => parseFloat(words.replaceAll("−", "-").replaceAll(",", ""));
  const isNumeric = (column) => headings[column].classList.contains("number");

  const sort = (column, order) => {
    const isKnown = (row) => !["", "–"].includes(text(row, column));
    const compare = isNumeric(column) ? (a, b) => number(a) - number(b) : (a, b) => a.localeCompare(b, "en");
    const known = rows.filter(isKnown);
    known.sort((a, b) => (order === "ascending" ? 1 : -1) * compare(text(a, column), text(b, column)));
    body.append(...(order ? [...known, ...rows.filter((row) => !isKnown(row))] : rows));
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    if (order) headings[column].setAttribute("aria-sort", order);
  };
  headings.forEach((heading, column) => {
    const orders = isNumeric(column) ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
    heading.tabIndex = 0;
    heading.onclick = () => sort(column, orders[(orders.indexOf(heading.getAttribute("aria-sort") || "") + 1) % 3]);
    heading.onkeydown = (event) => event.key === "Enter" && heading.click();
  });

  const nameOf = (heading) => heading.textContent.toLowerCase().replaceAll(" ", "");
  const condition = (term) => {
    const [, name, sign, limit] = term.match(/^(.+?)([<>])(.+)$/) || [];
    if (!sign) return (row) => [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(term));
    const named = headings.findIndex((heading) => nameOf(heading).startsWith(name));
    const column = named >= 0 ? named : headings.findIndex((heading) => nameOf(heading).includes(name));
    const passes = (value) => (sign === "<" ? value < number(limit) : value > number(limit));
    return (row) => column >= 0 && passes(number(text(row, column)));
  };
  const field = Object.assign(document.createElement("input"), { type: "search", placeholder: table.dataset.hint });
  const shown = document.createElement("output");
  const filter = () => {
    const terms = field.value.toLowerCase().replace(/\s*([<>])\s*/g, "$1").split(/\s+/).filter(Boolean);
    const conditions = terms.map(condition);
    rows.forEach((row) => (row.hidden = !conditions.every((holds) => holds(row))));
    shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  field.setAttribute("aria-label", "Filter the rows");
  field.oninput = filter;
  filter();
  const line = Object.assign(document.createElement("div"), { className: "filter" });
  line.append(field, shown);
  table.parentElement.before(line);
}
