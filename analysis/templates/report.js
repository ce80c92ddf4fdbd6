"use strict";
(function () {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { actions: false, renderer: "svg", ast: false };

  function draw(id) {
    const element = document.getElementById(id);
    return vegaEmbed(element, specs[id], options).then(
      function (result) { element.dataset.drawn = "yes"; return result; },
      function (error) {
        element.classList.add("failed");
        element.textContent = "This chart could not be drawn: " + error.message;
        throw error;
      }
    );
  }

  const drawn = Promise.allSettled(Object.keys(specs).map(draw)).then(function (results) {
    document.documentElement.dataset.charts = results.every((r) => r.status === "fulfilled") ? "drawn" : "failed";
    return results.filter((r) => r.status === "fulfilled").map((r) => r.value.view);
  });

  // Paper is narrower than the window: charts follow their containers, before printing and back.
  function refit() { drawn.then((views) => views.forEach((view) => view.resize().run())); }
  window.matchMedia("print").addEventListener("change", function () { window.dispatchEvent(new Event("resize")); refit(); });

  // Tables: click or Enter on a heading sorts; values not known stay at the end.
  function value(row, index, numeric) {
    const text = row.cells[index].dataset.value;
    if (text === "") return null;
    return numeric ? Number(text) : text;
  }

  document.querySelectorAll("th button").forEach(function (button) {
    button.addEventListener("click", function () {
      const head = button.parentElement;
      const body = head.closest("table").tBodies[0];
      const index = head.cellIndex;
      const numeric = head.classList.contains("num");
      const up = head.getAttribute("aria-sort") !== "ascending";
      head.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = Array.from(body.rows).map((row) => ({ row: row, value: value(row, index, numeric) }));
      rows.sort(function (a, b) {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
        const order = numeric ? a.value - b.value : a.value.localeCompare(b.value);
        return up ? order : -order;
      });
      rows.forEach((item) => body.appendChild(item.row));
    });
  });

  function quoted(text) { return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text; }

  function asCsv(table) {
    const head = Array.from(table.tHead.rows[0].cells).map((cell) => quoted(cell.dataset.key));
    const rows = Array.from(table.tBodies[0].rows).map((row) => Array.from(row.cells).map((cell) => quoted(cell.dataset.value)));
    return [head, ...rows].map((cells) => cells.join(",")).join("\n") + "\n";
  }

  function copy(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    document.body.appendChild(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("not allowed"));
  }

  document.querySelectorAll(".copy").forEach(function (button) {
    const label = button.textContent;
    button.addEventListener("click", function () {
      const text = asCsv(button.closest(".table").querySelector("table"));
      copy(text).then(() => "Copied", () => "Copying is not allowed here").then(function (message) {
        button.textContent = message;
        window.setTimeout(function () { button.textContent = label; }, 1500);
      });
    });
  });
})();
