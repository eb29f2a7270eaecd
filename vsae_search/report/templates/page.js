"use strict";
(() => {
  const MODEBAR = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d"] };
  const SAFE_ADDRESS = /^https?:\/\/[^\s]+$/i;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Figures follow the page's light or dark colours.
  const theme = (layout) => {
    const [ink, soft, grid, panel, line] = ["--ink", "--soft", "--grid", "--panel", "--line"].map(colour);
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line };
    const themed = { ...layout, paper_bgcolor: panel, plot_bgcolor: panel };
    themed.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink };
    themed.hoverlabel = { ...layout.hoverlabel, bgcolor: panel, bordercolor: soft, font: { color: ink, size: 12 } };
    themed.annotations = (layout.annotations || []).map((note) => ({ ...note, font: { ...note.font, color: soft } }));
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      themed[key] = { ...layout[key], ...axis };
    }
    return themed;
  };

  const draw = (plot) => {
    const spec = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
    const layout = { ...spec.layout, height: Number(plot.dataset.height), autosize: true };
    Plotly.newPlot(plot, spec.data, theme(layout), MODEBAR).then(() => {
      plot.on("plotly_click", (event) => {
        const address = event.points[0].customdata;
        if (typeof address === "string" && SAFE_ADDRESS.test(address)) window.open(address, "_blank", "noopener");
      });
    });
  };

  const repaint = () => {
    for (const plot of document.querySelectorAll(".plot")) {
      if (plot.layout) Plotly.react(plot, plot.data, theme(plot.layout), MODEBAR);
    }
  };

  for (const plot of document.querySelectorAll(".plot")) draw(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const [moment, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(moment, () => {
      document.documentElement.classList.toggle("printing", printing);
      for (const part of document.querySelectorAll("details")) {
        if (printing) part.dataset.folded = String(!part.open);
        part.open = printing || part.dataset.folded === "false";
      }
      repaint();
    });
  }

  for (const button of document.querySelectorAll("button[data-relayout]")) {
    button.addEventListener("click", () => {
      const visible = button.dataset.visible ? { visible: JSON.parse(button.dataset.visible) } : {};
      Plotly.update(document.getElementById(button.dataset.figure), visible, JSON.parse(button.dataset.relayout));
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    });
  }

  // A heading of a sortable table becomes a button; numbers sort by value and empty cells stay last.
  const value = (row, index) => row.cells[index].dataset.sort ?? row.cells[index].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          const [x, y] = [value(a, index), value(b, index)];
          return x === "" || y === "" || !falling ? compare(x, y) : compare(y, x);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
