// What a test asks of JupyterLab from within its page: its own commands, by promise.
window.lab = (() => {
  const commands = () => window.jupyterapp.commands;
  let open = null; // the notebook that is open
  let complaints = []; // what its kernel sent besides the cells' outputs

  // Printed by the kernel when a page connects to it; nothing of ours.
  const HARMLESS = /^(No such comm|Kernel is running over TCP)/;

  function listen(_, message) {
    const kind = message.header.msg_type;
    if (kind === 'error') {
      complaints.push(`${message.content.ename}: ${message.content.evalue}`);
    } else if (kind === 'stream' && message.content.name === 'stderr') {
      const said = message.content.text.split('\n').filter(line => line && !HARMLESS.test(line));
      if (said.length) complaints.push(said.join('\n'));
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
    complaints = [];
    open.sessionContext.iopubMessage.connect(listen);
  }

  // Run all cells; also a failing one ends the promise.
  async function runAll() {
    await commands().execute('notebook:run-all-cells');
    return open.content.model.toJSON().cells
      .filter(cell => cell.cell_type === 'code')
      .map(cell => ({
        source: cell.source,
        count: cell.execution_count,
        errors: cell.outputs.filter(out => out.output_type === 'error')
          .map(out => out.traceback.join('\n')),
        said: cell.outputs.filter(out => out.name === 'stderr').map(out => out.text),
      }));
  }

  // Put this source into the only cell, and run it.
  async function show(source) {
    open.content.model.sharedModel.cells[0].setSource(source);
    return await runAll();
  }

  // Ask the kernel, past the cells; what it printed.
  async function ask(code) {
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
    closing.context.model.dirty = false; // or a dialog asks whether to save
    closing.close();
  }

  async function save() {
    await open.context.save();
  }

  async function theme(name) {
    await commands().execute('apputils:change-theme', { theme: name });
  }

  return {
    started, openNotebook, runAll, show, ask, save, close, theme, complaints: () => complaints,
  };
})();
