// The maps: choices of encoder and colour, arrow keys, and the chosen image beside the map.
(() => {
  "use strict";
  const named = (name) => document.createElement(name);

  function fill(select, names, groups) {
    const parents = new Map();
    select.replaceChildren();
    names.forEach((name, place) => {
      const option = named("option");
      option.value = String(place);
      option.textContent = name;
      let parent = select;
      if (groups) {
        parent = parents.get(groups[place]);
        if (!parent) {
          parent = named("optgroup");
          parent.label = groups[place] === "finding" ? "Findings" : "Chart";
          parents.set(groups[place], parent);
          select.append(parent);
        }
      }
      parent.append(option);
    });
  }

  function legend(place, entries) {
    place.replaceChildren(...entries.map(([word, colour]) => {
      const entry = named("span"), dot = named("i");
      entry.className = "key";
      dot.className = "swatch";
      dot.style.background = colour;
      entry.append(dot, word);
      return entry;
    }));
  }

  async function start(box) {
    const what = JSON.parse(box.querySelector("[data-island]").textContent);
    const canvas = box.querySelector(".canvas");
    const views = await Bokeh.embed.embed_item(what.item, canvas.id);
    const view = views.roots ? views.roots[0] : Object.values(views)[0];
    const source = view.model.document.get_model_by_id(what.source);
    const [encoder, layout, colour] = ["encoder", "layout", "colour"].map((name) => box.querySelector(`[data-choice=${name}]`));
    const image = box.querySelector(".frame img"), empty = box.querySelector(".frame span");
    const caption = box.querySelector(".picture p"), range = view.model;

    function show(row) {
      if (row === undefined) return;
      const images = source.data.image;
      if (images) {
        image.src = images[row];
        image.hidden = false;
        empty.hidden = true;
      } else {
        empty.textContent = "Images were left out";
      }
      caption.textContent = source.data.caption[row];
    }
    source.selected.change.connect(() => show(source.selected.indices[0]));

    fill(encoder, what.encoders.map((one) => one.name));
    const layouts = () => what.encoders[Number(encoder.value)].layouts;
    fill(layout, layouts().map((one) => one.name));
    fill(colour, what.colourings.map((one) => one.name), what.colourings.map((one) => one.group));
    function recolour() {
      const one = what.colourings[Number(colour.value)];
      if (!one) return;
      source.data = { ...source.data, colour: one.colours.map((code) => one.legend[code][1]) };
      legend(box.querySelector("[data-legend]"), one.legend);
    }
    function move() {
      const one = layouts()[Number(layout.value)];
      source.data = { ...source.data, x: one.x, y: one.y };
      range.reset.emit();
    }
    encoder.addEventListener("change", () => {
      const kept = layout.value;
      fill(layout, layouts().map((one) => one.name));
      layout.value = kept;
      move();
    });
    layout.addEventListener("change", move);
    colour.addEventListener("change", recolour);
    recolour();

    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      // From left to right on the map, so that a step goes to a neighbour.
      const x = source.data.x, order = Array.from(x.keys()).sort((a, b) => x[a] - x[b]);
      const at = order.indexOf(source.selected.indices[0] ?? -1);
      source.selected.indices = [order[(at + step + order.length) % order.length]];
    });
  }

  document.querySelectorAll("[data-map]").forEach((box) => {
    start(box).catch((error) => {
      console.error(error);
      box.querySelector("[data-legend]").textContent = `The map could not be drawn: ${error.message}`;
    });
  });
})();
