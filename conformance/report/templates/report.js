"use strict";
(() => {
  const copy = async (text) => {
    if (navigator.clipboard) {
      try { await navigator.clipboard.writeText(text); return true; } catch { /* the older way below */ }
    }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  for (const button of document.querySelectorAll("button[data-copy]")) {
    const word = [...button.childNodes];
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      button.textContent = (await copy(source.textContent)) ? "Copied" : "Select and copy by hand";
      setTimeout(() => { button.replaceChildren(...word); }, 2000);
    });
  }
  const open = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    if (!target) return;
    if (target.tagName === "DETAILS") target.open = true;
    for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
    target.scrollIntoView();
    if (!target.matches("a, button, summary, select")) target.tabIndex = -1;
    target.focus({ preventScroll: true });
  };
  addEventListener("hashchange", open);
  open();
  const filters = [...document.querySelectorAll("select[data-filter]")];
  const status = document.querySelector("[data-status]");
  const matrix = document.querySelectorAll("details.cell");
  const before = new Map();
  const apply = () => {
    const wanted = Object.fromEntries(filters.map((one) => [one.dataset.filter, one.value]));
    const fits = (name, values) => !wanted[name] || values.split(" ").includes(wanted[name]);
    const same = (name, value) => !wanted[name] || value === wanted[name];
    const active = filters.some((one) => one.value);
    let shown = 0, all = 0;
    for (const cell of matrix) {
      let inCell = 0;
      for (const table of cell.querySelectorAll("table.checks-of")) {
        for (const head of table.querySelectorAll("thead [data-candidate]")) head.hidden = !fits("candidate", head.dataset.candidate);
        for (const body of table.tBodies) {
          let inBody = 0;
          for (const row of body.querySelectorAll("tr.check")) {
            let inRow = 0;
            for (const place of row.querySelectorAll("td")) {
              place.hidden = !fits("candidate", place.dataset.candidate);
              for (const mark of place.querySelectorAll("li")) {
                let inMark = 0;
                for (const link of mark.querySelectorAll("[data-dtype]")) {
                  const good = same("dtype", link.dataset.dtype);
                  link.hidden = !good;
                  inMark += good;
                  all += 1;
                }
                const good = inMark > 0 && !place.hidden && same("verdict", mark.dataset.verdict)
                  && same("level", body.dataset.level) && same("cell", cell.dataset.cell);
                mark.hidden = !good;
                if (good) inRow += inMark;
              }
            }
            row.hidden = active && !inRow;
            inBody += inRow;
          }
          body.hidden = active && !inBody;
          inCell += inBody;
        }
        table.closest(".scroll").hidden = active && ![...table.tBodies].some((body) => !body.hidden);
      }
      cell.hidden = active && !inCell;
      shown += inCell;
      for (const one of [cell, ...cell.querySelectorAll("details")]) {
        if (active && !before.has(one)) before.set(one, one.open);
        if (active) one.open = true;
        else if (before.has(one)) one.open = before.get(one);
      }
    }
    if (!active) before.clear();
    if (status) status.textContent = active ? `${shown} of ${all} checks shown` : `all ${all} checks shown`;
  };
  for (const one of filters) one.addEventListener("change", apply);
  for (const one of document.querySelectorAll("fieldset.filters")) one.hidden = false;
  for (const one of document.querySelectorAll("[data-reset]")) {
    one.addEventListener("click", () => { for (const each of filters) each.value = ""; apply(); });
  }
  if (filters.length) apply();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
})();
