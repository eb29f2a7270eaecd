"use strict";
(() => {
  const canHover = matchMedia("(hover: hover)").matches; // elsewhere the buttons would always lie on the figure
  const MODEBAR_PX = 40;
  const LETTER_PX = 8; // mean width of a letter of a title
  // No button shares a figure with a web service, which is what Plotly offers by default.
  const MODEBAR = {
    displaylogo: false, displayModeBar: canHover ? "hover" : false, responsive: true, showSendToCloud: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "toImage", "select2d", "lasso2d"],
  };
  const SAFE_ADDRESS = /^https?:\/\/[^\s]+$/i;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A title that is longer than its axis goes on in the next line; one with tags or entities stays as it is.
  const wrapped = (text, longest) => {
    if (/[<&]/.test(text)) return text;
    const lines = [""];
    for (const word of text.split(" ")) {
      const next = `${lines.at(-1)} ${word}`.trim();
      if (next.length <= longest || !lines.at(-1)) lines[lines.length - 1] = next;
      else lines.push(word);
    }
    return lines.join("<br>");
  };

  // Figures follow the page's light or dark colours. Where there is a legend, the buttons stand beside it, one below another.
  const theme = (layout) => {
    const [ink, soft, grid, panel, line] = ["--ink", "--soft", "--grid", "--panel", "--line"].map(colour);
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line };
    const themed = { ...layout, paper_bgcolor: panel, plot_bgcolor: panel };
    themed.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink };
    themed.modebar = { bgcolor: panel, color: soft, activecolor: ink, orientation: layout.legend ? "v" : "h" };
    if (canHover && layout.legend) themed.margin = { ...layout.margin, r: Math.max(layout.margin?.r ?? 0, MODEBAR_PX) };
    themed.hoverlabel = { ...layout.hoverlabel, bgcolor: panel, bordercolor: soft, font: { color: ink, size: 12 } };
    themed.annotations = (layout.annotations || []).map((note) => ({ ...note, font: { ...note.font, color: soft } }));
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      themed[key] = { ...layout[key], ...axis };
      const title = layout[key].title;
      if (key.startsWith("x") && title?.text) Object.assign(themed[key], { title: { standoff: 10, ...title }, automargin: true });
    }
    return themed;
  };

  // Titles are fitted to the axes as they were drawn, since a legend takes its room first.
  const fitTitles = (plot) => {
    const { w, h } = plot._fullLayout._size;
    const changes = {};
    for (const key of Object.keys(plot.layout).filter((name) => /^[xy]axis/.test(name))) {
      const title = plot.layout[key].title?.text ?? "";
      const [start, end] = plot.layout[key].domain ?? [0, 1];
      const lines = wrapped(title, Math.max(12, ((end - start) * (key.startsWith("x") ? w : h)) / LETTER_PX));
      if (lines !== title) Object.assign(changes, { [`${key}.title.text`]: lines, [`${key}.automargin`]: true });
    }
    return Object.keys(changes).length ? Plotly.relayout(plot, changes) : null;
  };

  // Large texts lie in the page as gzip in base64.
  const content = async (element) => {
    if (element.dataset.packed === undefined) return element.textContent;
    const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  // The content security policy knows the digest of the library's script, so it runs as an inline one.
  const loadLibrary = async () => {
    const script = document.createElement("script");
    script.textContent = await content(document.getElementById("plotly"));
    document.head.append(script);
    if (!window.Plotly) throw new Error("the drawing library did not start");
  };

  const draw = async (plot) => {
    const spec = JSON.parse(await content(document.getElementById(plot.dataset.spec)));
    const layout = { ...spec.layout, autosize: true };
    plot.style.height = `${plot.dataset.height}px`; // on a change of width Plotly asks the element, not the layout
    await Plotly.newPlot(plot, spec.data, theme(layout), MODEBAR);
    await fitTitles(plot);
    plot.on("plotly_click", (event) => {
      const address = event.points[0].customdata;
      if (typeof address === "string" && SAFE_ADDRESS.test(address)) window.open(address, "_blank", "noopener");
    });
  };

  // What a reader without scripts sees: the picture of the figure, or its description, and a sentence.
  const showStill = (plot) => {
    const figure = plot.closest("figure");
    const still = figure.querySelector("noscript");
    for (const part of figure.querySelectorAll(".plot, .controls")) part.hidden = true;
    still.insertAdjacentHTML("afterend", still.textContent);
  };

  const drawAll = async (plots) => {
    const loaded = plots.length ? loadLibrary() : null;
    for (const plot of plots) {
      try {
        await loaded;
        await draw(plot);
      } catch (error) {
        console.warn(`${plot.id}: ${error.message}`);
        showStill(plot);
      }
    }
  };

  const repaint = () => {
    for (const plot of document.querySelectorAll(".plot")) {
      if (plot.layout) Plotly.react(plot, plot.data, theme(plot.layout), MODEBAR);
    }
  };

  const drawn = drawAll([...document.querySelectorAll(".plot")]);
  drawn.then(() => document.documentElement.classList.add("drawn"));
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
    button.addEventListener("click", async () => {
      await drawn;
      const visible = button.dataset.visible ? { visible: JSON.parse(button.dataset.visible) } : {};
      const plot = document.getElementById(button.dataset.figure);
      await Plotly.update(plot, visible, JSON.parse(button.dataset.relayout));
      await fitTitles(plot);
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
