// Charts over time, as inline SVG: lines, or areas one upon the other. Read by mouse, touch and arrow keys.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Amounts to mark on an axis from 0: equal steps of 1, 2 or 5 times a power of ten, at most five beside 0.
function niceTicks(highest, most = 4) {
  if (!(highest > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(highest / most));
  const step = [1, 2, 5, 10].map(each => each * power).find(each => each * most >= highest * (1 - 1e-9));
  const ticks = [];
  for (let i = 0; (i - 1) * step < highest * (1 - 1e-9); i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

class Chart {
  // host: the element to draw in. options: name, stacked, most (of the axis, if fixed), text (a number in words).
  constructor(host, options) {
    this.host = host;
    this.options = options;
    this.data = { times: [], series: [] };
    this.at = -1;
    host.tabIndex = 0;
    host.setAttribute("role", "img");
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.tip.setAttribute("role", "status");
    host.append(this.tip);
    host.addEventListener("pointermove", event => this.point(event));
    host.addEventListener("pointerdown", event => this.point(event));
    host.addEventListener("pointerleave", () => this.show(-1));
    host.addEventListener("blur", () => this.show(-1));
    host.addEventListener("keydown", event => {
      const last = this.data.times.length - 1;
      const from = this.at < 0 ? last + 1 : this.at;
      const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last, Escape: -1 }[event.key];
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey || last < 0) return;
      event.preventDefault();
      this.show(event.key === "Escape" ? -1 : Math.min(Math.max(to, 0), last));
    });
    new ResizeObserver(() => this.draw()).observe(host);
  }

  // times: seconds since 1970, the end of each step. series: name, tone (0 to 5), values (null where there is none).
  update(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    const { host, options, data } = this;
    const width = host.clientWidth, height = host.clientHeight;
    if (!width) return;
    const { times, series } = data;
    const stacks = series.map(() => times.map(() => 0));
    const sums = times.map((_, i) => {
      let sum = 0;
      series.forEach((each, s) => { sum += each.values[i] || 0; stacks[s][i] = sum; });
      return sum;
    });
    const highest = options.stacked ? Math.max(0, ...sums) : Math.max(0, ...series.flatMap(each => each.values.map(v => v || 0)));
    const ticks = options.ticks || niceTicks(highest);
    const top = ticks[ticks.length - 1] || 1;
    const labels = ticks.map(tick => options.axis ? options.axis(tick, top) : options.text(tick));
    const left = Math.max(...labels.map(label => label.length)) * 7 + 10, right = 10, above = 8, below = 22;
    const inner = width - left - right, plot = height - above - below;
    const first = times[0], last = times[times.length - 1];
    const x = t => left + (last > first ? (t - first) / (last - first) : 1) * inner;
    const y = v => above + plot - Math.min(v / top, 1) * plot;
    Object.assign(this, { x, y, above, plot, left, inner, stacks });

    const made = svg("svg", { width, height, "aria-hidden": "true" });
    ticks.forEach((tick, i) => {
      made.append(svg("line", { class: i ? "grid" : "base", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      const text = svg("text", { class: "amount", x: left - 8, y: y(tick) + 4 });
      text.textContent = labels[i];
      made.append(text);
    });
    const known = series.some(each => each.values.some(value => value !== null));
    if (known) this.times(made, first, last, height);
    else {
      const text = svg("text", { class: "none", x: left + inner / 2, y: above + plot / 2 });
      text.textContent = options.nothing || "Nothing yet";
      made.append(text);
    }
    if (options.stacked) {
      series.forEach((each, s) => {
        const begun = sums.findIndex(sum => sum > 0);
        const shown = [...times.keys()].filter(i => i >= begun);
        if (begun < 0 || shown.length < 2) return;
        const upper = shown.map(i => `${x(times[i])},${y(stacks[s][i])}`);
        const lower = shown.map(i => `${x(times[i])},${y(s ? stacks[s - 1][i] : 0)}`).reverse();
        made.append(svg("path", { class: `area fill${each.tone}`, d: `M${upper.join("L")}L${lower.join("L")}Z` }));
      });
    } else {
      for (const each of series) {
        for (const run of this.runs(each.values)) {
          const points = run.map(i => `${x(times[i])},${y(each.values[i])}`);
          if (series.length === 1 && run.length > 1) {
            const ends = `L${x(times[run[run.length - 1]])},${y(0)}L${x(times[run[0]])},${y(0)}Z`;
            made.append(svg("path", { class: `wash fill${each.tone}`, d: `M${points.join("L")}${ends}` }));
          }
          made.append(svg("path", { class: `line stroke${each.tone}`, d: `M${points.join("L")}${run.length > 1 ? "" : "h0.01"}` }));
        }
      }
    }
    this.mark = svg("g");
    made.append(this.mark);
    this.host.querySelector("svg")?.remove();
    host.prepend(made);
    host.setAttribute("aria-label", this.summary(known, sums));
    if (this.at >= 0) this.show(Math.min(this.at, times.length - 1));
  }

  summary(known, sums) {
    const { options, data } = this;
    if (!known) return `${options.name}: nothing yet`;
    const lines = options.stacked ? [{ name: "", values: sums }] : data.series;
    const told = lines.map(each => {
      const values = each.values.filter(value => value !== null);
      if (!values.length) return `${each.name} nothing`;
      const of = each.name ? `${each.name} ` : "";
      return `${of}now ${options.text(values[values.length - 1])}, highest ${options.text(Math.max(...values))}`;
    });
    return `${options.name}: ${told.join("; ")}. Arrow keys go from value to value.`;
  }

  runs(values) {
    const found = [];
    values.forEach((value, i) => {
      if (value === null) return;
      if (i && values[i - 1] !== null && found.length) found[found.length - 1].push(i);
      else found.push([i]);
    });
    return found;
  }

  times(made, first, last, height) {
    const span = Math.max(last - first, 1);
    const step = [30, 60, 120, 300, 600].find(each => span / each <= Math.max(2, this.inner / 75)) || 600;
    for (let t = Math.ceil(first / step) * step; t <= last; t += step) {
      if (this.x(t) < this.left + 12 || this.x(t) > this.left + this.inner - 8) continue;
      const text = svg("text", { class: "when", x: this.x(t), y: height - 5 });
      text.textContent = clock(t, step < 60);
      made.append(text);
    }
  }

  point(event) {
    const { times } = this.data;
    if (!times.length) return;
    const at = event.clientX - this.host.getBoundingClientRect().left;
    let best = 0;
    times.forEach((t, i) => { if (Math.abs(this.x(t) - at) < Math.abs(this.x(times[best]) - at)) best = i; });
    this.show(best);
  }

  show(i) {
    this.at = i;
    this.mark?.replaceChildren();
    this.tip.hidden = i < 0 || !this.mark;
    if (this.tip.hidden) return;
    const { times, series } = this.data;
    const x = this.x(times[i]);
    this.mark.append(svg("line", { class: "at", x1: x, x2: x, y1: this.above, y2: this.above + this.plot }));
    const lines = [element("p", {}, clock(times[i], true))];
    [...series.keys()].reverse().forEach(s => {
      const each = series[s], value = each.values[i];
      if (value === null || value === undefined || (this.options.stacked && !value)) return;
      const v = this.options.stacked ? this.stacks[s][i] : value;
      if (!this.options.stacked) this.mark.append(svg("circle", { class: `knob fill${each.tone}`, cx: x, cy: this.y(v), r: 4.5 }));
      const label = element("span", {}, element("span", { class: `swatch tone${each.tone}`, "aria-hidden": "true" }), each.name);
      lines.push(element("p", {}, label, element("b", {}, this.options.text(value))));
    });
    if (lines.length === 1) lines.push(element("p", {}, "nothing"));
    this.tip.replaceChildren(...lines);
    const width = this.tip.offsetWidth, room = this.host.clientWidth;
    this.tip.style.left = `${Math.max(0, x + 14 + width > room ? x - 14 - width : x + 14)}px`;
  }
}

// Text may be anybody's: characters that are not seen, or turn the writing around, are written out.
function visible(text, lines = false) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, char =>
    lines && (char === "\n" || char === "\t") ? char : `\\u{${char.codePointAt(0).toString(16)}}`);
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, key === "title" ? visible(value) : value);
  const given = children.filter(child => child !== null && child !== undefined);
  made.append(...given.map(child => typeof child === "string" ? visible(child, name === "pre") : child));
  return made;
}

function clock(seconds, exactly) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false, ...(exactly ? { second: "2-digit" } : {}) };
  return new Date(seconds * 1000).toLocaleTimeString([], options);
}
