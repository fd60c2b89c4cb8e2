// What the cache does now: asked for every two seconds, and drawn.
"use strict";

const EVERY = 2000; // processes report once a second, and a step of the charts is ten
const TONES = 5; // the prefixes beyond are one, in grey
const $ = id => document.getElementById(id);
const state = { seconds: 300, acts: false, forgery: "", askedAbove: 1000, seen: new Set(), first: true, timer: 0, failed: 0 };

// --- numbers in words ------------------------------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en");
function amount(value) {
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (value >= 1e4) return `${(value / 1e3).toPrecision(3)}k`;
  if (value >= 100 || Number.isInteger(value)) return grouped.format(Math.round(value));
  return value >= 10 ? value.toFixed(1) : String(Number(value.toFixed(2)));
}
function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 ms";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  return seconds < 10 ? `${Number(seconds.toPrecision(2))} s` : span(seconds);
}
function span(seconds) {
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = parts.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [unit, size] = parts[at], whole = Math.floor(seconds / size), next = parts[at + 1];
  const rest = next ? Math.floor((seconds - whole * size) / next[1]) : 0;
  return `${whole} ${unit}${rest ? ` ${rest} ${next[0]}` : ""}`;
}
function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = value * 100;
  // 99.96 % is not 100 %.
  return `${percent === 100 || percent === 0 ? percent : percent >= 99.95 ? "> 99.9" : percent.toFixed(percent >= 10 ? 1 : 2)} %`;
}
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at++; }
  return `${value >= 100 || !at ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}
const prefixName = prefix => prefix === "" ? "(none)" : prefix;

// --- drawing -----------------------------------------------------------------------------------------------------------

// Lists that change every two seconds keep their elements, and with them the focus and what is pointed at.
function keyed(list, items, key, make, fill) {
  const known = new Map();
  for (const child of [...list.children]) {
    if (known.has(child.dataset.key)) child.remove();
    else known.set(child.dataset.key, child);
  }
  items.forEach((item, i) => {
    const name = key(item);
    let child = known.get(name);
    if (child) known.delete(name);
    else {
      child = make(item);
      child.dataset.key = name;
    }
    fill(child, item);
    if (list.children[i] !== child) list.insertBefore(child, list.children[i] || null);
  });
  for (const gone of known.values()) gone.remove();
}

function figure(id, value, unit, more, bad = false) {
  $(id).replaceChildren(value, ...(unit ? [element("i", {}, unit)] : []));
  $(`${id}-more`).textContent = more;
  $(`${id}-more`).title = more;
  $(id).parentElement.classList.toggle("bad", bad);
}

function bar(part, kind = "") {
  const percent = Math.max(0, Math.min(1, part || 0)) * 100;
  const made = svg("svg", { "aria-hidden": "true", class: kind, preserveAspectRatio: "none" });
  made.append(svg("rect", { class: "track", width: "100%", height: "100%", rx: 3 }), svg("rect", { class: "full", width: `${percent}%`, height: "100%", rx: 3 }));
  return made;
}

const charts = {
  rate: new Chart($("chart-rate"), { name: "Requests per second", stacked: true, text: amount, nothing: "No requests yet" }),
  hits: new Chart($("chart-hits"), { name: "Hit rate", text: share, ticks: [0, 0.25, 0.5, 0.75, 1], axis: tick => `${tick * 100} %`, nothing: "No requests yet" }),
  time: new Chart($("chart-time"), { name: "Time in Redis, 99th percentile", text: lasting, nothing: "No requests yet" }),
  loads: new Chart($("chart-loads"), { name: "Loads per second", text: amount, nothing: "No loads yet" }),
};

function drawCharts(spans, prefixes) {
  const times = spans.map(each => each.at + each.seconds);
  const named = prefixes.map(each => each.prefix);
  const own = named.slice(0, TONES), rest = named.slice(TONES);
  const of = (prefix, which) => spans.map(each => each.by[prefix] ? each.by[prefix][which] : null);
  const series = which => own.map((prefix, tone) => ({ name: prefixName(prefix), tone, values: of(prefix, which) }));
  const rates = series(0).map(each => ({ ...each, values: each.values.map(value => value || 0) }));
  if (rest.length) {
    const values = spans.map(each => rest.reduce((sum, prefix) => sum + (each.by[prefix] ? each.by[prefix][0] : 0), 0));
    rates.push({ name: `${rest.length} more`, tone: TONES, values });
  }
  // Before the first of them nobody reported: nothing is known then, not nothing was asked.
  const begun = spans.findIndex(each => Object.keys(each.by).length);
  const anything = begun >= 0;
  charts.rate.update({ times, series: anything ? rates : [] });
  charts.time.update({ times, series: series(2) });
  const single = (name, values) => [{ name, tone: 0, values }];
  charts.hits.update({ times, series: single("All", spans.map(each => each.hit_rate)) });
  charts.loads.update({ times, series: single("All", spans.map((each, i) => anything && i >= begun ? each.loads : null)) });
  legend("rate", rates);
  legend("time", series(2));
  legend("hits", []);
  legend("loads", []);
}

function legend(which, series) {
  keyed($(`legend-${which}`), series, each => each.name, () => element("li", {}), (child, each) =>
    child.replaceChildren(element("span", { class: `swatch tone${each.tone}`, "aria-hidden": "true" }), each.name));
}

function drawPrefixes(prefixes) {
  const table = $("table-prefixes");
  table.hidden = !prefixes.length;
  table.nextElementSibling.hidden = Boolean(prefixes.length);
  keyed(table.tBodies[0], prefixes, each => each.prefix, () => element("tr", {}), (row, each) => {
    const tone = Math.min(prefixes.indexOf(each), TONES);
    const cell = (name, value, classes = "") => element("td", { class: `n ${classes}`, "data-name": name }, value);
    const hits = each.hit_rate;
    const kind = hits === null ? "" : hits < 0.5 ? "bad" : hits < 0.8 ? "low" : "";
    const errors = each.errors + each.load_errors;
    row.replaceChildren(
      element("th", { scope: "row" }, element("span", { class: `swatch tone${tone}`, "aria-hidden": "true" }), prefixName(each.prefix)),
      cell("Requests/s", amount(each.rate)),
      element("td", { class: "rate-of-hits" }, element("div", { class: `meter ${kind}` }, element("b", {}, share(hits)), bar(hits))),
      cell("Redis, median", lasting(each.redis_p50)),
      cell("Redis, 99 %", lasting(each.redis_p99)),
      cell("Loads/s", amount(each.loads)),
      cell("Load, median", lasting(each.load_p50)),
      cell("Load, 99 %", lasting(each.load_p99)),
      cell("Errors", amount(errors), errors ? "bad" : "zero"),
    );
  });
}

function drawEvents(events) {
  $("no-events").hidden = events.length > 0;
  keyed($("events"), events, each => each.id, each => {
    const fresh = !state.first && !state.seen.has(each.id);
    const names = each.names.join(", ") + (each.more ? ` and ${each.more} more` : "");
    const cleared = each.soft ? "marked stale" : `${grouped.format(each.removed)} cleared`;
    const why = [each.reason || "no reason given", each.origin, lasting(each.ms / 1000)].join(" · ");
    return element("li", { class: fresh ? "new" : null },
      element("time", { datetime: new Date(each.at * 1000).toISOString() }, clock(each.at, true)),
      element("span", { class: "names" }, element("span", { class: `badge ${each.kind}` }, each.kind), element("code", {}, names)),
      element("span", { class: "gone" }, cleared),
      element("span", { class: "why" }, why));
  }, () => {});
  state.seen = new Set(events.map(each => each.id)); // of those that are listed: a page may be open for weeks
}

function drawHot(which, items, press) {
  $(`no-${which}`).hidden = items.length > 0;
  const most = Math.max(...items.map(each => each.rate), 0);
  keyed($(`hot-${which}`), items, each => each.name, each => {
    const name = press ? element("button", { type: "button", title: each.name }, element("code", {}, each.name))
      : element("span", { class: "name", title: each.name }, element("code", {}, each.name));
    if (press) name.addEventListener("click", () => press(each.name));
    const back = svg("svg", { "aria-hidden": "true" }, svg("rect", { height: "100%", rx: 6 }));
    return element("li", {}, back, name, element("span", { class: "rate" }));
  }, (child, each) => {
    child.querySelector("rect").setAttribute("width", `${most ? each.rate / most * 100 : 0}%`);
    child.lastElementChild.textContent = `${amount(each.rate)}/s`;
  });
}

function drawNodes(nodes) {
  const rank = each => each.error ? 0 : each.role === "primary" ? 1 : 2; // what is wrong comes first
  const sorted = [...nodes].sort((a, b) => rank(a) - rank(b));
  keyed($("nodes"), sorted, each => each.node, () => element("li", {}), (child, each) => {
    const badge = each.error ? element("span", { class: "badge down" }, "down") : element("span", { class: "badge" }, each.role);
    const head = element("h3", {}, element("span", {}, each.node), badge);
    if (each.error) {
      child.replaceChildren(head, element("p", { class: "wrong" }, each.error));
      return;
    }
    const full = each.max_memory ? each.memory / each.max_memory : null;
    const memory = each.max_memory ? `${bytes(each.memory)} of ${bytes(each.max_memory)}` : `${bytes(each.memory)}, no limit`;
    const rows = [
      ["Memory", memory], ["Commands/s", amount(each.commands)], ["Answers in", lasting(each.latency)],
      ["Connections", grouped.format(each.clients)], ["Keys", grouped.format(each.keys)],
      ["Evicted", grouped.format(each.evicted)], ["Policy", each.policy], ["Up", span(each.uptime)], ["Server", each.version],
    ];
    if (each.role === "primary") rows.splice(7, 0, ["Replicas", String(each.replicas)]);
    child.replaceChildren(head, ...(full === null ? [] : [bar(full, full > 0.9 ? "low" : "")]),
      element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
  });
}

function draw(data) {
  const space = [data.namespace, `v${data.version}`].filter(Boolean).join(" · ");
  $("space").textContent = space;
  document.title = data.namespace ? `${data.namespace} · Cache` : "Cache";
  // The URL of a cluster names any of its nodes; which there are stands below.
  $("redis-at").textContent = data.mode === "cluster" ? `a cluster of ${data.nodes.length} nodes` : data.redis;
  Object.assign(state, { acts: data.acts, forgery: data.forgery_token, askedAbove: data.asked_above });
  $("act").hidden = !data.acts;
  $("logout").hidden = !data.acts;
  $("read-only").hidden = data.acts;
  drawEvents(data.events);
  drawNodes(data.nodes);
  const up = data.nodes.filter(each => !each.error);
  const down = data.nodes.length - up.length;
  const evicted = up.reduce((sum, each) => sum + each.evicted, 0);
  const memory = up.reduce((sum, each) => sum + (each.role === "primary" ? each.memory : 0), 0);
  const more = up.length ? `${bytes(memory)}, ${amount(evicted)} evicted` : "reads go to the database";
  figure("tile-nodes", down ? `${up.length} of ${data.nodes.length}` : "ok", down ? "up" : "", more, down > 0);
  if (data.error) {
    trouble(`Redis does not answer: ${data.error}. The application goes on, with its database; the figures stand still.`);
    return;
  }
  trouble("");
  const { now, minute } = data;
  const stale = minute.stale_share ? `${share(minute.stale_share)} of them stale` : "all of them fresh";
  figure("tile-hits", share(now.hit_rate).replace(" %", ""), now.hit_rate === null ? "" : "%", now.hit_rate === null ? "no requests" : stale);
  figure("tile-rate", amount(now.rate), "/s", `last minute ${amount(minute.rate)}/s`);
  const [took, unit] = lasting(minute.redis_p50).split(" ");
  figure("tile-redis", took, unit || "", minute.redis_p99 === null ? "no requests" : `99 % within ${lasting(minute.redis_p99)}`);
  const failed = minute.load_errors ? `, ${amount(minute.load_errors)} failed` : "";
  figure("tile-loads", amount(now.loads), "/s", minute.load_p50 === null ? "none in the last minute" : `median ${lasting(minute.load_p50)}${failed}`, minute.load_errors > 0);
  figure("tile-gone", amount(minute.invalidations), "/min", minute.errors ? `${amount(minute.errors)} errors of Redis` : "no errors of Redis");
  drawPrefixes(data.prefixes);
  drawCharts(data.spans, data.prefixes);
  drawHot("keys", data.keys, lookUp);
  drawHot("tags", data.tags, data.acts ? name => prepare("tag", name) : null);
  state.first = false;
}

function trouble(text) {
  $("trouble").hidden = !text;
  if ($("trouble").textContent !== text) $("trouble").textContent = text;
}

function live(on, text) {
  $("live").className = `live ${on ? "on" : "off"}`;
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
}

// --- asking ------------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(20000), ...options });
  if (answer.status === 401) location.reload(); // to the door
  return answer;
}

async function poll() {
  clearTimeout(state.timer);
  try {
    const answer = await ask(`api/overview?seconds=${state.seconds}`);
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const data = await answer.json();
    draw(data);
    state.failed = 0;
    const processes = data.processes === undefined ? "" : `${data.processes} ${data.processes === 1 ? "process" : "processes"}`;
    live(!data.error, data.error ? "Redis is away" : `Live · ${processes}`);
  } catch (error) {
    state.failed++;
    live(false, "No connection, trying again");
    if (state.failed > 2) trouble(`The application does not answer: ${error.message}.`);
  }
  if (!document.hidden) state.timer = setTimeout(poll, Math.min(EVERY * 2 ** Math.min(state.failed, 3), 15000));
}

document.addEventListener("visibilitychange", () => document.hidden || poll());
for (const button of document.querySelectorAll("[data-seconds]")) {
  button.addEventListener("click", () => {
    state.seconds = Number(button.dataset.seconds);
    for (const each of document.querySelectorAll("[data-seconds]")) each.setAttribute("aria-pressed", String(each === button));
    poll();
  });
}

// --- an entry ----------------------------------------------------------------------------------------------------------

const STATES = {
  fresh: "fresh: a read gets it", stale: "stale: a read gets it, and it is loaded anew",
  expired: "past its time: kept for when a load fails", leased: "being loaded now",
  invalid: "invalidated: no read gets it", absent: "not there", foreign: "not an entry of the cache",
};

async function lookUp(key) {
  $("look-key").value = key;
  const found = $("found");
  try {
    const answer = await ask(`api/look?key=${encodeURIComponent(key)}`);
    const data = await answer.json();
    found.replaceChildren(...(answer.ok ? entry(data) : [element("p", { class: "nothing" }, data.error)]));
  } catch (error) {
    found.replaceChildren(element("p", { class: "nothing" }, `That did not work: ${error.message}`));
  }
  found.scrollIntoView({ block: "nearest" });
}

function entry(data) {
  const now = Date.now();
  const until = at => `${new Date(at).toLocaleTimeString([], { hour12: false })}, ${at > now ? `in ${span((at - now) / 1000)}` : `${span((now - at) / 1000)} ago`}`;
  const rows = [["State", element("span", {}, element("span", { class: `badge ${data.state}` }, data.served ? "served" : "not served"), STATES[data.state] || data.state)]];
  if (data.there) {
    rows.push(["Time to live", data.ttl_ms === null ? element("span", { class: "badge down" }, "none") : span(data.ttl_ms / 1000)]);
    if (data.soft_at !== null) rows.push(["Fresh until", until(data.soft_at)]);
    if (data.hard_at !== null) rows.push(["Served until", until(data.hard_at)]);
    if (data.age_ms !== null) rows.push(["Age", span(data.age_ms / 1000)]);
    if (data.codec) rows.push(["Stored", `${data.codec}${data.compression === "none" ? "" : `, ${data.compression}`}, ${bytes(data.value_bytes)}`]);
    if (data.load_ms !== null) rows.push(["Its load took", data.load_ms ? lasting(data.load_ms / 1000) : "nothing: it was set"]);
    if (data.tags.length) rows.push(["Tags", element("span", {}, ...data.tags.map(each => element("p", {}, element("span", { class: `badge ${each.state}` }, each.state), element("code", {}, each.tag))))]);
  }
  rows.push(["In Redis", element("code", {}, data.redis_key)]);
  const made = [element("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))];
  if (data.hidden) made.push(element("p", { class: "nothing" }, `The value is not shown: ${data.hidden}.`));
  else if (data.there) {
    const cut = data.value_length > 20000; // then it is text, also where it was none
    const text = typeof data.value === "string" ? data.value : JSON.stringify(data.value, null, 2);
    made.push(element("pre", { tabindex: "0", "aria-label": "Value" }, cut ? `${text}\n… of ${grouped.format(data.value_length)} characters` : text));
  }
  if (state.acts && data.there) {
    const button = element("button", { type: "button", class: "plain" }, "Invalidate this key …");
    button.addEventListener("click", () => prepare("key", data.key));
    made.push(button);
  }
  return made;
}

$("look").addEventListener("submit", event => {
  event.preventDefault();
  lookUp($("look-key").value);
});

// --- its end -----------------------------------------------------------------------------------------------------------

const LABELS = { key: ["Key, with its prefix", "api:GET:/products/42"], pattern: ["Pattern, with its prefix: * ? [a-z]", "api:GET:/products*"], tag: ["Tag", "products"] };

function kindChosen() {
  const kind = $("act").elements.kind.value;
  [$("act-label").textContent, $("act-name").placeholder] = LABELS[kind];
  $("act-soft-line").hidden = kind !== "tag";
}

function prepare(kind, name) {
  $("act").elements.kind.value = kind;
  kindChosen();
  $("act-name").value = name;
  $("act-name").focus();
}

function done(good, text) {
  $("done").hidden = false;
  $("done").className = `notice ${good ? "good" : "bad"}`;
  $("done").textContent = text;
}

async function invalidate(order, confirmed = 0) {
  const answer = await ask("api/invalidate", {
    method: "POST",
    headers: { "content-type": "application/json", "x-forgery-token": state.forgery },
    body: JSON.stringify({ ...order, confirmed }),
  });
  const data = await answer.json();
  if (data.asks !== undefined) {
    const what = `${grouped.format(data.asks)} entries`;
    const name = visible(order.name);
    $("sure-text").textContent = order.kind === "tag" ? `${what} carry the tag “${name}”.` : `${what} match “${name}”.`;
    $("sure-yes").textContent = `Invalidate ${what}`;
    const sure = $("sure");
    sure.returnValue = "no"; // Escape leaves it as it was
    sure.showModal();
    await new Promise(closed => sure.addEventListener("close", closed, { once: true }));
    if (sure.returnValue === "yes") await invalidate(order, data.asks);
    else done(true, "Nothing was invalidated.");
    return;
  }
  if (!answer.ok) throw new Error(data.error || `the server says ${answer.status}`);
  const cleared = `${grouped.format(data.removed)} ${data.removed === 1 ? "entry" : "entries"}`;
  done(true, data.soft ? `The tag is marked stale, in ${lasting(data.duration)}.` : `Invalidated in ${lasting(data.duration)}: ${cleared} cleared.`);
  poll();
}

$("act").addEventListener("change", kindChosen);
$("act").addEventListener("submit", async event => {
  event.preventDefault();
  const form = $("act"), button = form.querySelector("button");
  const kind = form.elements.kind.value;
  button.disabled = true;
  try {
    await invalidate({ kind, name: $("act-name").value, reason: $("act-reason").value.trim(), soft: kind === "tag" && $("act-soft").checked });
  } catch (error) {
    done(false, `It did not work: ${error.message}`);
  }
  button.disabled = false;
});
$("logout").addEventListener("click", async () => {
  await ask("logout", { method: "POST", headers: { "x-forgery-token": state.forgery } });
  location.reload();
});

kindChosen();
poll();
