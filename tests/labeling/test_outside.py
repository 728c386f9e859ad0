"""Other programs in the folder: whatever they do to labels.jsonl and to journals, at whatever time, no acknowledged label
is lost or changed, and what they did is taken over, or told and kept."""
import errno, fcntl, json, os, re, shutil, time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from paligemma_vqa.dataset.records import LABELS, Record, read_records
from paligemma_vqa.labeling import exported, outside
from paligemma_vqa.labeling.ledger import digest
from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema(events=('A', 'B'), phases=('1', '2', '3'))
FRAMES = [f'images/v_{frame:06d}.jpg' for frame in range(5)] + ['images/polyp.jpg', 'images/nodule.jpg']


def make_folder(folder:Path) -> Path:
    (folder/'images').mkdir(parents=True)
    for name in FRAMES: (folder/name).touch()
    SCHEMA.save(folder/'schema.json')
    return folder

def line(image, annotation, **extra): return Record(image, SCHEMA.question(), SCHEMA.render(annotation), extra)
def at(folder, name='anna'): return folder/f'labels/{name}.jsonl'
def answers(folder): return {record.image: SCHEMA.parse(record.answer) for record in read_records(folder)}
def backups(folder): return b'\n'.join(path.read_bytes() for path in (folder/'labels').glob('*.bak'))

def _pretty(content):
    try: return b''.join(json.dumps(json.loads(line), indent=1).encode() + b'\n' for line in content.splitlines())
    except ValueError: return content     # junk is in it by now

# What editors and shells make of a file without meaning to change it
OTHERWISE = {'CRLF': lambda content: content.replace(b'\n', b'\r\n'), 'BOM': lambda content: b'\xef\xbb\xbf' + content,
             'reversed': lambda content: b''.join(reversed(content.splitlines(keepends=True))), 'no line end': bytes.rstrip,
             'twice': lambda content: content + content, 'pretty': _pretty,
             'UTF-16': lambda content: content.decode('utf-8', 'replace').encode('utf-16')}

@pytest.fixture
def folder(tmp_path): return make_folder(tmp_path/'data')


# --- any order of labeling, crashes and other programs, against a memory of what was acknowledged

class Killed(BaseException): "The process ends at this write"

class OutsideMachine(RuleBasedStateMachine):
    root:Path      # set by the test
    count, steps = 0, 0

    def __init__(self):
        super().__init__()
        OutsideMachine.count += 1
        self.folder = make_folder(self.root/f'run{OutsideMachine.count}')
        self.store, self.written, self.ever, self.deleted = LabelStore(self.folder, 'anna'), set(), set(), set()
        self.expected, self.bert, self.saved, self.looked = self.look(), {}, {at(self.folder): [b'']}, self.raw()

    items, annotations = st.sampled_from(FRAMES), st.dictionaries(st.sampled_from('AB'), st.sampled_from('123'))
    numbers, times = st.integers(0, 10**6), st.sampled_from([None, 0, 10**9, 4 * 10**9])

    def look(self):
        states = {item: self.store.state(item) for item in FRAMES}
        return {item: (state.annotation, state.status, state.note, state.is_flagged) for item, state in states.items()}

    def act(self, change):
        "One acknowledged action; one that is refused changes nothing, and after opening again all is as it was"
        OutsideMachine.steps += 1
        try: change()
        except VQAError as error:
            assert 'NOT saved' in str(error) and self.look() == self.expected
            self.open_again()
            change()
        self.expected = self.look()

    def raw(self): return (self.folder/LABELS).read_bytes() if (self.folder/LABELS).exists() else b''

    def lines(self):
        "What is in labels.jsonl now, as far as it can be read"
        try: return outside.read_labels(self.folder/LABELS)[0]
        except VQAError: return []

    def synchronize(self, step):
        "Something that looks at labels.jsonl; what is different afterwards must have been done outside, and been told"
        lines, before = self.lines(), self.expected
        foreign = {record.image: record for record in lines if digest(record) not in self.written}
        there, raw = {record.image for record in lines}, self.raw()
        if raw and raw == self.looked: foreign, there = {}, set(FRAMES)   # it was looked at; what was labeled since is newer
        step()
        self.looked = self.raw()
        now = self.look()
        for item, (annotation, status, note, is_flagged) in now.items():
            if (annotation, status, note, is_flagged) == before[item]: continue
            assert (note, is_flagged) == before[item][2:]
            if item in foreign and annotation == SCHEMA.parse(foreign[item].answer) and status == 'done':
                assert digest(foreign[item]) not in self.ever or item in self.deleted, 'a label went back to what it was'
            else: assert annotation == before[item][0] and (before[item][1], status) == ('done', 'todo') and item not in there, item
        final = {record.image: record for record in self.store.records()}
        for item, record in foreign.items():
            if item not in final or final[item].answer != record.answer: assert record.answer.encode() in backups(self.folder) and raw in backups(self.folder)
        for item, annotation in self.bert.items():   # another annotator's labels are nobody's to change
            assert self.store.annotation_of('bert', item) == annotation
        self.deleted |= {item for item in FRAMES if item not in there}
        self.expected = now

    def open_again(self):
        def again():
            self.store.journal.close()
            self.store = LabelStore(self.folder, 'anna')
        self.synchronize(again)

    # labeling

    @rule(item=items, annotation=annotations)
    def accepts(self, item, annotation): self.act(lambda: self.store.accept(item, annotation))

    @rule(item=items, event=st.sampled_from('AB'), phase=st.sampled_from([None, *'123']), hold=st.sampled_from(['span', 'todo', 'item']))
    def sets(self, item, event, phase, hold): self.act(lambda: self.store.set(item, event, phase, hold))

    @rule(item=items, status=st.sampled_from(['todo', 'done', 'skipped']))
    def calls(self, item, status): self.act(lambda: self.store.set_status(item, status))

    @rule(item=items, text=st.text(max_size=5), flagged=st.booleans())
    def marks(self, item, text, flagged):
        self.act(lambda: self.store.set_note(item, text))
        self.act(lambda: self.store.set_flag(item, flagged))

    @rule(again=st.booleans())
    def takes_back(self, again): self.act(lambda: self.store.redo() if again else self.store.undo())

    @rule(item=items, annotation=annotations)
    def bert_labels(self, item, annotation):
        OutsideMachine.steps += 1
        with LabelStore(self.folder, 'bert') as bert:
            bert.accept(item, annotation)
            self.bert = {item: bert.annotation_of('bert', item) for item in bert.done_by('bert')}
        self.remember()
        self.open_again()

    # writing, crashing, starting again

    def remember(self):
        self.written = {digest(record) for record in self.lines()}
        self.ever |= self.written

    @rule()
    def compacts(self):
        OutsideMachine.steps += 1
        try: self.synchronize(self.store.compact)
        except VQAError as error:
            assert 'NOT saved' in str(error)     # the journal was changed: what comes from outside cannot be taken over now
            self.open_again()
            self.store.compact()
        self.remember()
        finished = {item for ledger in self.store.ledgers.values() for item, status in ledger.statuses.items() if status == 'done'}
        assert {record.image for record in self.lines()} <= finished

    @rule()
    def restarts(self):
        OutsideMachine.steps += 1
        self.open_again()

    @rule(number=st.integers(0, 2))
    def is_killed_while_writing(self, number):
        OutsideMachine.steps += 1
        real, count = exported.write_atomically, [0]
        def dies(*arguments):
            count[0] += 1
            if count[0] > number: raise Killed
            return real(*arguments)
        exported.write_atomically = outside.write_atomically = dies
        try: self.store.compact()
        except (Killed, VQAError): pass
        finally: exported.write_atomically = outside.write_atomically = real
        self.expected = self.look()   # what was taken over before the end
        self.written |= {digest(record) for record in self.store.records()}
        self.ever |= self.written
        self.looked = b''   # or not, before the end
        self.open_again()
        self.compacts()

    # other programs

    def put(self, path, content, when, swap=False):
        OutsideMachine.steps += 1
        self.saved.setdefault(path, []).append(path.read_bytes() if path.exists() else b'')
        if swap:
            path.with_suffix('.new').write_bytes(content)
            os.replace(path.with_suffix('.new'), path)
        else: path.write_bytes(content)
        if when is not None: os.utime(path, (when, when))

    @rule(number=numbers, annotation=annotations, when=times)
    def edits_a_line(self, number, annotation, when):
        lines = [record.to_json() for record in self.lines()]
        if not lines: return
        values = json.loads(lines[number % len(lines)])
        lines[number % len(lines)] = json.dumps(values | {'answer': SCHEMA.render(annotation)})
        self.put(self.folder/LABELS, '\n'.join(lines).encode() + b'\n', when)

    @rule(item=items, annotation=annotations, when=times)
    def adds_a_line(self, item, annotation, when):
        content = (self.folder/LABELS).read_bytes() if (self.folder/LABELS).exists() else b''
        self.put(self.folder/LABELS, content + line(item, annotation, source='elsewhere').to_json().encode() + b'\n', when)

    @rule(number=numbers, when=times)
    def deletes_a_line(self, number, when):
        lines = [record.to_json() for record in self.lines()]
        if lines: self.put(self.folder/LABELS, '\n'.join(lines[:number % len(lines)] + lines[number % len(lines) + 1:]).encode() + b'\n', when)

    @rule(junk=st.sampled_from([b'\n', b'{"torn', b'{"image": "../x", "question": "?", "answer": "none"}\n', b'\xff\xfe\n']), when=times)
    def adds_junk(self, junk, when):
        content = (self.folder/LABELS).read_bytes() if (self.folder/LABELS).exists() else b''
        self.put(self.folder/LABELS, content + junk, when)

    @rule(number=numbers, when=times, swap=st.booleans(), journal=st.booleans())
    def restores_a_backup(self, number, when, swap, journal):
        path = at(self.folder) if journal else self.folder/LABELS
        kept = self.saved.get(path)
        if kept: self.put(path, kept[number % len(kept)], when, swap)

    @rule(number=numbers, swap=st.booleans(), when=times)
    def shortens_a_journal(self, number, swap, when):
        lines = at(self.folder).read_bytes().splitlines(keepends=True) if at(self.folder).exists() else []
        self.put(at(self.folder), b''.join(lines[:number % (len(lines) + 1)]), when, swap)

    @rule(number=numbers)
    def edits_a_journal(self, number):
        content = at(self.folder).read_bytes() if at(self.folder).exists() else b''
        self.put(at(self.folder), content.replace(b'"1"', b'"3"', 1 + number % 3), None)

    @rule(how=st.sampled_from(['CRLF', 'BOM', 'reversed', 'no line end', 'twice', 'pretty', 'UTF-16']), journal=st.booleans(), when=times)
    def writes_in_another_way(self, how, journal, when):
        path = at(self.folder) if journal else self.folder/LABELS
        if path.exists(): self.put(path, OTHERWISE[how](path.read_bytes()), when)

    @rule(junk=st.sampled_from([b'{"note":"hi"}\n', b'{"id":["x"],"time":"2026","do":"set","items":{}}\n', b'[]\n', b'7\n', b'{"time":"2026","do":"x","items":{"/etc/passwd":{"A":1}}}\n', b'\x00\x00\n', b'{"id": "to']))
    def adds_junk_to_a_journal(self, junk):
        with open(at(self.folder), 'ab') as file: file.write(junk)

    @rule(name=st.sampled_from(['anna (conflicted copy)', 'anna-LAPTOP', 'anna 2']))
    def leaves_a_conflicted_copy(self, name):
        if at(self.folder).exists(): shutil.copy(at(self.folder), at(self.folder, name))

    @rule()
    def removes(self):
        for path in (self.folder/LABELS, at(self.folder)): path.unlink(missing_ok=True)

    @invariant()
    def agrees(self):
        assert self.look() == self.expected
        assert set(self.store.annotators) <= {'anna', 'bert'}

    def teardown(self): self.store.journal.close()


def run(tmp_path, examples, steps):
    OutsideMachine.root, OutsideMachine.count, OutsideMachine.steps = tmp_path, 0, 0
    # Without shrinking, which takes minutes here: the steps of a failure are printed as they were.
    # Always the same steps, so that a change is what makes it fail; other seeds are for whoever works on the store.
    options = settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=True,
                       phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OutsideMachine, settings=options)

def test_nothing_acknowledged_is_lost_to_other_programs(tmp_path): run(tmp_path, 25, 25)

@pytest.mark.slow
def test_ten_thousand_steps_beside_other_programs(tmp_path):
    run(tmp_path, 220, 60)
    assert OutsideMachine.steps >= 10_000


# --- the cases by name

def test_a_line_from_outside_ends_at_the_next_picture_also_where_that_one_s_line_was_deleted(folder):
    "Both in one look: picture 1 gets a line, and the line of picture 2, which somebody else labeled, is gone"
    with LabelStore(folder, 'bert') as bert: bert.accept(FRAMES[2], {'A': '1', 'B': '3'})
    (folder/LABELS).write_text(line(FRAMES[1], {'B': '1'}, source='elsewhere').to_json() + '\n')
    for _ in range(2):
        with LabelStore(folder, 'anna') as anna:
            anna.compact()
            assert [anna.state(item).annotation for item in FRAMES[:5]] == [{}, {'B': '1'}, {}, {}, {}]
    assert answers(folder) == {FRAMES[1]: {'B': '1'}}


@pytest.mark.parametrize('when', [0, 10**9, 4 * 10**9])
def test_an_edit_counts_whatever_its_time_and_a_deleted_line_stays_away(folder, when):
    with LabelStore(folder, 'anna') as store: store.annotate(FRAMES, {'A': '1'}, hold='item')
    kept = (folder/LABELS).read_text().splitlines()
    edited = [text.replace('A in the 1', 'B in the 2') if FRAMES[1] in text else text for text in kept if FRAMES[2] not in text]
    (folder/LABELS).write_text('\n'.join(edited) + '\n')
    os.utime(folder/LABELS, (when, when))
    expected = {item: {'B': '2'} if item == FRAMES[1] else {'A': '1'} for item in FRAMES if item != FRAMES[2]}
    for _ in range(2):
        with LabelStore(folder, 'anna') as store: assert store.status(FRAMES[2]) == 'todo'
        assert answers(folder) == expected
    with LabelStore(folder, 'anna') as store: store.set_status(FRAMES[2], 'done')     # labeled again
    assert answers(folder) == expected | {FRAMES[2]: {'A': '1'}}

def test_a_label_of_somebody_else_that_was_deleted_stays_away_until_it_is_given_again(folder):
    with LabelStore(folder, 'bert') as bert: bert.accept(FRAMES[1], {'A': '1'})
    (folder/LABELS).write_text('\n')
    with LabelStore(folder, 'anna') as store: store.accept(FRAMES[2], {'B': '1'})
    assert FRAMES[1] in answers(folder)            # an empty file is damage, and deletes nothing
    (folder/LABELS).write_text(''.join(text for text in (folder/LABELS).open() if FRAMES[1] not in text))
    for name in 'anna', 'bert', 'anna':
        with LabelStore(folder, name) as store: store.set_flag(FRAMES[1], name == 'bert')
        assert FRAMES[1] not in answers(folder)
    with LabelStore(folder, 'bert') as bert: bert.accept(FRAMES[1], {'A': '2'})
    assert answers(folder)[FRAMES[1]] == {'A': '2'}

@pytest.mark.parametrize('again', [True, False])
def test_what_is_labeled_after_a_change_was_taken_is_newer(folder, again):
    "A deleted line is labeled again as it was; an edited one is set back to what it was: both stay, also after a crash"
    with LabelStore(folder, 'anna') as store: store.annotate(FRAMES[:3], {'A': '1'}, hold='item')
    kept = [text for text in (folder/LABELS).read_text().splitlines(keepends=True) if FRAMES[0] not in text]
    (folder/LABELS).write_text(''.join(kept).replace('A in the 1', 'B in the 2', 1))
    store = LabelStore(folder, 'anna')
    assert store.status(FRAMES[0]) == 'todo' and store.annotation(FRAMES[1]) == {'B': '2'}
    for item in FRAMES[:2]: store.accept(item, {'A': '1'})
    if again:                                                     # without writing labels.jsonl in between
        store.journal.close()
        store = LabelStore(folder, 'anna')
    store.compact()
    assert answers(folder) == {item: {'A': '1'} for item in FRAMES[:3]}
    store.close()

CASE = [*Path(__file__).with_name('cases').joinpath('journal_foreign_lines.jsonl').read_text().splitlines(), '{"id": "x", "do": "set"}',
        '{"time":"2026","do":"set","items":{"images/polyp.jpg":{"events":{"A":[null,1]}}}}',
        '{"time":"2026","do":"set","items":{"images/polyp.jpg":{"status":[null,"finished"]}}}',
        '{"time":"2026","do":"set","items":{"../x.jpg":{"note":[null,"x"]}}}',
        '{"time":"2026","do":"set_note","items":{"images/polyp.jpg":{"note":[null,"\\ud83d"]}}}',
        '{"time":"tomorrow","do":"set","items":{"images/polyp.jpg":{"status":[null,"done"]}}}',
        '{"time":"9999-12-31","do":"set","items":{"images/polyp.jpg":{"status":[null,"done"]}}}',
        '{"time":"2026","do":"set","ends":7,"items":{"images/polyp.jpg":{"note":[null,"x"]}}}',
        '{"time":"2026","do":"set_note","annotator":"carla","items":{"images/polyp.jpg":{"note":[null,"x"]}}}']

@pytest.mark.parametrize('foreign', CASE)
@pytest.mark.parametrize('journal', ['anna', 'bert'])
def test_a_line_that_is_no_entry_is_told_and_everything_else_opens(folder, foreign, journal):
    for name in 'anna', 'bert':
        with LabelStore(folder, name) as store: store.accept(FRAMES[0], {'A': '1'})
    with open(at(folder, journal), 'a') as file: file.write(foreign + '\n')
    (folder/'labels/.exported').unlink()                          # and without a memory of what was written
    with open(folder/LABELS, 'a') as file: file.write(line(FRAMES[3], {'B': '2'}, annotator='anna').to_json() + '\n')
    with LabelStore(folder, 'anna') as store:
        assert [store.annotation_of(name, FRAMES[0]) for name in ('anna', 'bert')] == [{'A': '1'}] * 2
        notice, taken = store.notices
        assert '1 labels' in taken and store.annotation(FRAMES[3]) == {'B': '2'}
        assert f'labels/{journal}.jsonl:2: ' in notice and 'passed over' in notice
        assert store.annotators == ['anna', 'bert'] and store.state('images/polyp.jpg').note == ''
        store.accept(FRAMES[1], {'B': '1'})
    assert foreign in at(folder, journal).read_text()

@pytest.mark.parametrize('how', [*OTHERWISE, 'id is a list', 'no id'])
@pytest.mark.parametrize('with_copy', [True, False])
def test_a_journal_that_is_written_in_another_way_takes_no_label_back(folder, how, with_copy):
    "The first line was changed by the last one; where the order is lost, or the line cannot be read, the copy has it"
    with LabelStore(folder, 'anna') as store:
        for phase in '123': store.accept(FRAMES[0], {'A': phase})
    otherwise = OTHERWISE | {'id is a list': lambda content: re.sub(rb'"id":("[^"]+")', rb'"id":[\1]', content),
                             'no id': lambda content: re.sub(rb'"id":"[^"]+",', b'', content)}
    at(folder).write_bytes(otherwise[how](at(folder).read_bytes()))
    if not with_copy: (folder/'labels/.anna.copy').unlink()
    for name in 'bert', 'anna', 'anna':
        with LabelStore(folder, name) as store:
            if with_copy or how in ('CRLF', 'BOM', 'twice', 'no id'): assert store.annotation_of('anna', FRAMES[0]) == {'A': '3'}
            else: assert how == 'reversed' or store.notices or store.annotation_of('anna', FRAMES[0]) is not None
            if name == 'anna': store.undo(), store.redo()

def test_two_journals_of_one_annotator_put_one_after_the_other_take_nothing_back(folder):
    "`cat laptop.jsonl desktop.jsonl`: both begin with the same entries, which count once"
    with LabelStore(folder, 'anna') as store: store.accept(FRAMES[0], {'A': '1'})
    common = at(folder).read_bytes()
    with LabelStore(folder, 'anna') as store: store.accept(FRAMES[0], {'A': '2'})
    with open(at(folder), 'ab') as file: file.write(common)
    for _ in range(2):
        with LabelStore(folder, 'anna') as store:
            assert store.annotation(FRAMES[0]) == {'A': '2'} and 'the entry is there twice' in store.notices[0]
    assert answers(folder) == {FRAMES[0]: {'A': '2'}}

def test_links_that_lead_in_a_circle_open(folder):
    (folder/'labels').mkdir()
    at(folder, 'loop').symlink_to(at(folder, 'loop'))
    (folder/'images/again').symlink_to(folder/'images', target_is_directory=True)
    with LabelStore(folder, 'anna') as store:
        assert sorted(store.items) == sorted(FRAMES) and 'loop.jsonl' in store.notices[0]
        store.accept(FRAMES[0], {'A': '1'})

@pytest.mark.parametrize('code', [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_a_share_without_locks(folder, monkeypatch, code):
    def no_locks(*_): raise OSError(code, os.strerror(code))
    monkeypatch.setattr(fcntl, 'flock', no_locks)
    monkeypatch.setattr('paligemma_vqa.journal.LEASE_S', 1.5)
    with LabelStore(folder, 'anna') as store:
        assert 'no file locks' in store.notices[0]
        store.accept(FRAMES[0], {'A': '1'})
        lease = next((folder/'labels').glob('.anna.lease'))
        assert str(os.getpid()) in lease.read_text()
        lease.unlink()                                           # somebody took over, the heartbeat notices
        for _ in range(200):
            if store.journal._lock.compromise: break
            time.sleep(0.1)
        with pytest.raises(VQAError, match='the share was away'): store.accept(FRAMES[1], {'A': '1'})
        assert store.status(FRAMES[1]) == 'todo'
        store.journal.close()
    with LabelStore(folder, 'anna') as store: assert store.annotation(FRAMES[0]) == {'A': '1'}

def test_pictures_that_are_gone_or_cannot_be_opened_are_told_with_their_number(folder):
    with LabelStore(folder, 'anna') as store: store.annotate(FRAMES, {'A': '1'}, hold='item')
    (folder/FRAMES[0]).unlink()
    (folder/FRAMES[1]).rename(folder/'images/other.jpg')
    for name in ('scan.dcm', 'notes.txt'): (folder/'images'/name).touch()
    (folder/'images/far.png').symlink_to('/nowhere/far.png')
    (folder/'images/circle.png').symlink_to(folder/'images/circle.png')
    (folder/'frames.jsonl').write_text('{"image": "images/polyp.jpg", "frame_index": "<img src=x>"}\n{"image": "images/polyp.jpg", "video": 7}\n')
    with LabelStore(folder, 'anna') as store:
        lines, gone, links, others = store.notices
        assert 'frames.jsonl:1: ' in lines and '(1 more lines' in lines and '2 pictures that were labeled' in gone
        assert '2 links' in links and '2 files' in others and 'scan.dcm' in others
        assert len(store.items) == len(FRAMES) - 1 and store.counts()['done'] == len(FRAMES) - 2
    assert len(answers(folder)) == len(FRAMES)      # the labels are kept


def test_an_edit_from_outside_leaves_the_frame_after_it_to_whom_it_belongs(folder):
    "Taking over an edited line ends its label before the next frame, which somebody else labeled last"
    with LabelStore(folder, 'anna') as store:
        store.set(FRAMES[0], 'A', '1')
        store.set_status(FRAMES[:5], 'done')
    with LabelStore(folder, 'bert') as store: store.accept(FRAMES[3], {'A': '2'}, source='human')
    text = (folder/LABELS).read_text().splitlines(keepends=True)
    (folder/LABELS).write_text(''.join(t.replace('A in the 1', 'A in the 3') if FRAMES[2] in t else t for t in text))
    for name in 'anna', 'bert':
        with LabelStore(folder, name) as store: store.set_flag(FRAMES[0], name == 'anna')
        assert answers(folder) == {FRAMES[0]: {'A': '1'}, FRAMES[1]: {'A': '1'}, FRAMES[2]: {'A': '3'}, FRAMES[3]: {'A': '2'}, FRAMES[4]: {'A': '1'}}
        assert next(r.extra['annotator'] for r in read_records(folder) if r.image == FRAMES[3]) == 'bert'


@pytest.mark.parametrize('extra', [dict(annotator=['x'], created_at={}), dict(source=7, annotator=None), dict(created_at=['2026'])])
def test_a_line_whose_keys_are_of_another_kind(folder, extra):
    "Also where there is no memory of what was written, and where a journal cannot be read"
    with LabelStore(folder, 'bert') as bert: bert.accept(FRAMES[0], {'A': '1'})
    for path in at(folder, 'bert'), folder/'labels/.bert.copy', folder/'labels/.exported': path.unlink()
    at(folder, 'bert').mkdir()
    with open(folder/LABELS, 'a') as file: file.write(json.dumps(json.loads(line(FRAMES[1], {'B': '1'}).to_json()) | extra) + '\n')
    with LabelStore(folder, 'anna') as store: store.accept(FRAMES[2], {'B': '2'})
    assert answers(folder) == {FRAMES[0]: {'A': '1'}, FRAMES[1]: {'B': '1'}, FRAMES[2]: {'B': '2'}}

@pytest.mark.parametrize('damage', [b'', b'\n \n', b'[1]\n', b'\x1f\x8b\x08junk', '{"a": 1}'.encode('utf-16')])
def test_a_file_that_says_nothing_is_told_and_made_again(folder, damage):
    with LabelStore(folder, 'anna') as store: store.annotate(FRAMES[:5], {'A': '1'}, hold='item')
    (folder/LABELS).write_bytes(damage)
    with LabelStore(folder, 'anna') as store: assert len(store.notices) == 1 and str(folder/LABELS) in store.notices[0]
    with LabelStore(folder, 'anna') as store:
        store.set_flag(FRAMES[0])
        store.compact()
    assert answers(folder) == {item: {'A': '1'} for item in FRAMES[:5]}

@pytest.mark.parametrize('their', ['2031-05-05T00:00:00.000+00:00', '2099-12-31T23:59:59.999+00:00'])
def test_a_clock_that_is_ahead_makes_nobody_right(folder, their):
    "What is labeled after another's label was seen is newer, whatever the other's clock said"
    with LabelStore(folder, 'anna') as store: store.accept(FRAMES[2], {'A': '1'}, source='human')
    text = re.sub(r'"time":"[^"]+"', f'"time":"{their}"', at(folder).read_text())
    for path in (folder/'labels').glob('.*'): path.unlink()
    at(folder).write_text(text)
    (folder/LABELS).unlink()
    with LabelStore(folder, 'bert') as store:
        assert store.annotation_of('anna', FRAMES[2]) == {'A': '1'}
        store.accept(FRAMES[2], {'A': '2'}, source='human')
        store.accept(FRAMES[3], {'B': '1'}, source='human')
    assert answers(folder) == {FRAMES[2]: {'A': '2'}, FRAMES[3]: {'B': '1'}}
    assert next(r.extra['created_at'] for r in read_records(folder) if r.image == FRAMES[3]) < '2031'

def test_a_name_that_is_no_text_is_told_and_everything_else_is_labeled(folder):
    open(os.fsencode(folder) + b'/images/caf\xe9.jpg', 'wb').close()
    with LabelStore(folder, 'anna') as store:
        assert sorted(store.items) == sorted(FRAMES) and len(store.notices) == 1
        store.notices[0].encode()
        assert '1 files' in store.notices[0] and 'caf\\xe9.jpg' in store.notices[0]
        store.accept(FRAMES[0], {'A': '1'})
    assert answers(folder) == {FRAMES[0]: {'A': '1'}}
