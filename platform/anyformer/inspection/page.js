// The desk: one head's map, and what the chosen slot looks at, shaded over the words and pictures themselves.
(() => {
  const known = JSON.parse(document.getElementById("known").textContent);
  const desk = document.getElementById("desk");
  const level = new Map(known.palette.map((colour, index) => [colour, index]));
  const kept = new Map();
  const MOST_LABELS = 40;
  const LIKELIEST = 6;

  // Weights of a map, read back from its picture: NaN where the mask hides, else (level / levels)².
  function weightsOf(image) {
    if (kept.has(image)) return kept.get(image);
    const [keys, queries] = [image.naturalWidth, image.naturalHeight];
    const canvas = Object.assign(document.createElement("canvas"), { width: keys, height: queries });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, keys, queries).data;
    const values = new Float32Array(keys * queries);
    for (let i = 0; i < values.length; i++) {
      const [red, green, blue, seen] = pixels.subarray(4 * i, 4 * i + 4);
      const index = level.get((red << 16) | (green << 8) | blue);
      values[i] = seen ? ((index - 1) / known.levels) ** 2 : NaN;
    }
    const map = { keys, queries, row: query => values.subarray(query * keys, (query + 1) * keys) };
    kept.set(image, map);
    return map;
  }

  const told = weight => Number.isNaN(weight) ? "hidden" : weight < 0.001 ? "<0.001" : weight.toPrecision(weight < 0.01 ? 2 : 3);
  const named = (axis, slot) => `${slot} ${known.axes[axis][slot]}`;

  function element(tag, settings = {}, ...children) {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...children);
    return made;
  }

  // Where the pointer stands on a picture of a map.
  function under(event, image, map) {
    const box = image.getBoundingClientRect();
    const at = (part, size, count) => Math.min(count - 1, Math.max(0, Math.floor(part / size * count)));
    return { query: at(event.clientY - box.top, box.height, map.queries), key: at(event.clientX - box.left, box.width, map.keys) };
  }

  const tip = element("div", { id: "tip", hidden: true });
  document.body.append(tip);
  function show(event, words) {
    tip.textContent = words;
    tip.hidden = false;
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    tip.style.left = `${right ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)}px`;
  }
  const hide = () => { tip.hidden = true; };

  function watch(image, tile) {
    image.addEventListener("mousemove", event => {
      const map = weightsOf(tile.querySelector("img"));
      const { query, key } = under(event, image, map);
      const { queries, keys } = tile.dataset;
      show(event, `${named(queries, query)} → ${named(keys, key)}\n${told(map.row(query)[key])}`);
    });
    image.addEventListener("mouseleave", hide);
  }

  for (const part of document.querySelectorAll("#input [data-s]")) {
    part.title = named(part.closest("[data-axis]").dataset.axis, part.dataset.s);
  }
  const tiles = [...document.querySelectorAll(".map")];
  if (!desk || !tiles.length) return;
  let tile, query;

  function labels(kind, axis, count, marked) {
    const bar = element("div", { className: kind });
    if (count > MOST_LABELS) return bar;
    for (let slot = 0; slot < count; slot++) {
      const word = known.axes[axis][slot];
      bar.append(element("span", { textContent: word.length > 12 ? `${word.slice(0, 11)}…` : word, className: slot === marked ? "on" : "" }));
    }
    return bar;
  }

  function whole(map) {
    const { queries, keys } = tile.dataset;
    const image = tile.querySelector("img").cloneNode();
    const row = element("div", { className: "row" });
    row.style.top = `${100 * query / map.queries}%`;
    row.style.height = `${100 / map.queries}%`;
    const chart = element("div", { className: "chart" }, image, row);
    watch(image, tile);
    image.addEventListener("click", event => open(tile, under(event, image, map).query));
    return element("div", { className: "whole" }, labels("left", queries, map.queries, query), chart, labels("below", keys, map.keys));
  }

  // A copy of an axis; its slots choose who asks, and are shaded if they are looked at.
  function axis(name, weights, asks) {
    const copy = document.getElementById(`axis-${name}`).cloneNode(true);
    copy.removeAttribute("id");
    const most = weights ? Math.max(...weights.filter(weight => !Number.isNaN(weight))) : 1;
    for (const part of copy.querySelectorAll("[data-s]")) {
      const slot = Number(part.dataset.s);
      const weight = weights?.[slot];
      if (weights) part.style.setProperty("--w", (weight > 0 ? weight / most : 0).toFixed(3));
      part.title = weights && weight !== undefined ? `${named(name, slot)}: ${told(weight)}` : named(name, slot);
      if (asks && slot < weightsOf(tile.querySelector("img")).queries) {
        part.classList.toggle("asks", slot === query);
        part.addEventListener("click", () => open(tile, slot));
      }
    }
    return copy;
  }

  function likeliest(keys, weights) {
    const order = [...weights.keys()].filter(key => weights[key] > 0).sort((a, b) => weights[b] - weights[a]);
    const items = order.slice(0, LIKELIEST).map(key => {
      const bar = element("i");
      bar.style.width = `${100 * weights[key]}%`;
      return element("li", {}, element("code", { textContent: named(keys, key) }), bar, element("span", { textContent: told(weights[key]) }));
    });
    return element("ul", { className: "most" }, ...items);
  }

  function open(chosen, row) {
    tile?.setAttribute("aria-pressed", "false");
    tile = chosen;
    tile.setAttribute("aria-pressed", "true");
    const map = weightsOf(tile.querySelector("img"));
    query = Math.min(row, map.queries - 1);
    const { queries, keys } = tile.dataset;
    const weights = [...map.row(query)];
    const parts = [
      element("h3", { textContent: tile.querySelector("img").alt }), whole(map),
      element("p", {}, "Slot ", element("code", { textContent: named(queries, query) }), " looks at"),
      likeliest(keys, weights), axis(keys, weights, queries === keys),
    ];
    if (queries !== keys) parts.push(element("p", { textContent: "Choose the slot that asks:" }), axis(queries, null, true));
    else parts.push(element("p", { textContent: "Choose another slot in the map, in the sequence or with ↑ ↓; another head with ← →." }));
    desk.replaceChildren(...parts);
    desk.hidden = false;
    hide();
  }

  for (const one of tiles) {
    const image = one.querySelector("img");
    watch(image, one);
    one.addEventListener("click", event => {
      open(one, event.detail ? under(event, image, weightsOf(image)).query : query ?? 0);
      desk.scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
  }
  desk.addEventListener("keydown", event => {
    const move = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const next = tiles[(tiles.indexOf(tile) + move[0] + tiles.length) % tiles.length];
    open(next, Math.max(0, query + move[1]));
  });
  const first = tiles.find(one => "first" in one.dataset) ?? tiles[0];
  const start = first.querySelector("img");
  start.decode().then(() => open(first, start.naturalHeight - 1));
})();
