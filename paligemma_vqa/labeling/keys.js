// The browser's half of the labeling tool: hears keys and clicks on the element `.vqa-labeling` around it, sends them one at a
// time, keeps the focus, fits the tool to the window, and shows the frames of a playing video. See the chapter "Keys".

const TEXT_FIELD = 'input:not([type=checkbox]):not([type=radio]):not([type=button]), textarea, select, [contenteditable="true"]';

// What a key is called in `key_map`: 'a', 'Shift+f', 'Mod+z', 'ArrowLeft', 'Space', '3'.
export function keyName(event, keys) {
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code || '');
  let key = event.key;
  if (digit && (event.code.startsWith('Digit') || /\d/.test(key))) key = digit[1];
  else if (key.length === 1) key = key.toLowerCase();
  const isForeign = key === 'Process' || (key.length === 1 && key.charCodeAt(0) > 126);
  const letter = /^Key([A-Z])$/.exec(event.code || '');
  if (isForeign && letter) key = letter[1].toLowerCase();
  if (key === ' ') key = 'Space';
  const modifiers = (event.ctrlKey || event.metaKey ? 'Mod+' : '') + (event.altKey ? 'Alt+' : '');
  const full = modifiers + (event.shiftKey ? 'Shift+' : '') + key;
  // AZERTY types every digit with Shift: without a command of its own, Shift+3 is 3.
  return digit && !keys.includes(full) ? modifiers + key : full;
}

const TEXTS = {
  on: '⌨ keys on', off: '⌨ click to use keys', asking: '⌨ keys on', stalled: '⚠ no answer from the kernel: keys are NOT saved',
  dead: '⚠ not connected', dropped: '⚠ the kernel was busy: keys left out',
};
const OVER = {
  off: 'Keys are off. Click the picture to label.',
  asking: 'The keys stay with this tool. Q, or a click outside it, gives them to the notebook. Any other key goes on.',
  dead: 'The kernel was restarted or closed. Run this cell again (Shift+Enter) to go on: every label that was shown as saved is on the disk.',
  stalled: 'The kernel does not answer. What you press now is not saved.',
};

function render({ model, el }) {
  const view = Math.random().toString(36).slice(2);   // two browser tabs may show the same tool
  const pill = document.createElement('button');
  pill.className = 'vqa-pill'; pill.type = 'button'; pill.tabIndex = -1; el.appendChild(pill);
  const over = document.createElement('div'), canvas = document.createElement('canvas');
  over.className = 'vqa-over'; canvas.className = 'vqa-play-frame';
  const waiting = [];                                  // keys pressed while another is in flight
  const undo = [];                                     // what takes the listeners away again
  let played = null;                                   // the picture that the frame on the canvas belongs to
  const note = { item: null, isAdded: false };          // the note that is being written: for which picture, after what stands there
  let root = null, inFlight = null, count = 0, isAsking = false, isLeaving = false, isComposing = false, downOutside = false, drag = null, isOver = false, isPlayOver = true, dropped = 0;

  const isDead = () => Boolean(root && (root.matches('.jupyter-widgets-disconnected') || root.querySelector('.jupyter-widgets-disconnected')));
  const isStalled = () => inFlight && performance.now() - inFlight.since > model.get('stall_ms');
  const hasFocus = () => root && root.contains(document.activeElement);
  const takeFocus = () => root.focus({ preventScroll: true });
  const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  function paint() {
    if (!root) return;
    const state = isDead() ? 'dead' : isStalled() ? 'stalled' : dropped ? 'dropped' : !hasFocus() ? 'off' : isAsking ? 'asking' : 'on';
    setText(pill, state === 'dropped' ? `⚠ the kernel was busy: ${dropped} keys left out` : TEXTS[state]);
    setText(over, OVER[state] || '');
    pill.dataset.state = root.dataset.keys = state; root.dataset.busy = isBusy() ? '1' : '0';
  }

  // --- one message at a time

  function pump() {
    if (inFlight || !waiting.length) return;
    inFlight = { id: ++count, since: performance.now() };
    try { model.send({ item: played ?? model.get('item'), ...waiting.shift(), view, id: inFlight.id }); }
    catch (error) { inFlight.since = -1e9; }           // the kernel is gone
    setTimeout(() => { if (isStalled()) { dropped += waiting.length; waiting.length = 0; paint(); } }, model.get('stall_ms') + 20);
  }
  function send(message) {
    if (isDead() || isStalled()) { dropped += 1; return paint(); }
    dropped = 0;                                        // the labeler has seen it and goes on
    waiting.push(message); pump(); paint();
  }
  async function onAnswer(message, buffers) {
    if (message.play) return onPlay(message.play, buffers);
    if (message.view !== view || !inFlight || message.id !== inFlight.id) return;
    inFlight = null; pump(); paint();
    if (message.asks) letGo();
    if (note.isAdded && !isBusy()) note.item ??= model.get('item');
  }

  // --- the note: what is typed while keys are on their way is for the picture that they lead to, and after what stands there

  const isBusy = () => Boolean(inFlight || waiting.length);
  const isNote = target => target.matches?.('.vqa-note input');
  function showNote() {
    const field = root?.querySelector('.vqa-note input');
    if (field && field !== document.activeElement) field.value = model.get('note');
  }
  function beginNote(field) {
    note.isAdded = isBusy();
    note.item = played ?? (note.isAdded ? null : model.get('item'));
    if (note.isAdded) field.value = '';
  }
  function onNoteChange(event) {                        // in the order of the keys; ipywidgets would let it overtake them
    if (!isNote(event.target)) return;
    event.stopPropagation();
    send({ note: event.target.value, added: note.isAdded, ...(note.item === null ? {} : { item: note.item }) });
  }

  // --- a playing video: the kernel sends frames, each is acknowledged when it is drawn

  async function onPlay(play, buffers) {
    if (!root) return;
    if (play === 'stop') { isPlayOver = true; played = null; root.classList.remove('vqa-playing'); return; }
    isPlayOver = false;
    const blob = new Blob([buffers[0]], { type: 'image/jpeg' }), picture = await createImageBitmap(blob);
    model.send({ played: 1 });                          // the next one may come
    if (isPlayOver) return picture.close();             // stopped while this one was decoded
    canvas.width = picture.width; canvas.height = picture.height;
    canvas.getContext('2d').drawImage(picture, 0, 0);
    picture.close(); root.classList.add('vqa-playing'); played = play.item;
    canvas.dataset.time = play.time_s; canvas.dataset.frames = Number(canvas.dataset.frames || 0) + 1;
  }

  // --- keys

  // The keys of an input method belong to it: Safari tells the Enter that ends a composition by its number only.
  const isComposed = event => event.isComposing || isComposing || event.keyCode === 229;
  function onComposition(event) { isComposing = event.type === 'compositionstart'; }

  function onTextKey(event) {                           // ipywidgets keeps the keys of its text fields from bubbling up to us
    if (isComposed(event) || !event.target.matches?.(TEXT_FIELD)) return;
    const isOneLine = event.target.matches('input'), isMenu = event.target.matches('select');
    if (event.key === 'Escape' || (event.key === 'Enter' && isOneLine)) {   // leaving the field sends what was written
      event.preventDefault(); event.stopPropagation();
      takeFocus();                                     // at once: the next key is no text any more
    } else if (isMenu && !event.ctrlKey && !event.metaKey) event.stopPropagation();
  }
  function letGo() {                                    // Esc, with nothing to cancel: out of the full window, or ask where the keys should go
    if (root.matches(':popover-open')) fullWindow(); else isAsking = !isAsking;
    paint();
  }
  function leave() {
    isAsking = false; isLeaving = true;
    if (hasFocus()) document.activeElement.blur();     // to nobody: a bare key then does nothing, in JupyterLab either
    isLeaving = false; paint();
  }
  function onKeyDown(event) {
    const isModified = event.ctrlKey || event.metaKey || event.altKey;
    if (event.isComposing || event.target.matches?.(TEXT_FIELD)) {
      if (!isModified || /^[zyacvx]$/i.test(event.key)) event.stopPropagation();
      return;
    }
    const keys = model.get('combos'), key = keyName(event, keys), local = model.get('local')[key];
    const take = () => { event.preventDefault(); event.stopPropagation(); };
    if (isAsking && key === 'q') { take(); return leave(); }
    if (key === 'Escape') {                            // after keys on their way only the kernel knows whether there is something to cancel
      take();
      if (event.repeat) return;
      return (keys.includes(key) || isBusy()) && !isDead() && !isStalled() ? send({ key }) : letGo();
    }
    if (isAsking && !['Shift', 'Control', 'Alt', 'Meta'].includes(event.key)) { isAsking = false; paint(); }
    if (local === 'full_window') { take(); return event.repeat || fullWindow(); }
    if (!keys.includes(key)) {
      const isForTheNotebook = isModified || event.key === 'Tab' || (event.shiftKey && event.key === 'Enter');
      if (!isForTheNotebook) event.stopPropagation();
      return;
    }
    take();
    const field = model.get('fields')[key];            // at once: the next letter is already text
    if (field) return root.querySelector(field)?.focus();
    if (!event.repeat || model.get('repeating').includes(key)) send({ key });
  }

  // --- the pointer: buttons, the timeline, the magnifier

  function frameUnder(scrub, event) {
    const [first, last] = scrub.dataset.scrub.split(' ').map(Number), box = scrub.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999999);
    return first + Math.floor(share * (last - first + 1));
  }
  function onPointerDown(event) {
    const scrub = event.target.closest?.('[data-scrub]');
    if (!scrub || event.button !== 0) return;
    drag = { scrub, frame: frameUnder(scrub, event), edge: event.target.dataset?.edge, block: event.target.closest('[data-span]'), x: event.clientX };
    event.preventDefault();
  }
  function onDrag(event) {                              // the dragged edge follows the pointer until the kernel answers
    if (!drag?.edge) return;
    const box = drag.scrub.getBoundingClientRect(), [first, last] = drag.scrub.dataset.scrub.split(' ').map(Number);
    const [, start, stop] = drag.block.dataset.span.split(' ').map(Number), to = frameUnder(drag.scrub, event);
    const [from, until] = drag.edge === 'start' ? [Math.min(to, stop), stop] : [start, Math.max(to, start)];
    const share = place => 100 * (place - first) / (last - first + 1);
    drag.block.style.left = `${share(from)}%`; drag.block.style.width = `${share(until + 1) - share(from)}%`;
  }
  function onPointerUp(event) {
    if (!drag) return;
    const { scrub, frame, edge, block, x } = drag, to = frameUnder(scrub, event); drag = null;
    if (edge && Math.abs(event.clientX - x) > 2) send({ command: `edge ${block.dataset.span} ${edge === 'start' ? 0 : 1} ${to}` });
    else send({ command: frame !== to ? `select ${frame} ${to}` : event.shiftKey ? `select_to ${to}` : `go ${to}` });
    takeFocus();
  }
  function onClick(event) {
    const target = event.target.closest?.('[data-command]');
    if (target && !target.hasAttribute('disabled')) {
      if (target.dataset.command === 'full_window') fullWindow();
      else send({ command: (event.shiftKey && target.dataset.shiftCommand) || target.dataset.command });
    }
    isAsking = false;
    if (!event.target.closest?.(TEXT_FIELD)) setTimeout(takeFocus);
  }
  function onPointerMove(event) {                       // the magnifier follows the pointer
    const picture = event.target.closest?.('.vqa-zoomed');
    if (!picture) return;
    const box = picture.getBoundingClientRect();
    picture.style.setProperty('--vqa-x', `${100 * (event.clientX - box.left) / box.width}%`);
    picture.style.setProperty('--vqa-y', `${100 * (event.clientY - box.top) / box.height}%`);
  }
  function onFocusOut(event) {
    const isLost = !event.relatedTarget && !isLeaving && !downOutside;
    setTimeout(() => {
      if (isLost && document.activeElement === document.body && document.hasFocus()) takeFocus();
      paint();
    });
  }
  function onChange(event) {                            // a chosen menu entry gives the keys back
    if (event.target.matches('select')) setTimeout(takeFocus);
  }
  const onDocumentDown = event => { downOutside = root && !root.contains(event.target); };

  // --- the size: all that is needed while labeling fits into what is seen of the notebook

  function fullWindow() {
    if (root.matches(':popover-open')) { root.hidePopover(); root.removeAttribute('popover'); }
    else { root.setAttribute('popover', 'manual'); root.showPopover(); }
    fit(); takeFocus();
  }
  function fit() {
    const isFull = root.matches(':popover-open');
    const frame = isFull ? null : root.closest('.jp-WindowedPanel-outer, .jp-Notebook-scroll');
    const height = Math.floor((frame ? frame.clientHeight : window.innerHeight) - (isFull ? 10 : 26));
    const size = height < 430 ? 'tight' : height < 620 ? 'short' : 'tall';
    if (root.dataset.size !== size) root.dataset.size = size;
    const text = `${Math.max(isFull ? 240 : 330, Math.min(height, 1100))}px`;
    if (root.style.getPropertyValue('--vqa-height') !== text) root.style.setProperty('--vqa-height', text);
    root.dataset.dense = 0; fitRows();
  }
  function fitRows() {                                  // all rows are seen: smaller ones, then fewer buttons, whose keys do the same
    const box = root.querySelector('.vqa-rows-box'), side = root.querySelector('.vqa-side-area');
    if (!box || !side) return;
    const isFull = () => box.scrollHeight > box.clientHeight + 1 || side.scrollHeight > side.clientHeight + 1;
    while (Number(root.dataset.dense) < 4 && isFull()) root.dataset.dense = Number(root.dataset.dense) + 1;
  }
  function keepRowInSight() {
    const row = root.querySelector('.vqa-active'), box = root.querySelector('.vqa-rows-box');
    if (!row || !box || box.scrollHeight <= box.clientHeight) return;
    const inner = row.getBoundingClientRect(), outer = box.getBoundingClientRect();
    const top = outer.top + (box.querySelector('.vqa-heads')?.offsetHeight ?? 0);      // which stay where they are
    if (inner.top < top) box.scrollTop -= top - inner.top;
    else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
  }
  function bringIntoSight() {
    const frame = root.closest('.jp-WindowedPanel-outer');
    if (!frame) return;
    const tool = root.querySelector('.vqa-fold').getBoundingClientRect(), seen = frame.getBoundingClientRect();
    if (tool.top < seen.top || tool.bottom > seen.bottom) frame.scrollTop += tool.top - seen.top - 8;
  }

  function listen(target, name, listener, options) {
    target.addEventListener(name, listener, options);
    undo.push(() => target.removeEventListener(name, listener, options));
  }
  function attach() {
    if (isOver) return;
    root = el.closest('.vqa-labeling');
    if (!root) return void setTimeout(attach, 30);
    root.tabIndex = 0;
    const picture = root.querySelector('.vqa-picture');
    picture?.append(canvas, over);
    const listeners = { keydown: onKeyDown, click: onClick, change: onChange, pointerdown: onPointerDown, pointermove: onPointerMove,
                        focusin: event => { if (isNote(event.target)) beginNote(event.target); bringIntoSight(); paint(); }, focusout: onFocusOut };
    for (const [name, listener] of Object.entries(listeners)) listen(root, name, listener);
    listen(root, 'keydown', onTextKey, true);
    listen(root, 'change', onNoteChange, true);
    for (const name of ['compositionstart', 'compositionend']) listen(root, name, onComposition, true);
    listen(document, 'pointerdown', onDocumentDown, true);
    listen(document, 'pointermove', onDrag);
    listen(document, 'pointerup', onPointerUp);
    listen(window, 'resize', fit);
    const sizes = new ResizeObserver(fit), frame = root.closest('.jp-WindowedPanel-outer');
    sizes.observe(frame || document.body);
    let isDue = false;                                  // once a frame: an answer changes ten parts, and each look at a size lays the page out
    const look = () => { isDue = false; if (isOver) return; fitRows(); keepRowInSight(); paint(); };
    const changes = new MutationObserver(() => { if (!isDue) { isDue = true; requestAnimationFrame(look); } });
    changes.observe(root, { subtree: true, childList: true, attributes: true, attributeFilter: ['class'] });
    model.on('msg:custom', onAnswer); model.on('change:note', showNote); model.on('change:item', showNote); showNote();
    undo.push(() => model.off('change:note', showNote), () => model.off('change:item', showNote), () => sizes.disconnect(), () => changes.disconnect(), () => model.off('msg:custom', onAnswer));
    root.closest('.jp-OutputArea')?.classList.add('vqa-alive');    // the words about a missing tool are not needed
    fit(); greet(); paint(); root.dataset.ready = '1';
    setTimeout(greet, 100);                             // JupyterLab selects the next cell when it has run one
  }
  function greet() {                                    // whoever is not writing elsewhere can use the keys at once
    if (isOver) return;
    const at = document.activeElement, notebook = root.closest('.jp-Notebook, .jp-NotebookPanel');
    const editor = at.closest('.cm-editor'), isUnwritten = editor && !editor.querySelector('.cm-content')?.textContent.trim();   // a cell that Shift+Enter has made
    const isFree = at === document.body || (notebook?.contains(at) && (isUnwritten || !at.matches(TEXT_FIELD) && !editor));
    if (isFree) takeFocus();
    if (hasFocus()) bringIntoSight();
  }
  attach();
  return () => { isOver = true; for (const take of undo) take(); over.remove(); canvas.remove(); };
}
export default { render };
