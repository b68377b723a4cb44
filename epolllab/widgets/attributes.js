// Sets attributes of a panel's elements that ipywidgets cannot set, such as aria-label.
//
// `attributes` maps CSS selectors to attributes and their values. A panel's views are created
// one after the other, so the panel is observed until every selector has matched.

function apply(panel, attributes) {
  let complete = true;
  for (const [selector, values] of Object.entries(attributes)) {
    const found = panel.querySelectorAll(selector);
    complete &&= found.length > 0;
    for (const element of found) {
      for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
    }
  }
  return complete;
}

function render({ model, el }) {
  el.style.display = 'none';
  let panel = null;
  let frame = 0;
  const observer = new MutationObserver(update);

  function update() {
    if (!panel) return;
    observer.disconnect();
    if (!apply(panel, model.get('attributes'))) {
      observer.observe(panel, { childList: true, subtree: true });
    }
  }

  // The view is put into the page some time after it was rendered.
  function find() {
    panel = el.closest('.epl');
    if (panel) update();
    else frame = requestAnimationFrame(find);
  }

  model.on('change:attributes', update);
  find();
  return () => {
    cancelAnimationFrame(frame);
    observer.disconnect();
    model.off('change:attributes', update);
  };
}

export default { render };
