"""The label store under rules, not examples: what holds whatever the order of key presses"""
import copy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.labeling.ledger import STATUSES
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.labeling.store import LabelStore

SCHEMA = EventSchema(events=('bleeding', '出血'), phases=('early', 'late', '3'))
FRAMES = 8

def make_folder(folder:Path, frames=FRAMES) -> Path:
    (folder/'images').mkdir(parents=True)
    for video in ('v', 'w'):
        for frame in range(frames): (folder/f'images/{video}_{frame * 5:06d}.jpg').touch()
    for name in ('polyp', 'nodule'): (folder/f'images/{name}.png').touch()
    SCHEMA.save(folder/'schema.json')
    return folder

class PlainModel:
    "What the store should do, written as slowly and plainly as possible: one value per picture, no keys, no search"
    def __init__(self, items, videos):
        self.items, self.videos = items, videos
        self.keys = {(item, event): None for item in items for event in SCHEMA.events}   # None: no key, '': ends, phase
        self.status = {item: 'todo' for item in items}
        self.note = {item: '' for item in items}
        self.said = {item: frozenset() for item in items}
        self.flags = frozenset()

    def run_of(self, item): return next((frames for frames in self.videos.values() if item in frames), [item])

    def phase(self, item, event):
        frames = self.run_of(item)
        for frame in reversed(frames[:frames.index(item) + 1]):
            if self.keys[frame, event] is not None: return self.keys[frame, event] or None

    def after(self, item):
        frames = self.run_of(item)
        return frames[frames.index(item) + 1:]

    def until_next_key(self, item, event):
        for frame in self.after(item):
            if self.keys[frame, event] is not None: return
            yield frame

    def assign(self, item, event, phase, hold):
        after = list(self.until_next_key(item, event))
        stop = None
        if hold == 'item': stop = after[0] if after else None
        if hold == 'todo': stop = next((frame for frame in after if self.is_said(frame, event)), None)
        if stop and self.phase(stop, event) != phase: self.keys[stop, event] = self.phase(stop, event) or ''
        self.keys[item, event] = phase or ''

    def is_said(self, item, event): return self.status[item] == 'done' or event in self.said[item]

    def say(self, item, *events):
        new = {event for event in events if not self.is_said(item, event)}
        self.said[item] |= new
        if new and self.status[item] == 'todo' and self.said[item] == set(SCHEMA.events): self.status[item] = 'done'

    def snapshot(self): return copy.deepcopy((self.keys, self.status, self.note, self.said, self.flags))
    def restore(self, snapshot): self.keys, self.status, self.note, self.said, self.flags = copy.deepcopy(snapshot)
    def labels(self): return {item: {e: p for e in SCHEMA.events if (p := self.phase(item, e))} for item in self.items}

class StoreMachine(RuleBasedStateMachine):
    folder:Path   # set by the test

    def __init__(self):
        super().__init__()
        StoreMachine.count += 1
        self.root = make_folder(self.folder/f'run{StoreMachine.count}')
        self.store = LabelStore(self.root, 'anna')
        self.model = PlainModel(self.store.items, self.store.videos)
        self.undo_states, self.redo_states = [], []

    items = st.integers(0, 2 * FRAMES + 1)
    events = st.sampled_from(SCHEMA.events)
    phases = st.sampled_from([None, *SCHEMA.phases])
    annotations = st.dictionaries(events, st.sampled_from(SCHEMA.phases))
    holds = st.sampled_from(['span', 'todo', 'item'])

    def sources(self, *meant):
        "Who decided the keys of all other pictures: a key that only ends a label signs nothing"
        return {item: fields.get('source') for item, fields in self.store.ledger.fields.items() if item not in meant}

    def done(self, change, before):
        same = before == self.model.snapshot()
        if change is None: assert same or self.ignores_source, 'the store says that nothing changed'
        else:
            self.undo_states.append(before)
            self.redo_states.clear()
    ignores_source = False

    @rule(item=items, event=events, phase=phases, hold=holds)
    def set(self, item, event, phase, hold):
        item, before, labels = self.model.items[item], self.model.snapshot(), self.model.labels()
        said = {(i, e) for i in labels for e in SCHEMA.events if self.model.is_said(i, e)}
        if self.model.phase(item, event) != phase: self.model.assign(item, event, phase, hold)
        self.model.say(item, event)
        sources = self.sources(item)
        change = self.store.set(item, event, phase, hold=hold)
        assert self.sources(item) == sources, 'a picture that this was not about was signed'
        self.done(change, before)
        if change:
            now = self.model.labels()
            changed = {i for i in labels if any(labels[i].get(e) != now[i].get(e) and (i, e) in said for e in SCHEMA.events)} - set(change.items)
            assert change.affected == len(changed)
            if hold == 'todo': assert not changed
            if hold == 'item': assert {i for i in labels if labels[i] != now[i]} <= {item}

    @rule(first=items, last=items, event=events, phase=phases)
    def set_range(self, first, last, event, phase):
        first, last = self.model.items[first], self.model.items[last]
        frames = self.model.run_of(first)
        if self.store.video(first) != self.store.video(last):
            with pytest.raises(VQAError): self.store.set_range(first, last, event, phase)
            return
        before, labels = self.model.snapshot(), self.model.labels()
        if self.store.video(first) is None: run = self.model.items[slice(*[f(map(self.model.items.index, (first, last))) for f in (min, max)])] + [max(first, last)]
        else: run = frames[min(map(frames.index, (first, last))):max(map(frames.index, (first, last))) + 1]
        if self.store.video(first) is None:
            for item in run: self.model.keys[item, event] = phase or ''
        else:
            after = self.model.after(run[-1])
            if after and self.model.keys[after[0], event] is None and self.model.phase(after[0], event) != phase:
                self.model.keys[after[0], event] = self.model.phase(after[0], event) or ''
            if self.model.phase(run[0], event) != phase: self.model.keys[run[0], event] = phase or ''
            for item in run[1:]: self.model.keys[item, event] = None
        for item in run: self.model.say(item, event)
        sources = self.sources(*run)
        change = self.store.set_range(first, last, event, phase)
        assert self.sources(*run) == sources
        now = self.model.labels()
        assert all(now[item].get(event) == phase for item in run)
        assert all(now[item] == labels[item] for item in self.model.items if item not in run)
        self.ignores_source = True
        self.done(change, before)
        self.ignores_source = False

    @rule(chosen=st.lists(items, min_size=1, max_size=4, unique=True), annotation=annotations, hold=holds)
    def annotate(self, chosen, annotation, hold):
        before = self.model.snapshot()
        for item in sorted(chosen, reverse=True):
            for event in SCHEMA.events: self.model.assign(self.model.items[item], event, annotation.get(event), hold)
            self.model.say(self.model.items[item], *SCHEMA.events)
        meant = [self.model.items[item] for item in chosen]
        sources = self.sources(*meant)
        change = self.store.annotate(meant, annotation, hold=hold)
        assert self.sources(*meant) == sources
        self.done(change, before)

    @rule(item=items, annotation=annotations)
    def accept(self, item, annotation):
        item, before = self.model.items[item], self.model.snapshot()
        for event in SCHEMA.events: self.model.assign(item, event, annotation.get(event), 'todo')
        self.model.say(item, *SCHEMA.events)
        self.model.status[item] = 'done'
        self.done(self.store.accept(item, annotation), before)

    @rule(item=items)
    def inherit(self, item):
        item, before = self.model.items[item], self.model.snapshot()
        for event in SCHEMA.events: self.model.keys[item, event] = None
        self.model.said[item] = frozenset()
        self.done(self.store.inherit(item), before)

    @rule(item=items, status=st.sampled_from(STATUSES))
    def set_status(self, item, status):
        item, before = self.model.items[item], self.model.snapshot()
        self.model.status[item] = status
        self.done(self.store.set_status(item, status), before)

    @rule(item=items, flagged=st.booleans())
    def set_flag(self, item, flagged):
        item, before = self.model.items[item], self.model.snapshot()
        self.model.flags = self.model.flags | {item} if flagged else self.model.flags - {item}
        self.done(self.store.set_flag(item, flagged), before)

    @rule(item=items, note=st.text(max_size=20).filter(lambda text: text.isprintable()))
    def set_note(self, item, note):
        item, before = self.model.items[item], self.model.snapshot()
        self.model.note[item] = note
        self.done(self.store.set_note(item, note), before)

    @rule()
    def undo(self):
        assert (self.store.undo() is not None) == bool(self.undo_states)
        if self.undo_states:
            self.redo_states.append(self.model.snapshot())
            self.model.restore(self.undo_states.pop())

    @rule()
    def redo(self):
        assert (self.store.redo() is not None) == bool(self.redo_states)
        if self.redo_states:
            self.undo_states.append(self.model.snapshot())
            self.model.restore(self.redo_states.pop())

    @rule()
    def restart(self):
        self.store.close()
        self.store = LabelStore(self.root, 'anna')
        assert not self.store.notices

    @rule()
    def crash(self):
        "Without closing, and with half a line at the end"
        self.store.journal.close()
        with open(self.root/'labels/anna.jsonl', 'ab') as file: file.write(b'{"id": "tor')
        self.store = LabelStore(self.root, 'anna')
        assert 'torn' in self.store.notices[0]

    @rule()
    def fails_in_an_action(self):
        with pytest.raises(ZeroDivisionError):
            with self.store.action('wrong'):
                self.store.annotate(self.model.items, {SCHEMA.events[0]: 'late'})
                1 / 0

    @invariant()
    def agrees(self):
        labels = self.model.labels()
        assert {item: self.store.annotation(item) for item in self.model.items} == labels
        assert {item: self.store.status(item) for item in self.model.items} == self.model.status
        assert {item: self.store.state(item).note for item in self.model.items} == self.model.note
        assert self.store.counts() == {status: list(self.model.status.values()).count(status) for status in STATUSES} | {'flagged': len(self.model.flags)}
        assert {item: set(self.store.state(item).said) for item in self.model.items} == self.model.said
        assert set(self.store.flagged()) == self.model.flags
        for item in self.model.items: assert self.store.open_events(item) == tuple(e for e in SCHEMA.events if not self.model.is_said(item, e))
        assert self.store.can_undo == bool(self.undo_states) and self.store.can_redo == bool(self.redo_states)
        for video, frames in self.store.videos.items():   # the timeline says the same
            painted = {item: {} for item in frames}
            for span in self.store.spans(video):
                for item in frames[frames.index(span.first):frames.index(span.last) + 1]:
                    assert span.event not in painted[item]
                    painted[item][span.event] = span.phase
            assert painted == {item: labels[item] for item in frames}

    @precondition(lambda self: any(s == 'done' for s in self.model.status.values()))
    @rule()
    def compact(self):
        self.store.compact()
        assert not self.store.unsaved
        records, labels = read_records(self.root, SCHEMA), self.model.labels()
        assert {r.image: SCHEMA.parse(r.answer) for r in records} == {i: labels[i] for i in labels if self.model.status[i] == 'done'}
        assert len({(r.image, r.question) for r in records}) == len(records)

    def teardown(self): self.store.close()

def test_store_follows_the_plain_model(tmp_path):
    StoreMachine.folder, StoreMachine.count = tmp_path, 0
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None,
                                                              suppress_health_check=list(HealthCheck)))
