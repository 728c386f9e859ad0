// The review of a video: a player, a timeline to click on, filters, a list of moments, comments. The page and the notebook
// viewer both call `mount`; they differ in the player. Text is only ever set as text: a name of the schema cannot run.

const SVG = 'http://www.w3.org/2000/svg', ROW = 24, AXIS = 22, LEFT = 120, RIGHT = 8;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

export function timecode(seconds) {
  const ms = Math.round(Math.max(seconds, 0) * 1000), two = n => String(n).padStart(2, '0');
  return `${two(Math.floor(ms / 3600000))}:${two(Math.floor(ms / 60000) % 60)}:${two(Math.floor(ms / 1000) % 60)}.${String(ms % 1000).padStart(3, '0')}`;
}

export function clock(seconds) {
  const s = Math.round(seconds), two = n => String(n).padStart(2, '0');
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const width = text => [...text].reduce((sum, letter) => sum + (WIDE.test(letter) ? 2 : 1), 0);
// At most so many letters wide; the end stays, because long names often differ there
function short(text, length) {
  if (width(text) <= length) return text;
  const letters = [...text], head = [], tail = [];
  while (width(tail.join('') + letters.at(-1)) <= length / 3) tail.unshift(letters.pop());
  while (width(head.join('') + letters[0] + '…' + tail.join('')) <= length) head.push(letters.shift());
  return `${head.join('')}…${tail.join('')}`;
}
const round = value => Math.round(value * 1000) / 1000;

// What the filters let through
class Filter {
  constructor(data) { this.events = new Set(data.events.keys()); this.phase = null; this.confidence = 0; this.length = 0; }
  lets(s) {
    return this.events.has(s.event) && (this.phase === null || s.phase === this.phase)
      && (s.confidence === null || s.confidence >= this.confidence) && s.end - s.start >= this.length;
  }
}

// The timeline: an axis, a row per event (truth above, found below), losses hatched, broken rules and comments as marks
class Timeline {
  constructor(data, seek) {
    this.data = data; this.seek = seek; this.start = data.start_s ?? 0; this.from = this.start; this.to = data.duration_s; this.time = this.start; this.comments = [];
    this.svg = document.createElementNS(SVG, 'svg');
    for (const [key, value] of Object.entries({ class: 'timeline', role: 'slider', tabindex: 0, 'aria-label': 'Time', 'aria-valuemin': this.start, 'aria-valuemax': data.duration_s }))
      this.svg.setAttribute(key, value);
    const pointed = event => this.seek(this.timeAt(event.clientX - this.svg.getBoundingClientRect().left));
    let sent = 0;
    this.svg.addEventListener('pointerdown', event => { this.svg.setPointerCapture(event.pointerId); pointed(event); });
    this.svg.addEventListener('pointermove', event => {
      if (!event.buttons || performance.now() - sent < 80) return;   // a frame takes that long to decode and to arrive
      sent = performance.now(); pointed(event);
    });
    this.svg.addEventListener('wheel', event => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.timeAt(event.clientX - this.svg.getBoundingClientRect().left));
    }, { passive: false });
    new ResizeObserver(() => this.render()).observe(this.svg);
  }
  get width() { return (this.svg.clientWidth || 800) - LEFT - RIGHT; }
  place(time) { return LEFT + this.width * (time - this.from) / (this.to - this.from); }
  timeAt(x) { return Math.min(Math.max(this.from + (x - LEFT) / this.width * (this.to - this.from), this.start), this.data.duration_s); }
  zoom(factor, around = this.time) {
    const whole = this.data.duration_s - this.start, span = Math.min(Math.max((this.to - this.from) * factor, Math.min(2, whole)), whole);
    const share = (around - this.from) / (this.to - this.from);
    this.from = Math.min(Math.max(around - share * span, this.start), this.data.duration_s - span); this.to = this.from + span;
    this.render();
  }
  show(segments) { this.segments = segments; this.render(); }
  render() {
    const { data, svg } = this, height = AXIS + data.events.length * ROW;
    svg.replaceChildren(); svg.style.height = height + 'px';
    const hatch = draw(draw(svg, 'defs', {}), 'pattern', { id: 'lost', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' });
    draw(hatch, 'line', { y2: 6, stroke: '#888', 'stroke-width': 2 });
    const step = STEPS.find(s => s * this.width / (this.to - this.from) >= 64) ?? STEPS.at(-1);
    for (let i = Math.ceil(this.from / step); i * step <= this.to + 1e-9; i++) {
      const x = this.place(i * step);
      draw(svg, 'line', { x1: x, x2: x, y1: AXIS - 4, y2: height, class: 'tick' });
      draw(svg, 'text', { x, y: AXIS - 8, 'text-anchor': x > LEFT + this.width - 24 ? 'end' : 'middle', class: 'axis' }, step < 1 ? `${(i * step).toFixed(1)} s` : clock(i * step));
    }
    data.events.forEach((event, i) => {
      const y = AXIS + i * ROW, name = draw(svg, 'text', { x: LEFT - 8, y: y + 16, 'text-anchor': 'end', class: 'name' }, short(event, 16));
      draw(name, 'title', {}, event);
      draw(svg, 'rect', { x: LEFT, y: y + 2, width: this.width, height: ROW - 4, class: 'track' });
    });
    for (const loss of data.losses) this.bar(loss, AXIS, height - AXIS, 'url(#lost)', `no picture: ${loss.reason}`);
    for (const h of data.hidden ?? []) this.bar(h, AXIS - 3, 3, '#777', 'not shown');
    for (const s of data.truth ?? []) this.segment(s, 2, ROW / 2 - 3, 'truth');
    for (const s of this.segments ?? []) data.truth ? this.segment(s, ROW / 2, ROW / 2 - 3, 'found') : this.segment(s, 2, ROW - 4, 'found');
    for (const v of data.violations) this.mark(v.time_s, v.doubt ? '▽' : '▼', 'broken', v.doubt ? `${v.message}, doubtful: ${v.doubt}` : v.message);
    for (const c of this.comments) this.mark(c.time_s, '●', 'noted', c.text);
    this.line = draw(svg, 'line', { y1: AXIS - 6, y2: height, class: 'now' });
    this.move(this.time);
  }
  bar(item, y, height, fill, title, attributes = {}) {
    const left = Math.max(this.place(item.start), LEFT), right = Math.min(this.place(item.end), LEFT + this.width);
    if (right < LEFT || left > LEFT + this.width) return null;
    const box = draw(this.svg, 'rect', { x: left, y, width: Math.max(1, right - left), height, fill, ...attributes });
    draw(box, 'title', {}, title);
    return { left, right };
  }
  segment(s, top, height, kind) {
    const { data } = this, y = AXIS + s.event * ROW + top, phase = data.phases[s.phase];
    const said = s.confidence === null ? '' : `, ${Math.round(s.confidence * 100)} %`;
    const title = `${data.events[s.event]} ${phase}: ${timecode(s.start)} to ${timecode(s.end)}${said}${s.is_doubtful ? ', doubtful' : ''} (${kind})`;
    const drawn = this.bar(s, y, height, data.colors[s.event][s.phase].fill, title, { class: `bar ${kind}${s.is_doubtful ? ' doubtful' : ''}` });
    if (drawn && drawn.right - drawn.left > 8 + 7 * [...phase].length && height > 8)
      draw(this.svg, 'text', { x: (drawn.left + drawn.right) / 2, y: y + height / 2 + 4, 'text-anchor': 'middle', class: 'phase', style: `fill:${data.colors[s.event][s.phase].ink}` }, phase);
  }
  mark(time, sign, kind, title) {
    if (time < this.from || time > this.to) return;
    draw(draw(this.svg, 'text', { x: this.place(time), y: AXIS + 6, 'text-anchor': 'middle', class: kind }, sign), 'title', {}, `${timecode(time)} ${title}`);
  }
  move(time) {
    this.time = time;
    const span = this.to - this.from;
    if (span < this.data.duration_s - this.start - 1e-6 && (time < this.from || time > this.to)) {
      this.from = Math.min(Math.max(time - span / 4, this.start), this.data.duration_s - span); this.to = this.from + span;
      return this.render();
    }
    if (!this.line) return;
    const x = this.place(time);
    this.line.setAttribute('x1', x); this.line.setAttribute('x2', x);
    this.svg.setAttribute('aria-valuenow', round(time)); this.svg.setAttribute('aria-valuetext', timecode(time));
  }
}

function filters(data, filter, changed) {
  const boxes = data.events.map((event, i) => make('label', { class: 'event' },
    make('input', { type: 'checkbox', checked: true, onchange: e => { e.target.checked ? filter.events.add(i) : filter.events.delete(i); changed(); } }),
    make('span', { class: 'chip', style: `background:${data.colors[i].at(-1).fill}` }), short(event, 24)));
  const phase = make('select', { 'aria-label': 'Phase', onchange: e => { filter.phase = e.target.value === '' ? null : Number(e.target.value); changed(); } },
    make('option', { value: '' }, 'every phase'), ...data.phases.map((name, i) => make('option', { value: i }, name)));
  const number = (label, step, apply) => make('label', {}, label,
    make('input', { type: 'number', min: 0, step, value: 0, onchange: e => { apply(Number(e.target.value) || 0); changed(); } }));
  return make('div', { class: 'filters' }, ...boxes, phase, number('sure by at least % ', 5, value => filter.confidence = value / 100),
    number('at least s ', 1, value => filter.length = value));
}

class Moments {
  constructor(data, seek) { this.data = data; this.seek = seek; this.count = make('p', { class: 'count' }); this.list = make('ol', { class: 'moments' }); }
  show(segments) {
    this.segments = segments;
    this.list.replaceChildren(...segments.map(s => this.row(s)));
    this.count.textContent = `${segments.length} of ${this.data.segments.length} moments`;
  }
  row(s) {
    const { data } = this, color = data.colors[s.event][s.phase];
    const sure = s.confidence === null ? '' : `${Math.round(s.confidence * 100)} %`;
    return make('li', {}, make('button', { type: 'button', class: s.is_doubtful ? 'doubtful' : '', onclick: () => this.seek(s.start, true) },
      s.picture ? make('img', { src: s.picture, alt: '', loading: 'lazy' }) : null,
      make('span', { class: 'what', style: `background:${color.fill};color:${color.ink}` }, `${short(data.events[s.event], 24)} ${data.phases[s.phase]}`),
      make('span', { class: 'when' }, timecode(s.start)), make('span', { class: 'long' }, `${(s.end - s.start).toFixed(1)} s`),
      make('span', { class: 'sure' }, s.is_doubtful ? `${sure} doubtful` : sure)));
  }
  move(time) {
    this.segments.forEach((s, i) => this.list.children[i].classList.toggle('now', s.start <= time && time < s.end));
  }
}

class Comments {
  constructor(data, time, seek, changed) {
    this.data = data; this.seek = seek; this.changed = changed; this.items = [...data.comments]; this.isUnsaved = false;
    this.text = make('textarea', { rows: 2, placeholder: 'A comment about this moment', 'aria-label': 'Comment' });
    this.list = make('ul', { class: 'comments' });
    this.file = make('input', { type: 'file', accept: '.json', hidden: true, onchange: e => this.open(e.target.files[0]) });
    this.said = make('span', { role: 'status' });
    this.text.addEventListener('keydown', e => { if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) this.add(time()); e.stopPropagation(); });
    this.element = make('section', { class: 'notes' }, make('h2', {}, 'Comments'), this.text,
      make('div', {}, make('button', { type: 'button', class: 'add', onclick: () => this.add(time()) }, 'Add here'),
        make('button', { type: 'button', class: 'save', onclick: () => this.save() }, 'Save as a file'),
        make('button', { type: 'button', onclick: () => this.file.click() }, 'Open a file'), this.file, this.said), this.list);
    this.show();
  }
  add(time) {
    if (!this.text.value.trim()) return this.text.focus();
    this.items.push({ time_s: round(time), time: timecode(time), text: this.text.value.trim(), at: new Date().toISOString() });
    this.text.value = ''; this.isUnsaved = true; this.show();
  }
  show() {
    this.items.sort((a, b) => a.time_s - b.time_s);
    this.list.replaceChildren(...this.items.map(item => make('li', {},
      make('button', { type: 'button', class: 'when', onclick: () => this.seek(item.time_s) }, timecode(item.time_s)), make('span', {}, item.text),
      make('button', { type: 'button', 'aria-label': 'Remove', onclick: () => { this.items = this.items.filter(other => other !== item); this.isUnsaved = true; this.show(); } }, '×'))));
    this.changed(this.items);
  }
  content() { return JSON.stringify({ video: this.data.title, duration_s: this.data.duration_s, comments: this.items }, null, 1); }
  save() {
    const link = make('a', { href: URL.createObjectURL(new Blob([this.content()], { type: 'application/json' })), download: `${this.data.file}.comments.json` });
    document.body.append(link); link.click(); link.remove(); this.isUnsaved = false;
  }
  async open(file) {
    try {
      const { comments } = JSON.parse(await file.text());
      const known = new Set(this.items.map(item => `${item.time_s} ${item.text}`));
      for (const item of comments)
        if (Number.isFinite(item.time_s) && typeof item.text === 'string' && !known.has(`${item.time_s} ${item.text}`))
          this.items.push({ time_s: item.time_s, time: timecode(item.time_s), text: item.text, at: String(item.at ?? '') });
      this.said.textContent = ''; this.show();
    } catch { this.said.textContent = 'This file holds no comments.'; }
  }
}

const KEYS = 'space plays · ←/→ a frame · shift ←/→ 5 s · n/p next and previous moment · +/−/0 zoom · c comment';

// player: { element, now() → s, seek(s), toggle(), listen(callback) }; events: { changed(comments) }
export function mount(element, data, player, events = {}) {
  const filter = new Filter(data), after = 1e-3, start = data.start_s ?? 0, hidden = data.hidden ?? [];
  const seek = (time, isStart) => player.seek(Math.min(Math.max(time + (isStart ? data.step_s / 2 : 0), start), data.duration_s));
  const cover = make('p', { class: 'cover', hidden: true }, 'This picture is not shown.');
  player.element.append(cover);
  if (hidden.length) player.video?.setAttribute('disablepictureinpicture', '');   // it would be shown without its cover
  const timeline = new Timeline(data, seek), moments = new Moments(data, seek);
  const now = make('span', { class: 'clock' }), said = make('span', { class: 'said' });
  const comments = new Comments(data, () => player.now(), seek, items => { timeline.comments = items; timeline.render(); events.changed?.(items); });
  const shown = () => data.segments.filter(s => filter.lets(s));
  const refresh = () => { const segments = shown(); timeline.show(segments); moments.show(segments); };
  const tool = (label, title, act) => make('button', { type: 'button', title, 'aria-label': title, onclick: act }, label);
  const tools = make('div', { class: 'tools' }, now, said,
    tool('−', 'Zoom out', () => timeline.zoom(2)), tool('+', 'Zoom in', () => timeline.zoom(0.5)), tool('⇔', 'Whole video', () => timeline.zoom(1e9)));
  const legend = make('p', { class: 'legend' }, data.truth ? 'upper half: truth, lower half: found. ' : '',
    data.violations.length ? '▼ a broken rule, ▽ in doubt. ' : '', data.losses.length ? 'hatched: no picture. ' : '', hidden.length ? 'gray: not shown. ' : '', KEYS);
  const kept = data.kept ?? [];
  const broken = data.violations.length || kept.length ? make('section', { class: 'rules' },
    make('h2', {}, data.violations.length ? 'Broken rules' : 'No rule was broken'), make('ul', {}, ...data.violations.map(v =>
      make('li', {}, make('button', { type: 'button', class: 'when', onclick: () => seek(v.time_s) }, timecode(v.time_s)),
        make('span', {}, v.message, v.doubt ? make('em', { class: 'doubt' }, ` doubtful: ${v.doubt}`) : '')))),
    kept.length ? make('p', { class: 'kept' }, `Kept: ${kept.join('; ')}`) : null) : null;
  const root = make('div', { class: 'review', tabindex: -1 },
    make('div', { class: 'watch' }, player.element, make('section', { class: 'list' }, filters(data, filter, refresh), moments.count, moments.list)),
    tools, timeline.svg, legend, make('div', { class: 'below' }, comments.element, broken));
  const moved = () => {
    const time = player.now(), there = data.segments.filter(s => s.start <= time && time < s.end).map(s => `${data.events[s.event]} ${data.phases[s.phase]}`);
    now.textContent = timecode(time) + (data.started_at ? ` (${new Date(Date.parse(data.started_at) + time * 1000).toLocaleTimeString('en-GB')})` : '');
    said.textContent = there.join(', ') || 'nothing';
    timeline.move(time); moments.move(time);
    const isHidden = hidden.some(h => h.start <= time && time < h.end);
    if (isHidden === cover.hidden) { cover.hidden = !isHidden; player.element.classList.toggle('covered', isHidden); player.silence?.(isHidden); }
  };
  const jump = forward => {
    const starts = [...new Set(shown().map(s => s.start))].sort((a, b) => a - b), time = player.now() - data.step_s / 2;
    const target = forward ? starts.find(s => s > time + after) : starts.findLast(s => s < time - after);
    if (target !== undefined) seek(target, true);
  };
  const keys = {
    ArrowRight: e => seek(player.now() + (e.shiftKey ? 5 : data.step_s)), ArrowLeft: e => seek(player.now() - (e.shiftKey ? 5 : data.step_s)),
    Home: () => seek(start), End: () => seek(data.duration_s), n: () => jump(true), p: () => jump(false), ' ': () => player.toggle?.(),
    '+': () => timeline.zoom(0.5), '-': () => timeline.zoom(2), 0: () => timeline.zoom(1e9), c: () => comments.text.focus(),
  };
  root.addEventListener('keydown', event => {
    if (event.target.matches('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    if (event.key === ' ' && event.target.matches('button')) return;
    event.preventDefault(); event.stopPropagation();
    keys[event.key](event);
  });
  element.append(root);
  refresh(); player.listen(moved); if (start) seek(start); moved();
  return { root, moved, seek, comments };
}

// A <video>; when it cannot be played, a way to choose the file by hand
export function filmPlayer(source) {
  const video = make('video', { controls: true, preload: 'auto', playsinline: true, src: source || null });
  const file = make('input', { type: 'file', accept: 'video/*', onchange: e => { video.src = URL.createObjectURL(e.target.files[0]); missing.hidden = true; } });
  const missing = make('p', { class: 'missing', hidden: Boolean(source) }, 'The video is not beside this page. Choose its file: ', file);
  video.addEventListener('error', () => { missing.hidden = false; });
  let wasMuted = false, wanted = null;   // before the video is there, a click still counts
  video.addEventListener('loadedmetadata', () => { if (wanted !== null) { video.currentTime = wanted; wanted = null; } });
  return {
    element: make('div', { class: 'film' }, video, missing), video,
    now: () => wanted ?? video.currentTime,
    seek: time => { if (video.readyState) video.currentTime = time; else { wanted = time; video.dispatchEvent(new Event('timeupdate')); } },
    toggle: () => video.paused ? video.play() : video.pause(),
    silence: isSilent => { if (isSilent) { wasMuted = video.muted; video.muted = true; } else video.muted = wasMuted; },
    listen: callback => {
      for (const name of ['timeupdate', 'seeking', 'seeked', 'loadedmetadata']) video.addEventListener(name, callback);
      const follow = () => { if (!video.paused) callback(); requestAnimationFrame(follow); };
      follow();
    },
  };
}
