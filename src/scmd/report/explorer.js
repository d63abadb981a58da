"use strict";
// One explorer per run: its data stands in a <script type="application/json"> of its section.
for (const section of document.querySelectorAll("[data-explorer]")) explore(section);

function explore(section) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const part = (name) => section.querySelector(`[data-part="${name}"]`);
  const state = { domain: -1, label: -1, from: 0, to: data.edges.length - 2, group: "" };
  const option = (value, text) => new Option(text, value);
  part("domain").append(option(-1, "all"), ...data.sources.map((d) => option(d, data.domains[d])));
  part("class").append(option(-1, "all"), ...data.classes.map((c, i) => option(i, c)));
  const spans = data.edges.slice(0, -1).map((edge, i) => [i, edge, data.edges[i + 1] - 1]);
  part("from").append(...spans.map(([i, first]) => option(i, first)));
  part("to").append(...spans.map(([i, , last]) => option(i, last)));
  part("to").value = state.to;
  part("group").append(
    option("", "hardest of what is filtered"),
    ...Object.keys(data.groups).map((name) => option(name, `${name} (${data.groups[name].length})`)),
  );
  const bind = (name, key, number) =>
    part(name).addEventListener("change", (event) => {
      state[key] = number ? Number(event.target.value) : event.target.value;
      draw();
    });
  bind("domain", "domain", true);
  bind("class", "label", true);
  bind("from", "from", true);
  bind("to", "to", true);
  bind("group", "group", false);

  function cells(except) {
    const [low, high] = [Math.min(state.from, state.to), Math.max(state.from, state.to)];
    return data.cells.filter(
      ([window, domain, label]) =>
        (except === "window" || (window >= low && window <= high)) &&
        (except === "domain" || state.domain < 0 || domain === state.domain) &&
        (except === "class" || state.label < 0 || label === state.label),
    );
  }

  function shares(found, place, count) {
    const drawn = new Array(count).fill(0), kept = new Array(count).fill(0);
    for (const cell of found) {
      drawn[cell[place]] += cell[3];
      kept[cell[place]] += cell[4];
    }
    return { drawn, kept };
  }

  function bars(name, key, names, found, place, order) {
    const { drawn, kept } = shares(found, place, names.length);
    const shown = order.filter((i) => drawn[i] > 0);
    const largest = Math.max(...shown.map((i) => kept[i] / drawn[i]), 1e-9);
    part(name).replaceChildren(
      ...shown.map((i) => {
        const share = kept[i] / drawn[i];
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", String(state[key] === i));
        button.setAttribute(
          "aria-label",
          `${names[i]}: ${kept[i]} of ${drawn[i]} draws selected, ${(100 * share).toFixed(1)} per cent; show its pictures`,
        );
        const text = (kind, content) => {
          const span = document.createElement("span");
          span.className = kind;
          span.textContent = content;
          return span;
        };
        const track = document.createElement("span");
        track.className = "track";
        const fill = document.createElement("span");
        fill.className = "fill";
        fill.style.cssText = `display:block;width:${(100 * share) / largest}%`;
        track.append(fill);
        button.append(text("", names[i]), track, text("number", `${(100 * share).toFixed(1)} % of ${drawn[i]}`));
        button.addEventListener("click", () => {
          state[key] = state[key] === i ? -1 : i;
          part(key === "domain" ? "domain" : "class").value = state[key];
          state.group = part("group").value = "";
          draw();
          part("pictures").scrollIntoView({ block: "nearest" });
        });
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
  }

  function columns(name, values, titles) {
    const largest = Math.max(...values, 1e-9);
    part(name).replaceChildren(
      ...values.map((value, i) => {
        const column = document.createElement("div");
        column.style.height = `${(100 * value) / largest}%`;
        column.title = titles[i];
        return column;
      }),
    );
  }

  function pictures() {
    let rows;
    if (state.group) rows = data.groups[state.group];
    else
      rows = Object.keys(data.samples)
        .filter((row) => data.samples[row].drawn)
        .sort((a, b) => {
          const [x, y] = [data.samples[a], data.samples[b]];
          return y.kept / y.drawn - x.kept / x.drawn || y.loss - x.loss;
        });
    const shown = rows
      .map((row) => data.samples[row])
      .filter(
        (s) =>
          s && (state.domain < 0 || s.domain === state.domain) && (state.label < 0 || s.class === state.label),
      )
      .slice(0, 24);
    part("count").textContent = shown.length ? "" : "No picture of this kind is in the report.";
    part("pictures").replaceChildren(...shown.map(picture));
  }

  function describe(s) {
    const lines = [`${data.classes[s.class]}, ${data.domains[s.domain]}`];
    if (s.drawn) lines.push(`selected ${s.kept} of ${s.drawn} times, mean loss ${s.loss ?? "unknown"}`);
    if (s.relapses) lines.push(`forgotten ${s.relapses} ${s.relapses === 1 ? "time" : "times"}`);
    if (s.teacher) lines.push(`teacher: ${s.teacher} (${s.sure})`);
    return lines;
  }

  function picture(s) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `${describe(s).join("; ")}; enlarge`);
    if (s.picture) {
      const image = document.createElement("img");
      image.src = s.picture;
      image.alt = "";
      image.loading = "lazy";
      button.append(image);
    }
    for (const line of describe(s)) {
      const row = document.createElement("div");
      row.textContent = line;
      button.append(row);
    }
    button.addEventListener("click", () => enlarge(s));
    item.append(button);
    return item;
  }

  function enlarge(s) {
    const dialog = document.getElementById("picture");
    dialog.querySelector("img").src = s.picture;
    dialog.querySelector("img").alt = `${data.classes[s.class]}, ${data.domains[s.domain]}`;
    dialog.querySelector("p").textContent = [...describe(s), s.path].join("\n");
    dialog.showModal();
  }

  function draw() {
    bars("domains", "domain", data.domains, cells("domain"), 1, data.sources);
    bars("classes", "label", data.classes, cells("class"), 2, data.classes.map((_, i) => i));
    const over = shares(cells("window"), 0, spans.length);
    columns(
      "time",
      over.kept.map((k, i) => (over.drawn[i] ? k / over.drawn[i] : 0)),
      spans.map(([i, first, last]) => `steps ${first} to ${last}: ${over.kept[i]} of ${over.drawn[i]} selected`),
    );
    const ends = (name, ...texts) =>
      part(name).replaceChildren(...texts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    const highest = Math.max(0, ...over.kept.map((k, i) => (over.drawn[i] ? k / over.drawn[i] : 0)));
    ends("time-ends", `step ${data.edges[0]}`, `tallest: ${(100 * highest).toFixed(1)} %`, `step ${data.edges.at(-1) - 1}`);
    const losses = new Array(data.loss_edges.length - 1).fill(0);
    for (const cell of cells()) cell[5].forEach((n, i) => (losses[i] += n));
    columns(
      "losses",
      losses,
      losses.map((n, i) => `loss ${data.loss_edges[i]} to ${data.loss_edges[i + 1]}: ${n} draws`),
    );
    ends("loss-ends", `loss ${data.loss_edges[0]}`, `${data.loss_edges.at(-1)} and more`);
    const total = cells().reduce(([d, k], cell) => [d + cell[3], k + cell[4]], [0, 0]);
    part("summary").textContent = total[0]
      ? `${total[1].toLocaleString("en")} of ${total[0].toLocaleString("en")} draws selected (${((100 * total[1]) / total[0]).toFixed(1)} %)`
      : "nothing was drawn in these steps";
    pictures();
  }
  draw();
}
