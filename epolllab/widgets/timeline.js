// The timeline in the page: an ES module that anywidget loads. No framework, no build step.
//
// The kernel sends records as it keeps them, 48 bytes each (see epolllab/events.py); the page
// keeps all of them, so that zooming, panning and searching need no kernel. One lane is drawn
// for the loop (of each thread), one for its callbacks, and one for each connection.
//
// A million records stay fluid because the work for a frame depends on the pixels, not on the
// records: a lane's records are sorted by time, so a binary search finds the first one in view,
// and another one skips to the next pixel. The calls that share a pixel are drawn as one, in
// the colour of the kind that took most of the time (of up to 8 of them). Errors have an
// index of their own and are never skipped.

const WORDS = 12; // of 32 bits in a record
const START = 0, END = 2, WAKE = 4, CONN = 5, FD = 6, RESULT = 7, MASK = 8, OP = 9, THREAD = 10,
  REQUEST = 11;
const NO_POSITION = 0xffff, FOREVER = 0xffffffff;
const ERROR = 1, BLOCKED = 2; // flags of a record
const READY = 255; // in place of the group of a ready row, which is a mark and no bar
const SAMPLE = 8; // calls looked at for the colour of a pixel that they share
const LIVE_LANES = 10; // connections shown while the newest records are followed
const TOP = 4, AXIS = 22, MAP = 34, RIGHT = 8; // pixels
const BEAT_MS = 5000;

// ---- records ---------------------------------------------------------------------------

// First index in [lo, hi) at which `key` is not below `value`.
function search(lo, hi, value, key) {
  while (lo < hi) {
    const middle = (lo + hi) >> 1;
    if (key(middle) < value) lo = middle + 1; else hi = middle;
  }
  return lo;
}

// The first place after `p` whose record starts at `time` or later. Most are near, so the step
// doubles until one is found.
function skip(t, p, hi, time) {
  let step = 1, lo = p;
  while (lo + step < hi && t[lo + step] < time) {
    lo += step;
    step *= 2;
  }
  hi = Math.min(lo + step, hi);
  lo++;
  while (lo < hi) {
    const middle = (lo + hi) >> 1;
    if (t[middle] < time) lo = middle + 1; else hi = middle;
  }
  return lo;
}

class Records {
  constructor(facts) {
    this.facts = facts;
    this.op = Object.fromEntries(facts.ops.map((op, number) => [op.label, number]));
    this.group = Uint8Array.from(facts.ops, op => facts.groups.indexOf(op.group));
    this.start(0);
  }

  // Forget everything; `total` records will be appended.
  start(total) {
    this.n = 0;
    this.total = total;
    this.words = new Int32Array(total * WORDS);
    this.t = new Float64Array(total); // ns since the first record
    this.end = new Float64Array(total);
    this.requests = null; // the request that each record belongs to
    this.base = null;
    this.index(Infinity);
  }

  append(view) {
    const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
    const words = new Int32Array(bytes), n = words.length / WORDS;
    if (!n) return;
    this.words.set(words, this.n * WORDS);
    this.base ??= [words[START] >>> 0, words[START + 1]];
    // Differences of 64-bit numbers that are near each other are exact in a double.
    const ns = (at) => (words[at + 1] - this.base[1]) * 2 ** 32 + (words[at] >>> 0) - this.base[0];
    for (let i = 0; i < n; i++) {
      this.t[this.n + i] = ns(i * WORDS + START);
      this.end[this.n + i] = ns(i * WORDS + END);
    }
    this.n += n;
  }

  get(row, field) { return this.words[row * WORDS + field]; }
  opOf(row) { return this.words[row * WORDS + OP] & 0xffff; }
  position(row) { return this.words[row * WORDS + OP] >>> 16; }

  // Assign lanes, sort each lane by time, and find waits and errors. With more than `limit`
  // connections, those with the newest records have lanes.
  index(limit) {
    const { n, words, t, end, op } = this;
    const threads = new Map(), keys = new Int32Array(n), seen = new Map();
    this.flags = new Uint8Array(n);
    const bad = [], waits = [];
    for (let row = 0; row < n; row++) {
      const at = row * WORDS, kind = words[at + OP] & 0xffff, result = words[at + RESULT];
      const thread = words[at + THREAD] >>> 0;
      let number = threads.get(thread);
      if (number === undefined) threads.set(thread, number = threads.size);
      const isCallback = kind === op.callback;
      const key = isCallback ? -2 - 2 * number : words[at + CONN] || -1 - 2 * number;
      keys[row] = key;
      seen.set(key, row);
      if (result < 0) {
        const blocked = this.facts.wouldBlock.includes(-result) && kind !== op.wait;
        this.flags[row] = blocked ? BLOCKED : ERROR;
        if (!blocked) bad.push(row);
      }
      if (kind === op.wait) waits.push(row);
    }
    let conns = [...seen.keys()].filter(key => key > 0);
    if (conns.length > limit) {
      conns = conns.sort((a, b) => seen.get(b) - seen.get(a)).slice(0, limit);
    }
    const loops = [...seen.keys()].filter(key => key < 0).sort((a, b) => b - a);
    const lanes = [...loops, ...conns.sort((a, b) => a - b)];
    const ids = [...threads.keys()], several = ids.length > 1;
    this.lanes = lanes.map(key => {
      if (key > 0) return `conn ${key}`;
      const what = key % 2 ? 'loop' : 'callbacks';
      return several ? `${what} ${ids[(-key - 1) >> 1] || ''}` : what;
    });
    this.bad = Int32Array.from(bad);
    this.waits = Int32Array.from(waits);
    this.waitOf = null;
    this.byTime = null;
    this.gaps = null;
    this.sortLanes(keys, lanes);
    this.first = Infinity;
    this.last = 0;
    for (let row = 0; row < n; row++) {
      if (t[row] < this.first) this.first = t[row];
      if (end[row] > this.last) this.last = end[row];
    }
    if (!n) this.first = 0;
  }

  // A counting sort by lane; within a lane by start, which is nearly the order of the records.
  sortLanes(keys, lanes) {
    const { n, t, end } = this;
    const laneOf = new Map(lanes.map((key, lane) => [key, lane]));
    this.lane = new Int32Array(n);
    const counts = new Int32Array(lanes.length + 1);
    for (let row = 0; row < n; row++) {
      const lane = laneOf.get(keys[row]) ?? -1;
      this.lane[row] = lane;
      if (lane >= 0) counts[lane + 1]++;
    }
    for (let lane = 0; lane < lanes.length; lane++) counts[lane + 1] += counts[lane];
    this.begins = counts.slice();
    const next = counts.slice(0, lanes.length);
    this.order = new Int32Array(counts[lanes.length]);
    for (let row = 0; row < n; row++) if (this.lane[row] >= 0) this.order[next[this.lane[row]]++] = row;
    // The latest end so far, which finds a call that began before the view and lasts into it.
    this.until = new Float64Array(this.order.length);
    // Start, end and group in this order: what is drawn together is together in memory.
    this.laneT = new Float64Array(this.order.length);
    this.laneEnd = new Float64Array(this.order.length);
    this.laneGroup = new Uint8Array(this.order.length);
    for (let lane = 0; lane < lanes.length; lane++) {
      const rows = this.order.subarray(this.begins[lane], this.begins[lane + 1]);
      if (!isSorted(rows, t)) rows.sort((a, b) => t[a] - t[b]);
      let latest = -Infinity, place = this.begins[lane];
      for (const row of rows) {
        if (end[row] > latest) latest = end[row];
        const op = this.opOf(row);
        this.until[place] = latest;
        this.laneT[place] = t[row];
        this.laneEnd[place] = end[row];
        this.laneGroup[place++] = op === this.op.ready ? READY : this.group[op];
      }
    }
  }

  // Places in `order` of a lane's records that overlap a span of time.
  within(lane, from, to) {
    const lo = this.begins[lane], hi = this.begins[lane + 1];
    const first = search(lo, hi, from, p => this.until[p]);
    return [first, search(first, hi, to, p => this.laneT[p])];
  }

  // All records by start.
  inTime() {
    if (!this.byTime) {
      this.byTime = Int32Array.from({ length: this.n }, (_, row) => row);
      if (!isSorted(this.byTime, this.t)) this.byTime.sort((a, b) => this.t[a] - this.t[b]);
    }
    return this.byTime;
  }

  // The wait that returned what a record belongs to, or -1.
  wait(row) {
    this.waitOf ??= new Map(Array.from(this.waits, wait => [this.get(wait, WAKE), wait]));
    return this.waitOf.get(this.get(row, WAKE)) ?? -1;
  }

  // The longest times in which a thread made no recorded call: [length, from, to, row after].
  longestGaps() {
    if (this.gaps) return this.gaps;
    const latest = new Map();
    let found = [];
    for (const row of this.inTime()) {
      const thread = this.get(row, THREAD), before = latest.get(thread);
      if (before !== undefined && this.t[row] > before) {
        found.push([this.t[row] - before, before, this.t[row], row]);
        if (found.length > 10000) found = longest(found);
      }
      latest.set(thread, Math.max(before ?? -Infinity, this.end[row]));
    }
    this.gaps = longest(found);
    return this.gaps;
  }
}

const longest = gaps => gaps.sort((a, b) => b[0] - a[0]).slice(0, 50);

function isSorted(rows, t) {
  for (let i = 1; i < rows.length; i++) if (t[rows[i]] < t[rows[i - 1]]) return false;
  return true;
}

// ---- words -----------------------------------------------------------------------------

const count = n => n.toLocaleString('en-US');
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? '' : 's'}`;
const UNITS = [[1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']];

function duration(ns) {
  const [size, name] = UNITS.find(([size]) => ns >= size) ?? UNITS[3];
  return `${size === 1 ? Math.round(ns) : Number((ns / size).toPrecision(3))} ${name}`;
}

// An instant with all its digits, to the nanosecond.
const instant = ns => `${(ns / 1e6).toLocaleString('en-US', { minimumFractionDigits: 6 })} ms`;

class Words {
  constructor(records, model) {
    this.r = records;
    this.model = model;
    this.facts = records.facts;
  }

  error(number) { return this.facts.errors[number] ?? `errno ${number}`; }

  mask(mask) {
    const names = this.facts.masks.filter(([bit]) => mask & bit).map(([, name]) => name);
    const rest = this.facts.masks.reduce((left, [bit]) => left & ~bit, mask) >>> 0;
    if (rest) names.push(`0x${rest.toString(16)}`);
    return names.join('|') || '0';
  }

  operation(row) {
    const { r } = this, label = this.facts.ops[r.opOf(row)]?.label ?? `operation ${r.opOf(row)}`;
    if (label !== 'submit' && label !== 'complete') return label;
    const mask = r.get(row, MASK);
    const flags = this.facts.flags.filter(([bit]) => mask & bit).map(([, name]) => name);
    return `${label} ${[this.facts.ops[mask & 0xff]?.label ?? '?', ...flags].join('|')}`;
  }

  // What a call did, in a few words.
  outcome(row) {
    const { r } = this, op = this.facts.ops[r.opOf(row)]?.label;
    const result = r.get(row, RESULT), mask = r.get(row, MASK) >>> 0;
    const error = result < 0 ? this.error(-result) : '';
    const bytes = plural(Math.max(result, 0), 'byte');
    if (error) return r.flags[row] === BLOCKED ? `${error}: it would block` : `${error}: it failed`;
    if (op === 'wait') {
      const limit = mask === FOREVER ? 'no timeout' : `timeout ${duration(mask * 1000)}`;
      return `${plural(result, 'descriptor')} returned, ${limit}`;
    }
    if (op === 'ready' || op === 'register' || op === 'modify') return this.mask(mask);
    if (op === 'recv' && !result) return '0 bytes: end of file';
    if (['recv', 'send', 'read', 'write'].includes(op)) return bytes;
    if (op === 'accept') return `fd ${result}${mask ? `, peer port ${mask}` : ''}`;
    if (op === 'handle') {
      const target = this.model.get('targets')[mask >>> 16];
      const status = mask & 0xffff;
      return [`response of ${bytes}`, status && `status ${status}`, target].filter(Boolean).join(', ');
    }
    if (op === 'callback') return this.model.get('callbacks')[mask] ?? `callback ${mask}`;
    if (op === 'submit' || op === 'complete') {
      const moves = ['recv', 'send', 'read', 'write'].includes(this.facts.ops[mask & 0xff]?.label);
      if (mask >> 16 && op === 'complete') return `fd ${result}, peer port ${mask >>> 16}`;
      return moves || op === 'submit' ? bytes : `result ${result}`;
    }
    return '';
  }

  // The lines of text about one call; `shared` calls are under the same pixel.
  call(row, shared) {
    const { r } = this, conn = r.get(row, CONN) >>> 0, fd = r.get(row, FD);
    const lane = conn ? `conn ${conn}` : r.lanes[r.lane[row]] ?? 'loop';
    const lines = [[this.operation(row), lane, fd >= 0 && `fd ${fd}`].filter(Boolean).join(' · ')];
    const outcome = this.outcome(row);
    if (outcome) lines.push(outcome);
    const took = r.end[row] - r.t[row];
    lines.push(`${took ? `took ${duration(took)}, ` : ''}at ${instant(r.t[row] - r.first)}`);
    const where = [], wake = r.get(row, WAKE) >>> 0, wait = r.wait(row), place = r.position(row);
    if (wake) where.push(`wakeup ${count(wake)}`);
    if (place !== NO_POSITION) {
      const size = wait >= 0 ? ` of ${r.get(wait, RESULT)}` : '';
      where.push(`place ${place + 1}${size} in the batch`);
    }
    const request = r.requests?.[row] ?? -1;
    if (request >= 0) where.push(`request ${count(request)}`);
    if (r.get(row, REQUEST)) where.push(`ring request ${r.get(row, REQUEST) >>> 0}`);
    if (where.length) lines.push(where.join(', '));
    if (shared > 1) lines.push(`${count(shared)} calls share this pixel; zoom in`);
    return lines;
  }
}

// A test of records for a search such as "conn 3 recv EAGAIN"; throws an Error with the word
// that means nothing.
function matcher(query, records, model) {
  const { facts, op } = records, tests = [];
  const words = query.toLowerCase().replace(/[:=,]/g, ' ').split(/\s+/).filter(Boolean);
  const field = (name, test) => row => records.get(row, name) >>> 0 === test;
  while (words.length) {
    const word = words.shift(), next = words[0];
    const number = /^\d+$/.test(next ?? '') ? Number(next) : null;
    const take = test => { words.shift(); tests.push(test); };
    if (/^conn(ection)?s?$/.test(word) && number !== null) take(field(CONN, number));
    else if (word === 'fd' && number !== null) take(field(FD, number));
    else if (/^wake(up)?$/.test(word) && number !== null) take(field(WAKE, number));
    else if (word === 'request' && number !== null) {
      take(row => records.requests?.[row] === number);
    } else if (word === 'status' && number !== null) {
      take(row => records.opOf(row) === op.handle && (records.get(row, MASK) & 0xffff) === number);
    } else if (/^\d+$/.test(word)) tests.push(field(CONN, Number(word)));
    else if (/^errors?$/.test(word)) tests.push(row => records.flags[row] === ERROR);
    else if (word === 'loop') tests.push(field(CONN, 0));
    else if (word.startsWith('/')) {
      const wanted = model.get('targets').map(target => target.toLowerCase().includes(word));
      tests.push(row => records.opOf(row) === op.handle && wanted[records.get(row, MASK) >>> 16]);
    } else tests.push(named(word, records));
  }
  return row => tests.every(test => test(row));
}

// The name of an operation, an error or a mask.
function named(word, records) {
  const { facts } = records, number = facts.ops.findIndex(op => op.label === word);
  if (number >= 0) {
    return row => {
      const own = records.opOf(row), isRing = own === records.op.submit || own === records.op.complete;
      return own === number || isRing && (records.get(row, MASK) & 0xff) === number;
    };
  }
  const error = Object.keys(facts.errors).find(key => facts.errors[key].toLowerCase() === word);
  if (error) return row => records.get(row, RESULT) === -error;
  const bits = word.replace(/^epoll/, '').split('|').map(
    name => facts.masks.find(([, mask]) => mask.toLowerCase() === name)?.[0]);
  if (bits.every(bit => bit !== undefined)) {
    const all = bits.reduce((sum, bit) => sum | bit, 0);
    return row => facts.ops[records.opOf(row)]?.mask && (records.get(row, MASK) & all) === all;
  }
  throw new Error(`“${word}” is no connection, operation, error or mask. Try: conn 3, recv, ` +
    'EAGAIN, RDHUP, error, or several of them.');
}

// ---- the view --------------------------------------------------------------------------

const STYLE = `
.epl-tl{position:relative;min-width:0;max-width:100%;line-height:1.35;
 font:12px/1.35 var(--jp-ui-font-family,system-ui,sans-serif);
 color:var(--jp-ui-font-color1,var(--vscode-editor-foreground,#222))}
.epl-tl canvas{display:block;width:100%;border-radius:2px}
.epl-tl canvas.epl-tl-main{touch-action:pan-y;cursor:grab}
.epl-tl canvas.epl-tl-main:active{cursor:grabbing}
.epl-tl canvas.epl-tl-map{touch-action:none;cursor:pointer}
.epl-tl :focus-visible{outline:2px solid var(--jp-brand-color1,#1976d2);outline-offset:1px}
.epl-tl-bar{display:flex;flex-wrap:wrap;gap:4px 6px;align-items:center;margin:0 0 4px}
.epl-tl-bar input,.epl-tl-bar button{font:inherit;color:inherit;padding:2px 8px;min-height:26px;
 background:var(--jp-layout-color1,transparent);border-radius:3px;box-sizing:border-box;
 border:1px solid var(--jp-border-color1,#bbb)}
.epl-tl-bar button{cursor:pointer}
.epl-tl-bar button:hover{background:var(--jp-layout-color2,#eee)}
.epl-tl-bar button:disabled,.epl-tl-bar input:disabled{opacity:.5;cursor:default}
.epl-tl-bar input{flex:1 1 150px;min-width:0;max-width:260px}
.epl-tl-say{min-height:1.35em;margin:0 0 2px;color:var(--jp-ui-font-color2,#666)}
.epl-tl-narrow .epl-tl-say{min-height:2.7em}
.epl-tl-caption,.epl-tl-legend{color:var(--jp-ui-font-color2,#666);margin:2px 0}
.epl-tl-legend{min-height:1.35em}
.epl-tl-legend span{display:inline-block;margin-right:10px;white-space:nowrap}
.epl-tl-legend svg{display:inline-block;width:10px;height:10px;margin-right:4px;
 vertical-align:-1px}
.epl-tl-tip{position:absolute;z-index:5;pointer-events:none;padding:4px 8px;border-radius:3px;
 max-width:min(340px,90%);overflow-wrap:anywhere;visibility:hidden;
 color:var(--jp-ui-font-color1,#222);background:var(--jp-layout-color1,#fff);
 border:1px solid var(--jp-border-color1,#bbb);box-shadow:0 1px 5px #0005}
.epl-tl-tip div:first-child{font-weight:600}
`;

const HELP = 'Arrow keys move through time and lanes, plus and minus zoom, comma and full stop ' +
  'go from call to call, Enter selects the request, Z zooms to the call, E finds the next ' +
  'error, G the longest gap, slash searches, Home shows everything, Escape clears.';

function make(parent, tag, properties = {}) {
  const { attributes = {}, ...own } = properties;
  const element = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

class View {
  constructor(model, el) {
    this.model = model;
    this.records = new Records(model.get('facts'));
    this.words = new Words(this.records, model);
    this.from = 0; // the span of time in view, in ns
    this.to = 1;
    this.lane0 = 0; // the first lane in view
    this.span = null; // how much time is shown while records are followed
    this.shown = -1; // the call whose text is shown
    this.pointer = null;
    this.chosen = null; // the records that are not dimmed, or null for all
    this.gap = null;
    this.build(el);
    const redraw = () => this.redraw();
    this.sizes = new ResizeObserver(() => (this.font ? redraw() : this.retheme()));
    this.sizes.observe(this.root);
    this.themes = new MutationObserver(() => this.retheme());
    this.themes.observe(document.body, { attributes: true });
    this.heard = {
      'change:rows': () => this.rowsChanged(),
      'change:version': () => this.load(),
      'change:window_ns': () => { this.span = null; redraw(); },
      'change:caption': () => { this.caption.textContent = model.get('caption'); },
      'msg:custom': (message, buffers) => this.receive(message, buffers),
    };
    for (const [name, action] of Object.entries(this.heard)) model.on(name, action);
    this.load();
  }

  close() {
    for (const [name, action] of Object.entries(this.heard)) this.model.off(name, action);
    document.removeEventListener('scroll', this.onScroll, { capture: true });
    this.sizes.disconnect();
    this.themes.disconnect();
    cancelAnimationFrame(this.frame);
    this.root.remove();
  }

  // ---- the parts of the page

  build(el) {
    const root = this.root = make(el, 'div', { className: 'epl-tl', timeline: this });
    make(root, 'style', { textContent: STYLE });
    const bar = make(root, 'div', { className: 'epl-tl-bar' });
    const button = (name, label, title, action) => make(bar, 'button', {
      type: 'button', className: `epl-tl-${name}`, textContent: label, title, onclick: action,
    });
    this.follow = button('follow', '', '', () => this.toggleLive());
    this.box = make(bar, 'input', {
      type: 'search', placeholder: 'conn 3, recv, EAGAIN, RDHUP', oninput: () => this.find(),
      attributes: { 'aria-label': 'Search calls by connection, operation, error or mask' },
      onkeydown: event => this.searchKey(event),
    });
    this.tools = [
      this.box,
      button('error', 'Next error', 'Go to the next call that failed (E)', () => this.nextError()),
      button('gap', 'Longest gap', 'Go to the longest time without a recorded call; again for the ' +
        'next one (G)', () => this.nextGap()),
      button('in', '+', 'Zoom in (+)', () => this.zoom(0.5)),
      button('out', '\u2212', 'Zoom out (\u2212)', () => this.zoom(2)),
      button('all', 'All', 'Show the whole recording (Home)', () => this.showAll()),
    ];
    this.tools[3].setAttribute('aria-label', 'Zoom in');
    this.tools[4].setAttribute('aria-label', 'Zoom out');
    this.say = make(root, 'div', { className: 'epl-tl-say', attributes: { role: 'status' } });
    this.main = make(root, 'canvas', {
      className: 'epl-tl-main', tabIndex: 0,
      attributes: { role: 'application', 'aria-roledescription': 'timeline',
        'aria-description': HELP },
    });
    this.map = make(root, 'canvas', {
      className: 'epl-tl-map',
      attributes: { role: 'img', 'aria-label': 'Wakeups over the whole recording' },
    });
    this.legend = make(root, 'div', { className: 'epl-tl-legend' });
    this.caption = make(root, 'div', {
      className: 'epl-tl-caption', textContent: this.model.get('caption'),
    });
    this.tip = make(root, 'div', {
      className: 'epl-tl-tip', attributes: { role: 'status', 'aria-live': 'polite' },
    });
    // JupyterLab's shortcuts must not take the keys of what has the focus here.
    for (const part of root.querySelectorAll('button,input,canvas')) {
      part.setAttribute('data-lm-suppress-shortcuts', 'true');
    }
    this.listen();
    this.retheme();
  }

  // Light or dark by the colour of the page's text; the colours are those of plots/style.py.
  retheme() {
    const style = getComputedStyle(this.root); // empty before the view is in the page
    const [r, g, b] = (style.color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
    const dark = 0.3 * r + 0.6 * g + 0.1 * b > 128;
    this.colors = this.model.get('facts').colors[dark ? 'dark' : 'light'];
    this.ink = style.color;
    this.font = style.fontFamily;
    this.root.dataset.theme = dark ? 'dark' : 'light';
    this.mapImage = null;
    this.writeLegend();
    this.redraw();
  }

  color(label) {
    const { facts, op } = this.records;
    return this.colors.groups[facts.ops[op[label]].group];
  }

  writeLegend() {
    const { facts } = this.records, colors = this.colors;
    this.legend.replaceChildren();
    const present = new Set(this.live ? this.seen : []);
    for (let row = 0; row < Math.min(this.records.n, 200000); row++) {
      present.add(this.records.opOf(row));
    }
    const add = (path, style, text) => {
      const item = make(this.legend, 'span');
      item.innerHTML = `<svg viewBox="0 0 10 10" aria-hidden="true"><path d="${path}"/></svg>`;
      item.firstChild.firstChild.setAttribute('style', style);
      item.append(text);
    };
    const marks = { ready: ['M1 1h8l-4 8z', `fill:${this.ink}`],
      submit: ['M1 1v8l8-4z', `fill:none;stroke:${this.color('submit')};stroke-width:1.6`],
      complete: ['M9 1v8l-8-4z', `fill:${this.color('complete')}`] };
    for (const group of facts.groups) {
      const labels = facts.ops.filter((op, number) => op.group === group && present.has(number)
        && !marks[op.label]).map(op => op.label);
      const text = group === 'control' ? 'epoll_ctl' : labels.join(', ');
      if (labels.length) add('M0 0h10v10H0z', `fill:${colors.groups[group]}`, text);
    }
    for (const [label, [path, style]] of Object.entries(marks)) {
      if (present.has(this.records.op[label])) add(path, style, label);
    }
    if (this.records.flags.includes(BLOCKED)) {
      add('M1 1l8 8M9 1l-8 8', `fill:none;stroke:${colors.alarm};stroke-width:1.8`, 'would block');
    }
    if (this.records.bad.length) add('M5 0l5 5-5 5-5-5z', `fill:${colors.alarm}`, 'error');
  }

  // ---- records arrive

  load() {
    const { model } = this;
    this.live = model.get('live');
    this.records.start(model.get('total'));
    this.seen = new Set();
    this.chosen = this.gap = null;
    this.shown = -1;
    this.hideTip();
    this.follow.hidden = !model.get('can_follow');
    this.follow.textContent = this.live ? 'Pause' : 'Follow';
    this.follow.title = this.live ? 'Stop, and look at everything recorded so far'
      : 'Show the newest calls as they are made';
    this.tools.forEach(tool => { tool.disabled = this.live; });
    this.say.textContent = '';
    if (this.live) this.rowsChanged(); else this.add(model.get('rows'));
  }

  rowsChanged() {
    if (!this.live) return;
    const view = this.model.get('rows'), { records } = this;
    const before = this.seen.size;
    records.start(view.byteLength / (4 * WORDS));
    records.append(view);
    records.index(LIVE_LANES);
    // What was once seen stays in the legend, which would change all the time otherwise.
    for (let row = 0; row < records.n; row++) this.seen.add(records.opOf(row));
    if (this.seen.size > before) this.writeLegend();
    this.mapImage = null;
    this.redraw();
  }

  add(view) {
    const { records } = this, isFirst = !records.n;
    records.append(view);
    const isLast = records.n >= records.total;
    if (isFirst || isLast) {
      records.index(Infinity);
      this.mapImage = null;
      if (isFirst) this.showAll(); else if (this.isWhole) this.showAll();
      this.writeLegend();
    }
    if (isLast) this.send({ ask: 'requests' }); else this.send({ ask: 'rows', from: records.n });
    this.say.textContent = isLast ? '' :
      `${count(records.n)} of ${count(records.total)} records loaded`;
    this.root.dataset.loaded = String(isLast);
    this.redraw();
  }

  receive(message, [buffer]) {
    if (message.version !== this.model.get('version')) return;
    if (message.kind === 'rows' && message.from === this.records.n) this.add(buffer);
    if (message.kind === 'requests') {
      const { byteOffset, byteLength } = buffer;
      this.records.requests =
        new Int32Array(buffer.buffer.slice(byteOffset, byteOffset + byteLength));
      this.root.dataset.requests = 'true';
    }
  }

  send(message) {
    try { this.model.send(message); } catch { /* the kernel has gone */ }
  }

  toggleLive() { this.send({ ask: this.live ? 'pause' : 'follow' }); }

  // ---- where things are

  measure() {
    const width = Math.max(this.root.clientWidth, 120), lanes = this.records.lanes.length;
    const wanted = this.live ? LIVE_LANES + 1 : Math.max(lanes, this.model.get('n_lanes'), 3);
    this.laneHeight = wanted <= 20 ? 18 : wanted <= 30 ? 12 : 9;
    this.room = Math.min(wanted, Math.floor(360 / this.laneHeight));
    this.root.classList.toggle('epl-tl-narrow', width < 500);
    const longest = Math.max(...this.records.lanes.map(name => name.length), 0);
    this.left = Math.min(Math.max(longest * 6.8 + 6, width < 500 ? 60 : 78), 116);
    this.width = width;
    this.height = TOP + this.room * this.laneHeight + AXIS;
    this.perPixel = (this.to - this.from) / Math.max(width - this.left - RIGHT, 1);
    this.lane0 = Math.max(0, Math.min(this.lane0, lanes - this.room));
  }

  x(ns) { return this.left + (ns - this.from) / this.perPixel; }
  time(x) { return this.from + (x - this.left) * this.perPixel; }
  y(lane) { return TOP + (lane - this.lane0) * this.laneHeight; }

  get isWhole() {
    const { first, last } = this.records;
    return this.from <= first && this.to >= last;
  }

  look(from, to) {
    const { first, last } = this.records, whole = Math.max((last - first) * 1.02, 100);
    const span = Math.min(Math.max(to - from, 50), whole);
    const middle = (from + to) / 2, margin = (whole - (last - first)) / 2;
    this.from = Math.min(Math.max(middle - span / 2, first - margin), last + margin - span);
    this.to = this.from + span;
    this.root.dataset.from = this.from;
    this.root.dataset.to = this.to;
    this.redraw();
  }

  showAll() { this.look(this.records.first, this.records.last); }

  zoom(factor, x = this.left + (this.width - this.left) / 2) {
    if (this.live) {
      this.span = Math.min(Math.max((this.to - this.from) * factor, 1e4), 6e10);
      return this.redraw();
    }
    const at = this.time(x);
    this.look(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  // Bring a call into view; `close` zooms to it.
  goTo(row, close) {
    const { records } = this, took = records.end[row] - records.t[row];
    const middle = (records.t[row] + records.end[row]) / 2;
    let span = this.to - this.from;
    if (close) span = Math.min(span, Math.max(took * 8, 2000));
    else if (took < 4 * this.perPixel) span = Math.min(span, Math.max(took * 60, 20000));
    if (took > span) span = took * 1.5;
    const isInView = records.t[row] >= this.from && records.end[row] <= this.to;
    if (!isInView || span !== this.to - this.from) this.look(middle - span / 2, middle + span / 2);
    const lane = records.lane[row];
    if (lane < this.lane0 || lane >= this.lane0 + this.room) {
      this.lane0 = lane - (this.room >> 1);
    }
    this.measure();
    this.showTip(row);
    this.redraw();
  }

  // The call at a place of the canvas, and how many share its pixel.
  at(x, y) {
    const { records } = this, lane = this.lane0 + Math.floor((y - TOP) / this.laneHeight);
    if (x < this.left || lane < 0 || lane >= records.lanes.length || y > this.height - AXIS) return [-1, 0];
    const near = 4 * this.perPixel, at = this.time(x);
    const [lo, hi] = records.within(lane, at - near, at + near);
    const isUpper = y - this.y(lane) < 6, step = Math.max(1, Math.floor((hi - lo) / 5000));
    let best = -1, least = Infinity, shared = 0;
    for (let p = lo; p < hi; p += step) {
      const row = records.order[p], op = records.facts.ops[records.opOf(row)]?.label;
      const left = this.x(records.t[row]), right = Math.max(this.x(records.end[row]), left + 1);
      const away = Math.max(left - x, x - right, 0);
      if (Math.floor(left) === Math.floor(x)) shared += step;
      const isQuiet = op === 'wait' || op === 'callback';
      const rank = away * 4 + (isQuiet ? 3 : op === 'ready' ? (isUpper ? -2 : 2) : 0);
      if (rank < least) [least, best] = [rank, row];
    }
    return [best, shared];
  }

  // ---- drawing

  redraw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      const begin = performance.now();
      this.draw();
      this.root.dataset.drawMs = (performance.now() - begin).toFixed(2);
    });
  }

  draw() {
    const { records } = this;
    if (this.live) {
      const window = this.span ?? this.model.get('window_ns');
      this.to = records.last;
      this.from = this.to - window;
    }
    this.measure();
    const pen = canvasOf(this.main, this.width, this.height);
    this.drawLanes(pen);
    if (records.n) {
      pen.save();
      pen.beginPath();
      pen.rect(this.left - 1, 0, this.width - this.left - RIGHT + 2, this.height - AXIS);
      pen.clip();
      if (this.gap) this.drawGap(pen);
      this.drawWakes(pen);
      pen.globalAlpha = this.chosen ? 0.22 : 1;
      for (let i = 0; i < this.room; i++) {
        if (this.lane0 + i < records.lanes.length) this.drawLane(pen, this.lane0 + i);
      }
      this.drawErrors(pen, null);
      pen.globalAlpha = 1;
      if (this.chosen) this.drawChosen(pen);
      if (this.shown >= 0) this.drawFrame(pen, this.shown);
      pen.restore();
    } else this.write(pen, this.live ? 'no events yet' : 'no events', this.width / 2, 40, 'center');
    this.drawAxis(pen);
    this.drawMap();
    if (this.pointer) this.hover();
    const lanes = plural(records.lanes.length, 'lane');
    this.main.setAttribute('aria-label', this.live
      ? `Timeline of the newest calls, ${lanes}` : `${this.model.get('caption')} In view: ` +
      `${instant(this.from - records.first)} to ${instant(this.to - records.first)}, ${lanes}.`);
  }

  write(pen, text, x, y, align = 'left', color = this.colors.muted, weight = '') {
    pen.font = `${weight} 11px ${this.font}`;
    pen.textAlign = align;
    pen.textBaseline = 'middle';
    pen.fillStyle = color;
    pen.fillText(text, x, y);
  }

  drawLanes(pen) {
    const { lanes } = this.records, every = Math.ceil(13 / this.laneHeight);
    pen.fillStyle = this.colors.faint;
    for (let i = 0; i < this.room && this.lane0 + i < lanes.length; i++) {
      const lane = this.lane0 + i, y = this.y(lane), isLoop = !lanes[lane].startsWith('conn');
      pen.globalAlpha = isLoop ? 0.5 : 1;
      if (isLoop) pen.fillRect(this.left, y, this.width - this.left - RIGHT, this.laneHeight);
      else pen.fillRect(this.left, y + this.laneHeight - 1, this.width - this.left - RIGHT, 1);
      pen.globalAlpha = 1;
      if (i % every) continue;
      this.write(pen, lanes[lane], 0, y + this.laneHeight / 2, 'left', this.ink, isLoop ? '600' : '');
      pen.fillStyle = this.colors.faint;
    }
    if (lanes.length > this.room) { // a scroll bar
      const height = this.room * this.laneHeight, part = height / lanes.length;
      pen.fillStyle = this.colors.muted;
      pen.fillRect(this.width - 4, TOP + this.lane0 * part, 3, Math.max(this.room * part, 6));
    }
  }

  // A thin line at each wakeup, while there is room for them.
  drawWakes(pen) {
    const { records } = this, { waits, end } = records;
    const lo = search(0, waits.length, this.from, i => end[waits[i]]);
    const hi = search(lo, waits.length, this.to, i => end[waits[i]]);
    if (hi - lo > 60) return;
    pen.fillStyle = this.colors.muted;
    pen.globalAlpha = 0.4;
    for (let i = lo; i < hi; i++) {
      pen.fillRect(Math.round(this.x(end[waits[i]])), TOP, 1, this.height - AXIS - TOP);
    }
    pen.globalAlpha = 1;
  }

  drawLane(pen, lane) {
    const { records } = this, { order, laneT: t, laneEnd: end, laneGroup: group } = records;
    const [lo, hi] = records.within(lane, this.from, this.to);
    const y = this.y(lane), bars = this.bars(), spent = new Float64Array(bars.length);
    const crowded = []; // pixels with ready rows, where there is no room for marks
    let p = lo;
    while (p < hi) {
      const pixel = Math.floor(this.x(t[p]));
      const next = skip(t, p, hi, this.time(pixel + 1));
      if (next - p === 1) {
        this.place(pen, bars, order[p], y);
        p = next;
        continue;
      }
      // Of the calls that begin in a pixel, only the last one can be longer than the pixel.
      const isLonger = end[next - 1] > this.time(pixel + 1);
      spent.fill(0);
      const stop = next - isLonger, step = Math.max(1, Math.floor((stop - p) / SAMPLE));
      for (let q = p; q < stop; q += step) {
        if (group[q] === READY) extend(crowded, pixel, 1);
        else spent[group[q]] += end[q] - t[q] + 1;
      }
      let most = 0;
      for (let i = 1; i < spent.length; i++) if (spent[i] > spent[most]) most = i;
      if (spent[most]) extend(bars[most], pixel, 1, y);
      if (isLonger) this.place(pen, bars, order[next - 1], y);
      p = next;
    }
    this.fill(pen, bars);
    pen.fillStyle = this.ink;
    const isWide = this.perPixel * 3 < (this.to - this.from) / Math.max(hi - lo, 1);
    for (let i = 0; i < crowded.length; i += 3) {
      if (isWide) this.drawReady(pen, crowded[i], y);
      else pen.fillRect(crowded[i], y, crowded[i + 2], 3);
    }
    if (this.laneHeight >= 18) this.label(pen, lane, hi);
  }

  bars() { return this.records.facts.groups.map(() => []); }

  // Put a call's bar into its group's list, or draw its mark.
  place(pen, bars, row, y) {
    const { records } = this, op = records.opOf(row), x = this.x(records.t[row]);
    if (op === records.op.ready) return this.drawReady(pen, x, y);
    if (op === records.op.submit || op === records.op.complete) {
      return this.drawRing(pen, x, y, op === records.op.submit);
    }
    const from = Math.max(x, this.left - 2), to = Math.min(this.x(records.end[row]), this.width);
    extend(bars[records.group[op]], from, Math.max(to - from, 1), y);
  }

  fill(pen, bars) {
    const { groups } = this.records.facts, height = this.barHeight();
    bars.forEach((list, number) => {
      pen.fillStyle = this.colors.groups[groups[number]];
      for (let i = 0; i < list.length; i += 3) {
        pen.fillRect(list[i], list[i + 1] + this.laneHeight - 2 - height, list[i + 2], height);
      }
    });
  }

  barHeight() { return this.laneHeight - (this.laneHeight >= 18 ? 8 : 4); }

  drawReady(pen, x, y) {
    const size = this.laneHeight >= 18 ? 3 : 1.5;
    pen.fillStyle = this.ink;
    pen.beginPath();
    pen.moveTo(x - size, y);
    pen.lineTo(x + size, y);
    pen.lineTo(x, y + size * 1.8);
    pen.fill();
  }

  // A hollow arrow to the right is a submission, a solid one to the left a completion.
  drawRing(pen, x, y, isSubmit) {
    const height = this.barHeight(), top = y + this.laneHeight - 2 - height;
    const to = isSubmit ? 6 : -6;
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, top + height);
    pen.lineTo(x + to, top + height / 2);
    pen.closePath();
    pen.fillStyle = pen.strokeStyle = this.color(isSubmit ? 'submit' : 'complete');
    pen.lineWidth = 1.4;
    if (isSubmit) pen.stroke(); else pen.fill();
  }

  // Write operations into wide bars, and masks beside ready marks.
  label(pen, lane, hi) {
    const { records } = this, [lo] = records.within(lane, this.from, this.to);
    if (hi - lo > 120) return;
    for (let p = lo; p < hi; p++) {
      const row = records.order[p], op = records.opOf(row), y = this.y(lane);
      const left = Math.max(this.x(records.t[row]), this.left);
      if (op === records.op.ready) {
        const after = p + 1 < hi ? this.x(records.t[records.order[p + 1]]) : this.width;
        const text = this.words.mask(records.get(row, MASK) >>> 0);
        // Only where it covers nothing: the mark stands over the bars.
        if (after - left > 6 * text.length + 10) this.write(pen, text, left + 5, y + 6);
        continue;
      }
      const text = this.words.operation(row);
      const width = Math.min(this.x(records.end[row]), this.width - RIGHT) - left;
      if (width < 6.5 * text.length + 6) continue;
      const color = this.colors.text[records.facts.ops[op].group];
      this.write(pen, text, left + 4, y + 11, 'left', color);
    }
  }

  // Marks of failed calls; of all in view, or of some records.
  drawErrors(pen, rows) {
    const { records } = this, drawn = new Set();
    const mark = row => {
      const lane = records.lane[row];
      const x = this.x(records.end[row]);
      if (lane < this.lane0 || lane >= this.lane0 + this.room || x < this.left || x > this.width) return;
      const key = lane * 8192 + Math.round(x / 2);
      if (drawn.has(key)) return;
      drawn.add(key);
      this.drawError(pen, x, this.y(lane) + this.laneHeight - 2 - this.barHeight() / 2,
        records.flags[row] === BLOCKED);
    };
    if (rows) rows.forEach(row => { if (records.flags[row]) mark(row); });
    else {
      // Ends are in order of the records, at least nearly.
      const near = search(0, records.bad.length, this.from, i => records.end[records.bad[i]]);
      for (let i = near; i < records.bad.length && records.t[records.bad[i]] <= this.to; i++) {
        mark(records.bad[i]);
      }
      // Calls that would block are many, and ordinary: marked where single calls can be seen.
      for (let lane = this.lane0; lane < Math.min(this.lane0 + this.room, records.lanes.length); lane++) {
        const [lo, hi] = records.within(lane, this.from, this.to);
        if (hi - lo > 2 * this.width) continue;
        for (let p = lo; p < hi; p++) {
          if (records.flags[records.order[p]] === BLOCKED) mark(records.order[p]);
        }
      }
    }
  }

  drawError(pen, x, y, isBlocked) {
    const size = this.laneHeight >= 18 ? 3.5 : 2.5;
    pen.fillStyle = pen.strokeStyle = this.colors.alarm;
    pen.beginPath();
    if (isBlocked) {
      pen.lineWidth = 1.6;
      pen.moveTo(x - size, y - size);
      pen.lineTo(x + size, y + size);
      pen.moveTo(x + size, y - size);
      pen.lineTo(x - size, y + size);
      pen.stroke();
    } else {
      pen.moveTo(x, y - size - 1);
      pen.lineTo(x + size + 1, y);
      pen.lineTo(x, y + size + 1);
      pen.lineTo(x - size - 1, y);
      pen.fill();
    }
  }

  // The selected request, or what the search found, over the dimmed rest.
  drawChosen(pen) {
    const { records } = this, bars = this.bars(), seen = new Map(), inView = [];
    for (const row of this.chosen) {
      const lane = records.lane[row];
      if (lane < this.lane0 || lane >= this.lane0 + this.room) continue;
      if (records.end[row] < this.from || records.t[row] > this.to) continue;
      const pixel = Math.floor(this.x(records.t[row]));
      if (seen.get(lane) === pixel && records.end[row] - records.t[row] < this.perPixel) continue;
      seen.set(lane, pixel);
      inView.push(row);
      this.place(pen, bars, row, this.y(lane));
    }
    this.fill(pen, bars);
    this.drawErrors(pen, inView);
  }

  drawFrame(pen, row) {
    const { records } = this, lane = records.lane[row];
    const left = this.x(records.t[row]), width = Math.max(this.x(records.end[row]) - left, 1);
    pen.strokeStyle = this.ink;
    pen.lineWidth = 2;
    pen.strokeRect(left - 2, this.y(lane) + 1, width + 4, this.laneHeight - 2);
  }

  drawGap(pen) {
    const [, from, to] = this.gap, x = this.x(from);
    pen.fillStyle = this.colors.alarm;
    pen.globalAlpha = 0.18;
    pen.fillRect(x, TOP, Math.max(this.x(to) - x, 2), this.height - AXIS - TOP);
    pen.globalAlpha = 1;
  }

  drawAxis(pen) {
    const { first } = this.records, y = this.height - AXIS + 12, span = this.to - this.from;
    pen.fillStyle = this.colors.muted;
    pen.fillRect(this.left, this.height - AXIS, this.width - this.left - RIGHT, 1);
    if (this.live) {
      this.write(pen, `\u2212${duration(span)}`, this.left, y);
      return this.write(pen, 'newest call', this.width - RIGHT, y, 'right');
    }
    const [size, unit] = UNITS.find(([size]) => span >= 2 * size) ?? UNITS[3];
    const wanted = span * 110 / Math.max(this.width - this.left, 110), scale = 10 ** Math.floor(Math.log10(wanted));
    const step = Math.max([1, 2, 5, 10].find(k => k * scale >= wanted) * scale, 1);
    const digits = Math.max(0, Math.ceil(-Math.log10(step / size)));
    for (let at = Math.ceil((this.from - first) / step) * step; at <= this.to - first; at += step) {
      const x = this.x(at + first);
      const text = `${(at / size).toLocaleString('en-US', { minimumFractionDigits: digits,
        maximumFractionDigits: digits })} ${unit}`;
      pen.fillStyle = this.colors.muted;
      pen.fillRect(Math.round(x), this.height - AXIS, 1, 4);
      if (x > this.left + 20 && x < this.width - 34) this.write(pen, text, x, y + 1, 'center');
    }
  }

  // Wakeups over the whole recording, with errors, and the part in view.
  drawMap() {
    const { records } = this, { first, last } = records, { width } = this;
    const pen = canvasOf(this.map, width, MAP), room = Math.max(width - this.left - RIGHT, 1);
    const x = ns => this.left + room * (ns - first) / Math.max(last - first, 1);
    const counts = this.countWakes(room);
    const most = Math.max(...counts, 1);
    pen.fillStyle = this.colors.main;
    counts.forEach((n, i) => {
      if (n) pen.fillRect(this.left + i, MAP - 3, 1, -Math.max((MAP - 10) * n / most, 1));
    });
    pen.fillStyle = this.colors.alarm;
    let lastX = -9;
    for (const row of records.bad) {
      const at = Math.floor(x(records.t[row]));
      if (at !== lastX) pen.fillRect(lastX = at, 2, 2, 4);
    }
    this.write(pen, 'wakeups', 0, MAP / 2);
    pen.fillStyle = this.colors.muted;
    pen.fillRect(this.left, MAP - 3, room, 1);
    if (!records.n) return;
    const from = Math.max(x(this.from), this.left), to = Math.min(x(this.to), width - RIGHT);
    pen.fillStyle = pen.strokeStyle = this.ink;
    pen.globalAlpha = 0.12;
    pen.fillRect(from, 0, Math.max(to - from, 2), MAP);
    pen.globalAlpha = 0.8;
    pen.lineWidth = 1;
    pen.strokeRect(from + 0.5, 0.5, Math.max(to - from - 1, 2), MAP - 1);
    pen.globalAlpha = 1;
  }

  countWakes(room) {
    if (this.mapImage?.length === Math.ceil(room)) return this.mapImage;
    const { records } = this, { first, last, end } = records;
    const counts = new Array(Math.ceil(room)).fill(0), scale = room / Math.max(last - first, 1);
    for (const wait of records.waits) {
      const at = Math.floor((end[wait] - first) * scale);
      counts[Math.min(at, counts.length - 1)]++;
    }
    this.mapImage = counts;
    return counts;
  }

  // ---- text about one call

  showTip(row, shared = 0, at = null) {
    this.shown = row;
    this.root.dataset.row = row;
    const lines = this.words.call(row, shared);
    if (this.tip.dataset.row !== `${row} ${shared}`) {
      this.tip.dataset.row = `${row} ${shared}`;
      this.tip.replaceChildren(...lines.map(text => Object.assign(document.createElement('div'),
        { textContent: text })));
    }
    const { records } = this, box = this.main.getBoundingClientRect();
    const outer = this.root.getBoundingClientRect();
    const middle = Math.min(Math.max(this.x((records.t[row] + records.end[row]) / 2), this.left), this.width);
    const [x, y] = at ?? [middle, this.y(records.lane[row]) + this.laneHeight];
    const left = Math.min(Math.max(x + 12, 0), this.width - this.tip.offsetWidth - 2);
    Object.assign(this.tip.style, { visibility: 'visible', left: `${Math.max(left, 0)}px`,
      top: `${box.top - outer.top + y + 12}px` });
  }

  hideTip() {
    Object.assign(this.tip.style, { visibility: 'hidden', left: '0' }); // or it would overflow
    this.shown = -1;
    delete this.root.dataset.row;
  }

  hover() {
    const [x, y] = this.pointer, [row, shared] = this.records.n ? this.at(x, y) : [-1, 0];
    if (row === this.shown && row >= 0) return;
    if (row >= 0) this.showTip(row, shared, [x, y]); else this.hideTip();
    this.redraw();
  }

  // ---- selecting and finding

  choose(rows, words) {
    this.chosen = rows;
    this.root.dataset.chosen = rows ? rows.length : '';
    this.say.textContent = words;
    this.redraw();
  }

  // The request that a call belongs to; or, where that is unknown, its connection.
  select(row) {
    const { records } = this, number = records.requests?.[row] ?? -1;
    const conn = records.get(row, CONN);
    const wake = records.get(row, WAKE);
    const [test, what] = number >= 0 ? [i => records.requests[i] === number, `request ${count(number)}`]
      : conn ? [i => records.get(i, CONN) === conn, `conn ${conn >>> 0}`]
        : [i => records.get(i, WAKE) === wake, `wakeup ${count(wake >>> 0)}`];
    const rows = this.all(test);
    this.choose(rows, `${what}: ${plural(rows.length, 'record')}`);
  }

  all(test) {
    const found = [];
    for (let row = 0; row < this.records.n; row++) if (test(row)) found.push(row);
    return Int32Array.from(found);
  }

  clear() {
    this.box.value = '';
    this.gap = null;
    this.choose(null, '');
    this.hideTip();
  }

  find() {
    this.gap = null;
    if (!this.box.value.trim()) return this.choose(null, '');
    try {
      const rows = this.all(matcher(this.box.value, this.records, this.model));
      this.choose(rows.length ? rows : null, rows.length ? `${plural(rows.length, 'match')
        .replace('matchs', 'matches')}; Enter for the next` : 'No call matches.');
    } catch (error) {
      this.choose(null, error.message);
    }
  }

  // Go to the next of some records after the shown call, or around to the first.
  step(rows, back = false) {
    if (!rows?.length) return -1;
    const before = this.shown;
    let place = rows.findIndex(row => row >= before);
    if (place < 0) place = rows.length;
    if (!back && before >= 0 && rows[place] === before) place++;
    if (back) place--;
    place = (place + rows.length) % rows.length;
    this.goTo(rows[place]);
    return place;
  }

  searchKey(event) {
    event.stopPropagation();
    if (event.key === 'Escape') { this.clear(); this.main.focus(); }
    if (event.key !== 'Enter') return;
    event.preventDefault();
    const place = this.step(this.chosen, event.shiftKey);
    if (place >= 0) this.say.textContent = `${count(place + 1)} of ${count(this.chosen.length)}`;
  }

  nextError() {
    const { bad, flags } = this.records, place = this.step(bad);
    if (place >= 0) {
      this.say.textContent = `error ${count(place + 1)} of ${count(bad.length)}`;
    } else {
      const blocked = flags.reduce((sum, flag) => sum + (flag === BLOCKED), 0);
      this.say.textContent = 'No call failed' +
        (blocked ? `; ${count(blocked)} would have blocked: search for EAGAIN.` : '.');
    }
  }

  nextGap() {
    const gaps = this.records.longestGaps();
    if (!gaps.length) { this.say.textContent = 'There is no gap.'; return; }
    const place = this.gap ? (gaps.indexOf(this.gap) + 1) % gaps.length : 0;
    this.gap = gaps[place];
    const [length, from, to, after] = this.gap;
    this.look(from - length / 2, to + length / 2);
    this.measure();
    const lane = this.records.lane[after];
    if (lane >= 0 && (lane < this.lane0 || lane >= this.lane0 + this.room)) this.lane0 = lane - 2;
    this.hideTip();
    this.say.textContent = `${place ? `gap ${place + 1}` : 'longest gap'}: ${duration(length)} ` +
      `without a recorded call, before ${this.words.operation(after)} ` +
      `at ${instant(to - this.records.first)}`;
  }

  // ---- mouse, touch and keyboard

  listen() {
    const { main, map } = this, down = new Map(); // pointers that are down
    let moved = 0, scrolled = -1e9;
    const place = event => {
      const box = main.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.onScroll = event => { if (!this.root.contains(event.target)) scrolled = event.timeStamp; };
    document.addEventListener('scroll', this.onScroll, { capture: true, passive: true });
    main.addEventListener('wheel', event => {
      // A page that is being scrolled goes on scrolling when this comes under the pointer.
      const isOut = event.deltaY > 0 && this.isWhole && !this.live;
      if (!event.ctrlKey && (isOut || event.timeStamp - scrolled < 250)) return;
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const by = (event.deltaX || pixels) * this.perPixel;
        if (!this.live) this.look(this.from + by, this.to + by);
      } else this.zoom(Math.exp(Math.min(Math.max(pixels, -200), 200) * (event.ctrlKey ? 0.01 : 0.003)), place(event)[0]);
    }, { passive: false });
    main.addEventListener('pointerdown', event => {
      main.setPointerCapture(event.pointerId);
      down.set(event.pointerId, place(event));
      if (down.size === 1) moved = 0;
    });
    main.addEventListener('pointermove', event => {
      const now = place(event), before = down.get(event.pointerId);
      if (!before) { this.pointer = now; this.hover(); return; }
      const others = [...down].filter(([id]) => id !== event.pointerId);
      down.set(event.pointerId, now);
      moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (others.length) this.pinch(before[0], now[0], others[0][1][0]);
      else if (moved > 4 && !this.live) {
        const by = (before[0] - now[0]) * this.perPixel;
        this.pointer = null;
        this.look(this.from + by, this.to + by);
        this.drag = (this.drag ?? 0) + before[1] - now[1];
        const lanes = Math.trunc(this.drag / this.laneHeight);
        this.lane0 += lanes;
        this.drag -= lanes * this.laneHeight;
      }
    });
    const up = event => {
      if (!down.delete(event.pointerId) || event.type !== 'pointerup' || moved > 4) return;
      const [row] = this.at(...place(event));
      if (row >= 0) { this.showTip(row, 0, place(event)); this.select(row); } else this.clear();
    };
    main.addEventListener('pointerup', up);
    main.addEventListener('pointercancel', up);
    main.addEventListener('pointerleave', () => {
      if (this.pointer) { this.pointer = null; this.hideTip(); this.redraw(); }
    });
    main.addEventListener('dblclick', event => {
      const [row] = this.at(...place(event));
      if (row >= 0 && !this.live) this.goTo(row, true);
    });
    main.addEventListener('keydown', event => this.key(event));
    const move = event => {
      if (event.type === 'pointerdown') map.setPointerCapture(event.pointerId);
      if (!event.buttons || this.live) return;
      const { first, last } = this.records, box = map.getBoundingClientRect();
      const share = (event.clientX - box.left - this.left) / (this.width - this.left - RIGHT);
      const middle = first + share * (last - first), half = (this.to - this.from) / 2;
      this.look(middle - half, middle + half);
    };
    map.addEventListener('pointerdown', move);
    map.addEventListener('pointermove', move);
  }

  // Two fingers: the moments under them stay under them.
  pinch(before, now, other) {
    if (Math.abs(now - other) < 8 || Math.abs(before - other) < 8) return;
    this.zoom(Math.abs(before - other) / Math.abs(now - other), other);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = share => {
      const by = (this.to - this.from) * share;
      this.look(this.from + by, this.to + by);
    };
    const actions = {
      ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15),
      PageUp: () => pan(-0.9), PageDown: () => pan(0.9),
      ArrowUp: () => this.otherLane(-1), ArrowDown: () => this.otherLane(1),
      '+': () => this.zoom(0.5), '=': () => this.zoom(0.5), '-': () => this.zoom(2),
      Home: () => this.showAll(), 0: () => this.showAll(),
      '.': () => this.nextCall(1), ',': () => this.nextCall(-1),
      Enter: () => { if (this.shown >= 0) this.select(this.shown); },
      z: () => { if (this.shown >= 0) this.goTo(this.shown, true); },
      e: () => this.nextError(), g: () => this.nextGap(), '/': () => this.box.focus(),
      Escape: () => this.clear(),
    };
    const action = actions[event.key.length > 1 ? event.key : event.key.toLowerCase()];
    if (!action || this.live) return;
    event.preventDefault();
    event.stopPropagation();
    this.pointer = null;
    action();
  }

  // The next call in the order of time; the first one in view without a shown call.
  nextCall(by) {
    const rows = this.records.inTime(), { t } = this.records;
    const isChosen = this.chosen && new Set(this.chosen);
    const start = this.shown >= 0 ? t[this.shown] : this.from;
    let place = search(0, rows.length, start, i => t[rows[i]]);
    if (this.shown >= 0) {
      while (place < rows.length && rows[place] !== this.shown) place++;
      place += by;
    }
    while (isChosen && place >= 0 && place < rows.length && !isChosen.has(rows[place])) place += by;
    if (place >= 0 && place < rows.length) this.goTo(rows[place]);
  }

  // The call of a neighbouring lane that is nearest in time.
  otherLane(by) {
    const { records } = this;
    if (this.shown < 0) return this.nextCall(1);
    const at = records.t[this.shown];
    for (let lane = records.lane[this.shown] + by; lane >= 0 && lane < records.lanes.length; lane += by) {
      const lo = records.begins[lane], hi = records.begins[lane + 1];
      const place = search(lo, hi, at, p => records.t[records.order[p]]);
      if (hi > lo) return this.goTo(records.order[Math.min(place, hi - 1)]);
    }
  }
}

// Add a bar to a list of [x, y, width]; one that touches the last makes that longer.
function extend(list, x, width, y = 0) {
  const last = list.length - 3;
  if (last >= 0 && list[last] + list[last + 2] >= x && list[last + 1] === y) {
    list[last + 2] = Math.max(list[last + 2], x + width - list[last]);
  } else list.push(x, y, width);
}

// A canvas of this size in CSS pixels, cleared, and sharp on every screen.
function canvasOf(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    Object.assign(canvas, { width: w, height: h });
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// ---- whether a page shows it -----------------------------------------------------------

// Tell the kernel when this view is shown, hidden, scrolled out of view or closed. A page that
// is killed cannot tell, so every state is repeated; see epolllab/widgets/presence.py.
function presence(model, el, theme) {
  const view = Math.random().toString(36).slice(2);
  let inView = false, told = '', toldTheme = '', isOver = false, waiting = 0;
  const tell = state => {
    told = state;
    toldTheme = theme();
    try { model.send({ view, state, theme: toldTheme }); } catch { /* the kernel has gone */ }
  };
  const update = () => {
    const state = document.hidden ? 'hidden' : inView ? 'shown' : 'out of view';
    if ((state !== told || theme() !== toldTheme) && !isOver) tell(state);
  };
  const observer = new IntersectionObserver(entries => {
    inView = entries[entries.length - 1].isIntersecting;
    update();
  });
  // A part of a panel is shown while any part of the panel is.
  const observe = () => {
    if (el.isConnected) observer.observe(el.closest('.epl') ?? el);
    else waiting = setTimeout(observe, 50);
  };
  observe();
  // Told at once, as far as known: a cell that runs next may keep the kernel from hearing it.
  tell(document.hidden ? 'hidden' : 'shown');
  // A page that goes away becomes hidden after that, which must not count; it may come back.
  const close = () => { if (!isOver) tell('closed'); isOver = true; };
  const again = () => { isOver = false; told = ''; update(); };
  document.addEventListener('visibilitychange', update);
  const themes = new MutationObserver(() => setTimeout(update)); // after the view has seen it
  themes.observe(document.body, { attributes: true });
  window.addEventListener('pagehide', close);
  window.addEventListener('pageshow', again);
  const beat = setInterval(() => { if (told && !isOver) tell(told); }, BEAT_MS);
  return () => {
    close();
    clearInterval(beat);
    clearTimeout(waiting);
    observer.disconnect();
    themes.disconnect();
    document.removeEventListener('visibilitychange', update);
    window.removeEventListener('pagehide', close);
    window.removeEventListener('pageshow', again);
  };
}

// ---- what anywidget calls --------------------------------------------------------------

function render({ model, el }) {
  const view = new View(model, el);
  const stop = model.get('watched')
    ? presence(model, el, () => (view.font ? view.root.dataset.theme : '')) : () => {};
  return () => {
    stop();
    view.close();
  };
}

// A notebook stores this timeline as a picture, so that it can be seen wherever the notebook
// is opened. While its kernel lives, the timeline takes the picture's place in the page.
function initialize({ model }) {
  const places = new Map(); // picture to what was made in its place
  const look = () => {
    if (!model.get('picture')) return; // it is displayed by its own MIME type, or not yet
    const start = `data:image/png;base64,${model.get('picture')}`;
    observer.observe(document.body, { childList: true, subtree: true });
    for (const [image, { host, cleanup }] of places) {
      if (image.isConnected && host.isConnected) continue;
      cleanup();
      host.remove();
      places.delete(image);
    }
    for (const image of document.images) {
      if (places.has(image) || !image.getAttribute('src')?.startsWith(start)) continue;
      const host = document.createElement('div');
      image.after(host);
      image.hidden = true;
      image.style.display = 'none';
      places.set(image, { host, cleanup: render({ model, el: host }) });
    }
  };
  let frame = 0;
  const observer = new MutationObserver(changes => {
    const isOwn = change => [...places.values()].some(({ host }) => host.contains(change.target));
    if (!frame && !changes.every(isOwn)) frame = setTimeout(() => { frame = 0; look(); }, 30);
  });
  model.on('change:picture', look);
  look();
  return () => {
    observer.disconnect();
    clearTimeout(frame);
    for (const [image, { host, cleanup }] of places) {
      cleanup();
      host.remove();
      image.hidden = false;
      image.style.display = '';
    }
    places.clear();
  };
}

export default { initialize, render };
