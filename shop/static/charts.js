// Tips for charts: by mouse, touch and keyboard. A chart says everything without this file, in its <title> elements
// and in the table below it; here they are shown at once, and read out one after the other.
"use strict";

for (const plot of document.querySelectorAll(".plot[data-chart]")) {
  const marks = [...plot.querySelectorAll(".datum")];
  if (marks.length === 0) continue;
  const words = marks.map(mark => mark.querySelector("title").textContent.split("\n"));
  const overTime = plot.querySelector(".over-time");
  const name = overTime && overTime.querySelector(":scope > title");
  let at = -1;

  // The browser's own tips would come on top of ours.
  for (const title of plot.querySelectorAll("title")) if (title !== name) title.remove();
  if (name) {
    overTime.setAttribute("aria-label", name.textContent);
    overTime.removeAttribute("aria-labelledby");
    name.remove();
  }
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // aria-valuetext says the same
  plot.append(tip);

  if (overTime) {
    // A slider: of all roles the one whose arrow keys move along values and whose words are read out at each.
    plot.tabIndex = 0;
    plot.setAttribute("role", "slider");
    plot.setAttribute("aria-label", `${plot.dataset.chart}: arrow keys go from value to value`);
    plot.setAttribute("aria-valuemin", "1");
    plot.setAttribute("aria-valuemax", String(marks.length));
    tell(marks.length - 1);
    plot.addEventListener("focus", () => plot.matches(":focus-visible") && show(at < 0 ? marks.length - 1 : at));
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", event => {
      const from = at < 0 ? marks.length - 1 : at;
      const far = Math.max(1, Math.round(marks.length / 10));
      const to = {
        ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1,
        PageDown: from - far, PageUp: from + far, Home: 0, End: marks.length - 1,
      }[event.key];
      if (event.key === "Escape") hide();
      else if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      else show(Math.min(Math.max(to, 0), marks.length - 1));
      event.preventDefault();
    });
  } else {
    // Names that lead somewhere can be reached by keyboard already.
    plot.addEventListener("focusin", event => show(marks.indexOf(event.target.closest(".datum"))));
    plot.addEventListener("focusout", hide);
  }
  const follow = event => {
    const mark = event.target.closest(".datum");
    // A finger that was put down keeps its first target while it moves: look at what is below it now.
    const below = event.pointerType === "touch" ? document.elementFromPoint(event.clientX, event.clientY) : null;
    const found = marks.indexOf((below && below.closest(".datum")) || mark);
    if (found >= 0) show(found);
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", event => event.pointerType !== "touch" && hide());
  document.addEventListener("pointerdown", event => plot.contains(event.target) || hide());

  function tell(i) {
    plot.setAttribute("aria-valuenow", String(i + 1));
    plot.setAttribute("aria-valuetext", words[i].join(", "));
  }

  function show(i) {
    if (at >= 0) marks[at].classList.remove("on");
    at = i;
    marks[i].classList.add("on");
    if (overTime) tell(i);
    const [first, amount, ...rest] = words[i];
    const strong = document.createElement("b");
    strong.textContent = amount;
    tip.replaceChildren(first, strong, ...rest.flatMap(line => [line, document.createElement("br")]));
    tip.hidden = false;
    place(marks[i]);
  }

  // Above the mark and in the middle of it, but not beyond the sides of the chart or far above it.
  function place(mark) {
    const around = plot.getBoundingClientRect();
    const what = (mark.querySelector(".col") || mark.querySelector(".hit")).getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = tip;
    const middle = what.left + what.width / 2 - around.left - width / 2;
    tip.style.left = `${Math.min(Math.max(middle, 0), around.width - width)}px`;
    tip.style.top = `${Math.max(what.top - around.top - height - 8, overTime ? -8 : -height)}px`;
  }

  function hide() {
    if (at >= 0) marks[at].classList.remove("on");
    at = -1;
    tip.hidden = true;
  }
}
