// JupyterLab's own commands for the tests, run in its page; each returns a promise.
window.lab = (() => {
  const commands = () => window.jupyterapp.commands;
  let open = null; // the open notebook
  let errors = []; // errors and stderr that its kernel sent

  // Printed by the kernel itself when a page connects to it.
  const HARMLESS = /^(No such comm|Kernel is running over TCP)/;

  function listen(_, message) {
    const kind = message.header.msg_type;
    if (kind === 'error') {
      errors.push(`${message.content.ename}: ${message.content.evalue}`);
    } else if (kind === 'stream' && message.content.name === 'stderr') {
      const lines = message.content.text.split('\n').filter(line => line && !HARMLESS.test(line));
      if (lines.length) errors.push(lines.join('\n'));
    }
  }

  async function started() {
    await window.jupyterapp.started;
    await window.jupyterapp.restored;
  }

  async function openNotebook(path) {
    await close();
    open = await commands().execute('docmanager:open', { path });
    await open.context.ready;
    await open.sessionContext.ready;
    await open.sessionContext.session.kernel.info;
    errors = [];
    open.sessionContext.iopubMessage.connect(listen);
  }

  // Run all cells; the promise resolves after a failing one, too.
  async function runAll() {
    await commands().execute('notebook:run-all-cells');
    return open.content.model.toJSON().cells
      .filter(cell => cell.cell_type === 'code')
      .map(cell => ({
        source: cell.source,
        count: cell.execution_count,
        errors: cell.outputs.filter(out => out.output_type === 'error')
          .map(out => out.traceback.join('\n')),
        stderr: cell.outputs.filter(out => out.name === 'stderr').map(out => out.text),
      }));
  }

  // Run this source in the only cell.
  async function show(source) {
    open.content.model.sharedModel.cells[0].setSource(source);
    return await runAll();
  }

  // Run code in the kernel outside the cells; return what it printed.
  async function run(code) {
    const future = open.sessionContext.session.kernel.requestExecute({ code, store_history: false });
    let text = '';
    future.onIOPub = message => {
      const { content } = message;
      if (message.header.msg_type === 'stream' && content.name === 'stdout') text += content.text;
      if (message.header.msg_type === 'error') text += content.traceback.join('\n');
    };
    const reply = await future.done;
    return { ok: reply.content.status === 'ok', text };
  }

  async function close() {
    if (!open) return;
    const closing = open;
    open = null;
    await closing.sessionContext.shutdown();
    closing.context.model.dirty = false; // otherwise a dialog asks whether to save
    closing.close();
  }

  async function save() {
    await open.context.save();
  }

  async function theme(name) {
    await commands().execute('apputils:change-theme', { theme: name });
  }

  // Restart the kernel, which writes to stderr when it starts, as the first one did.
  async function restart() {
    const { kernel } = open.sessionContext.session;
    await kernel.restart();
    await kernel.requestKernelInfo();
    errors = [];
  }

  const ownText = element =>
    [...element.childNodes].filter(n => n.nodeType === Node.TEXT_NODE).map(n => n.data).join('').trim();

  // Height of an element's text on the screen: that of an SVG is scaled with its width.
  function textHeight(element) {
    const svg = element.closest('svg');
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return parseFloat(getComputedStyle(element).fontSize) * scale;
  }

  // What is wrong with a panel's layout and with what it says to a screen reader.
  function faults(selector, least) {
    const panel = document.querySelector(selector), found = [];
    const visible = query => [...panel.querySelectorAll(query)].filter(e => e.getClientRects().length);
    const add = (what, elements) => found.push(...elements.map(e => `${what}: ${e.outerHTML.slice(0, 120)}`));
    add('too small', visible('*').filter(e => ownText(e) && textHeight(e) < least - 0.01));
    add('cut off', visible('.widget-label, button, .widget-readout').filter(e => e.scrollWidth > e.clientWidth + 1));
    add('without a name', visible('input, select, [role=slider], [role=textbox]').filter(
      e => !e.getAttribute('aria-label')));
    add('without a tooltip', visible('input:not([type=search]), select, [role=slider], button').filter(
      e => !e.title && !e.closest('[title]')));
    add('without a text alternative', visible('svg, canvas').filter(
      e => !(e.getAttribute('aria-label')?.length > 20) && !e.closest('button, [aria-hidden=true]')));
    if (panel.scrollWidth > panel.clientWidth) found.push(`the panel has ${panel.scrollWidth} px`);
    const page = document.documentElement;
    if (page.scrollWidth > innerWidth) found.push(`the page has ${page.scrollWidth} px`);
    const edge = panel.parentElement.getBoundingClientRect().right;
    if (panel.getBoundingClientRect().right > edge + 1) found.push('the panel is wider than its cell');
    return found;
  }

  return {
    started, openNotebook, runAll, show, run, save, close, theme, restart, faults,
    errors: () => errors,
  };
})();
