"""The labeling session and tool without a browser: what commands do to the store, whatever their order."""
import json, shutil, time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from paligemma_vqa.labeling.agreement import disagreements
from paligemma_vqa.labeling.commands import ACTIONS, ask_own, do, note, open_events
from paligemma_vqa.dataset.extract import extract_frames
from paligemma_vqa.labeling.playback import PLAYBACK
from paligemma_vqa.labeling.schema_form import preview_html, typed_names
from paligemma_vqa.labeling.keys import COMMANDS, event_keys, key_map, legend
from paligemma_vqa.labeling.schema_change import Renaming, change_schema, put_back
from paligemma_vqa.labeling.widget import LabelingTool, ask_for_names
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.labeling.ahead import Prepared, show_picture
from paligemma_vqa.labeling.order import uncertain_first, unlike_first
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.labeling.session import LabelingSession, show
from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.labeling.view import (agreement_html, filmstrip_html, header_html, rows_html, timeline_html,
                                         toolbar_html)

SCHEMA = EventSchema()
A, B, C, D, E = SCHEMA.events
ONE, TWO, THREE, FOUR = SCHEMA.phases


def make_folder(folder, frames=10, video='v', size=(64, 36)):
    (folder/'images').mkdir(parents=True, exist_ok=True)
    for i in range(frames): Image.new('RGB', size, (20 * i % 255, 60, 60)).save(folder/f'images/{video}_{i:06d}.jpg')
    return folder

def make_session(folder, annotator='ann', schema=None, **options):
    return LabelingSession(LabelStore(folder, annotator, schema or SCHEMA), pause_s=0, **options)

def press(session, *commands):
    for command in commands: do(session, command)
    return session

def held(session): return [session.annotation(item) for item in session.sequence]

def labels(session): return {i: session.annotation(item) for i, item in enumerate(session.sequence) if session.status(item) == 'done'}


class Guess:
    def __init__(self, schema, codes, share):
        self.annotation = schema.from_codes(codes)
        self.probabilities = np.full((len(schema.events), len(schema.phases) + 1), (1 - share) / len(schema.phases))
        self.probabilities[np.arange(len(codes)), codes] = share

class Guesser:
    "Says that picture number i shows the first event in phase i modulo 4, surer the higher i is"
    def __init__(self, schema=SCHEMA): self.schema, self.seen = schema, []
    def predict(self, images):
        self.seen += [Path(image).name for image in images]
        numbers = [int(Path(image).stem.rsplit('_', 1)[1]) for image in images]
        return [Guess(self.schema, (i % 4 + 1, *[0] * (len(self.schema.events) - 1)), 0.5 + 0.04 * i) for i in numbers]


# --- keys

names = st.text(st.characters(whitelist_categories=('Lu', 'Ll', 'Lo')), min_size=1, max_size=6)

@given(st.lists(names, min_size=1, max_size=30, unique_by=str.casefold), st.integers(1, 25))
@settings(max_examples=50, deadline=None)
def test_every_command_has_a_key_whatever_the_names(events, phases):
    try: schema = EventSchema(events=tuple(events), phases=tuple(f'p{i}' for i in range(phases)))
    except VQAError: return    # names that the schema refuses
    keys = key_map(schema)
    assert {command.name for command in COMMANDS} <= set(keys.values())
    assert {f'phase {i}' for i in range(min(phases, 19) + 1)} <= set(keys.values())
    assert {f'event {i}' for i in range(min(len(events), 26))} <= set(keys.values())
    assert all(len(letter) == 1 and letter in 'abcdefghijklmnopqrstuvwxyz' for letter in event_keys(schema.events).values())
    assert legend(schema)

def test_every_command_of_the_keys_exists():
    for schema in SCHEMA, EventSchema.preset('zh'):
        for command in set(key_map(schema).values()) - {'note', 'full_window'}: assert command.split()[0] in {*ACTIONS, *PLAYBACK}


# --- the session

def test_a_phase_holds_until_it_is_changed(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'event 0', 'phase 2', 'confirm', 'confirm', 'phase 0', 'confirm', 'confirm')
    assert labels(session) == {0: {A: TWO}, 1: {A: TWO}, 2: {}, 3: {}}
    session.close()
    assert [record.answer for record in read_records(tmp_path)] == [SCHEMA.render({A: TWO})] * 2 + [SCHEMA.render({})] * 2

def test_holding_stops_at_labeled_pictures_unless_asked(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'go 5', 'nothing', 'first', 'set 0 1')
    assert [session.annotation(item) for item in session.sequence[4:7]] == [{A: ONE}, {}, {}]
    session.hold = 'span'
    press(session, 'set 1 2')
    assert session.annotation(session.sequence[5]) == {}      # it has keys of its own
    session.hold = 'item'
    press(session, 'set 2 3')
    assert C not in session.annotation(session.sequence[1])

def test_pressing_twice_writes_once(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'set 0 2')
    size = (tmp_path/'labels/ann.jsonl').stat().st_size
    press(session, 'set 0 2', 'set 0 2', 'event 3', 'up', 'down', 'forward', 'back')
    assert (tmp_path/'labels/ann.jsonl').stat().st_size == size

def test_undo_shows_what_it_undoes_and_survives_a_restart(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'nothing', 'go 7', 'nothing', 'go 3')
    session.close()
    session = press(make_session(tmp_path), 'first', 'undo')
    assert session.item == session.sequence[7] and labels(session) == {0: {}}
    press(session, 'undo')
    assert session.item == session.sequence[0] and labels(session) == {}
    press(session, 'redo', 'redo', 'redo')
    assert labels(session) == {0: {}, 7: {}} and 'nothing to redo' in session.message

def test_a_run_is_one_action(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'go 2', *['select_forward'] * 4, 'event 4', 'phase 3')
    assert held(session)[2:7] == [{E: THREE}] * 5 and len(session.run) == 5 and labels(session) == {}
    assert labels(press(session, 'confirm')) == {i: {E: THREE} for i in range(2, 7)}      # finished, and on to the next
    assert session.item == session.sequence[7] and session.anchor is None
    assert session.annotation(session.sequence[7]) == {}
    press(session, 'undo', 'undo')
    assert labels(session) == {} and held(session) == [{}] * 10
    press(session, 'select 8 6', 'skip')
    assert [session.status(item) for item in session.sequence[5:]] == ['todo', 'skipped', 'skipped', 'skipped', 'todo']
    press(session, 'select 0 9', 'nothing')
    assert labels(session) == {i: {} for i in range(10)}

def test_a_run_selected_backwards_and_past_the_ends(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'go 1', 'select_back_10', 'set 0 1')
    assert held(session)[:3] == [{A: ONE}, {A: ONE}, {}]
    press(session, 'unselect', 'last', 'select_forward', 'select_to 99', 'set 0 2')
    assert held(session)[9] == {A: TWO}

def test_intervals_of_several_events_overlap(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'go 1', 'set 0 1', 'interval', 'go 3', 'set 1 2', 'interval', 'go 6', 'event 0', 'interval', 'go 8', 'event 1', 'interval')
    expected = {i: ({A: ONE} if 1 <= i <= 6 else {}) | ({B: TWO} if 3 <= i <= 8 else {}) for i in range(1, 9)}
    assert {i: held(session)[i] for i in expected} == expected and session.intervals == {}
    assert labels(session) == {}                              # nobody has said what else is in them
    assert session.annotation(session.sequence[9]) == {}

def test_an_interval_says_nothing_about_other_events(tmp_path):
    "One event after the other: labels.jsonl has a picture only once every event of it was said, or somebody finished it"
    session = press(make_session(make_folder(tmp_path)), 'go 1', 'set 1 1', 'interval', 'go 6', 'interval', 'go 2', 'unlabeled')
    session.store.compact()
    assert session.store.counts()['done'] == 0 and not (tmp_path/'labels.jsonl').exists()
    assert session.store.open_events(session.sequence[4]) == (A, C, D, E) and session.item == session.sequence[3]
    for row in 0, 2, 3, 4: press(session, 'unselect', 'go 3', f'select 3 5', f'set {row} {int(row == 2)}')
    assert [session.status(item) for item in session.sequence[2:7]] == ['todo', 'done', 'done', 'done', 'todo']
    press(session, 'unselect', 'go 6', 'confirm')
    session.store.compact()
    said = {record.image: SCHEMA.parse(record.answer) for record in read_records(tmp_path)}
    assert said == {item: {B: ONE} | ({C: ONE} if i < 6 else {}) for i, item in enumerate(session.sequence) if 3 <= i <= 6}

def test_an_interval_can_be_drawn_backwards_and_needs_a_phase(tmp_path):
    session = press(make_session(make_folder(tmp_path)), 'go 6', 'event 2', 'interval')
    assert session.intervals == {} and 'phase first' in session.message
    press(session, 'phase 4', 'interval', 'go 2', 'interval')
    assert held(session) == [{}] * 2 + [{C: FOUR}] * 5 + [{}] * 3

def test_an_interval_ends_in_its_own_video(tmp_path):
    make_folder(tmp_path, 3, 'a'), make_folder(tmp_path, 3, 'b')
    session = press(make_session(tmp_path), 'set 0 1', 'interval', 'forward_10', 'event 0', 'interval')
    assert session.is_alarm and 'another video' in session.message and A in session.intervals

def test_same_and_nothing_at_the_edges(tmp_path):
    session = press(make_session(make_folder(tmp_path, 3)), 'same')
    assert labels(session) == {} and 'no picture before' in session.message
    press(session, 'set 0 1', 'set 1 4', 'confirm', 'same', 'same')
    assert labels(session) == {i: {A: ONE, B: FOUR} for i in range(3)}
    assert 'end of the queue' in session.message
    assert session.store.state(session.sequence[1]).source == 'copied'

def test_lone_pictures_do_not_hold(tmp_path):
    (tmp_path/'images').mkdir()
    for name in ('fox', 'hen', 'owl'): Image.new('RGB', (8, 8)).save(tmp_path/f'images/{name}.png')
    session = press(make_session(tmp_path), 'set 0 1', 'confirm', 'confirm')
    assert labels(session) == {0: {A: ONE}, 1: {}}
    press(session, 'select 0 2', 'set 3 2', 'confirm')
    assert labels(session) == {0: {A: ONE, D: TWO}, 1: {D: TWO}, 2: {D: TWO}}

def test_a_stale_key_does_nothing(tmp_path):
    session = make_session(make_folder(tmp_path))
    do(session, 'set 0 1', item='images/v_000003.jpg')
    assert labels(session) == {} and 'left out' in session.message

def test_flags_skips_and_notes(tmp_path):
    session = press(make_session(make_folder(tmp_path, 4)), 'flag')
    assert session.store.is_flagged(session.item) and 'Flagged' in session.message
    press(session, 'forward', 'skip')
    assert 'skipped' in session.message
    press(session, 'set 0 1', 'confirm')
    assert [session.status(item) for item in session.sequence[1:]] == ['skipped', 'done', 'todo']
    note(session, '  blurred  ')
    press(session, 'go 1', 'set 0 2')
    assert session.status(session.item) == 'todo'                     # whoever says something about it does not skip it
    press(session, 'first', 'confirm', 'first', 'flag', 'flag', 'skip', 'first', 'confirm')   # neither takes the other away
    assert session.store.is_flagged(session.sequence[0]) and session.status(session.sequence[0]) == 'done'
    press(session, 'first', 'flag')
    assert not session.store.is_flagged(session.sequence[0]) and session.status(session.sequence[0]) == 'done'
    assert session.statuses == {item: status for item in session.sequence if (status := session.store.status(item)) != 'todo'}
    session.close()
    assert [record.image for record in read_records(tmp_path)] == [f'images/v_{i:06d}.jpg' for i in (0, 2)]
    assert make_session(tmp_path).store.state('images/v_000003.jpg').note == 'blurred'

def test_many_phases_and_foreign_names(tmp_path):
    schema = EventSchema.preset('zh', events=('切割', '缝合'), phases=tuple(f'第{i}步' for i in range(1, 15)))
    session = press(make_session(make_folder(tmp_path, 3), schema=schema), key_map(schema)['b'], key_map(schema)['Shift+2'], 'next_phase', 'next_phase', 'next_phase')
    assert session.annotation() == {'缝合': '第14步'}
    press(session, *['previous_phase'] * 20)
    assert session.annotation() == {}

def test_questions_and_formats(tmp_path):
    session = press(make_session(make_folder(tmp_path, 3)), 'set 0 1', 'confirm', 'back', 'ask 1', f'answer_in {list(SCHEMA.answer_formats).index("json")}')
    ask_own(session, 'Is {events} there, and when of {phases}?')
    session.close()
    records = read_records(tmp_path)
    assert [record.question for record in records] == [SCHEMA.question(name) for name in list(SCHEMA.questions)[:2]] + ['answer en Is A, B, C, D, E there, and when of 1, 2, 3, 4?']
    assert {record.answer for record in records} == {SCHEMA.render({A: ONE}, 'json')}

def test_a_full_disk_is_shown_and_changes_nothing(tmp_path, monkeypatch):
    session = press(make_session(make_folder(tmp_path)), 'set 0 1')
    import os
    real = os.write
    def full(descriptor, data):
        if os.readlink(f'/proc/self/fd/{descriptor}').endswith('ann.jsonl'): raise OSError(28, 'No space left on device')
        return real(descriptor, data)
    monkeypatch.setattr(os, 'write', full)
    press(session, 'set 0 2', )
    monkeypatch.undo()
    assert session.is_alarm and 'NOT SAVED' in session.message and held(session)[0] == {A: ONE} and not session.is_saved
    press(session, 'forward', 'back')
    assert not session.is_saved                                # until a label is on the disk again
    assert press(session, 'set 0 3').annotation() == {A: THREE}

def test_unknown_queue_and_missing_model(tmp_path):
    session = make_session(make_folder(tmp_path))
    with pytest.raises(VQAError, match='no queue'): session.use_queue('best')
    with pytest.raises(VQAError, match='needs a model'): session.use_queue('uncertain')
    assert 'no model' in press(session, 'accept').message


commands = st.lists(st.one_of(
    st.sampled_from([name for name in ACTIONS if name not in ('go', 'event', 'select', 'select_to', 'phase', 'set', 'take', 'ask', 'answer_in')]),
    st.builds('go {}'.format, st.integers(0, 7)), st.builds('set {} {}'.format, st.integers(0, 4), st.integers(0, 4)),
    st.builds('select {} {}'.format, st.integers(0, 7), st.integers(0, 7)), st.builds('event {}'.format, st.integers(0, 4)),
), max_size=25)

@given(commands, st.sampled_from(['todo', 'span', 'item']))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_pressed_a_restart_finds_the_same_and_undo_leads_back(tmp_path_factory, commands, hold):
    folder = make_folder(tmp_path_factory.mktemp('any'), 8)
    session = make_session(folder)
    session.hold = hold
    press(session, *commands)
    session.store.compact()
    found, statuses = labels(session), dict(session.statuses)
    assert statuses == {item: status for item in session.sequence if (status := session.store.status(item)) != 'todo'}
    session.close()
    again = make_session(folder)
    assert labels(again) == found and again.statuses == statuses
    path = folder/'labels.jsonl'
    assert [json.loads(line)['image'] for line in path.read_text().splitlines()] == [again.sequence[i] for i in found] if path.exists() else not found
    while again.store.can_undo: press(again, 'undo')
    assert labels(again) == {} and again.statuses == {}
    again.close()


# --- the model in the loop

def test_uncertain_first_and_accepted_ones_are_marked(tmp_path):
    session = make_session(make_folder(tmp_path, 10), predictor=Guesser(), predictor_name='round-2', queue='uncertain')
    assert session.suggestions.wait()
    press(session, 'forward')
    order = [int(Path(item).stem[2:]) for item in session.queue]
    assert {number % 4 for number in order[1:5]} == {0, 1, 2, 3}   # one of each kind of answer before a second of any
    rest = [i for i in range(10) if i not in order[:5]]
    assert order[5] == rest[0]                                     # the model is surer the higher the number
    press(session, 'accept')
    session.close()
    [record] = read_records(tmp_path)
    assert record.extra['source'] == 'model:round-2' and record.answer == SCHEMA.render({A: SCHEMA.phases[order[1] % 4]})

def test_correcting_an_accepted_suggestion_makes_it_human(tmp_path):
    session = make_session(make_folder(tmp_path, 4), predictor=Guesser())
    session.suggestions.wait()
    press(session, 'accept', 'back', 'set 1 1')
    assert session.store.state(session.item).source == 'human'

def test_accepting_a_run(tmp_path):
    session = make_session(make_folder(tmp_path, 6), predictor=Guesser())
    session.suggestions.wait()
    press(session, 'select 1 3', 'accept')
    assert labels(session) == {i: {A: SCHEMA.phases[i % 4]} for i in (1, 2, 3)}
    press(session, 'undo')
    assert labels(session) == {}

def test_a_hidden_model_does_not_lead(tmp_path):
    session = make_session(make_folder(tmp_path, 4), predictor=Guesser())
    session.suggestions.wait()
    press(session, 'hide')
    assert session.suggestion() is None and '50%' not in rows_html(session)
    assert labels(press(session, 'accept')) == {} and 'hidden' in session.message

def test_a_failing_model_is_told_and_labeling_goes_on(tmp_path):
    class Broken:
        def predict(self, images): raise RuntimeError('out of memory')
    session = make_session(make_folder(tmp_path, 4), predictor=Broken())
    session.suggestions.wait()
    assert session.is_alarm and 'out of memory' in session.message
    assert labels(press(session, 'set 0 1', 'confirm')) == {0: {A: ONE}}

@given(st.sets(st.integers(0, 300), max_size=80), st.floats(0, 0.9), st.integers(0, 5), st.integers(0, 90))
@settings(max_examples=100, deadline=None)
def test_the_uncertain_queue_loses_nothing(known, share, seed, most):
    draws = np.random.default_rng(seed).dirichlet(np.ones(3), size=(len(known), 2)).round(1)   # with ties
    says, others = dict(zip(known, draws)), [i for i in range(0, 320, 3) if i not in known]
    assert sorted(uncertain_first(says, others, share, seed, seen=draws[:2])) == sorted([*known, *others])
    assert sorted(unlike_first(says, most=most)) == sorted(known)


# --- two annotators

def test_review_settles_what_two_annotators_see_differently(tmp_path):
    make_folder(tmp_path, 6)
    press(first := make_session(tmp_path, 'ann'), 'set 0 1', *['confirm'] * 6).close()
    press(second := make_session(tmp_path, 'bob'), 'set 0 1', *['confirm'] * 3, 'phase 2', *['confirm'] * 3).close()
    session = make_session(tmp_path, 'aaa', queue='review')     # who has labeled nothing is not counted
    assert session.queue == [f'images/v_{i:06d}.jpg' for i in (3, 4, 5)]
    assert 'ann' in agreement_html(session) and 'bob' in agreement_html(session)
    press(session, 'take 0', 'take 1', 'set 0 3', 'set 1 1')
    assert disagreements(session.store) == []
    session.close()
    answers = {record.frame_index: record.answer for record in read_records(tmp_path)}
    assert [answers[i] for i in range(6)] == [SCHEMA.render(annotation) for annotation in [{A: ONE}] * 4 + [{A: TWO}, {A: THREE, B: ONE}]]

def test_a_reviewer_who_decides_one_event_leaves_the_others_as_they_are(tmp_path):
    "What all say alike stays, what they differ on is open until it is decided, and nobody's picture is not settled"
    make_folder(tmp_path, 6)
    frames = [f'images/v_{i:06d}.jpg' for i in range(6)]
    for name, said in ('ann', {A: ONE, B: TWO}), ('bob', {A: TWO, B: TWO}):
        with LabelStore(tmp_path, name) as store:
            store.accept(frames[0], said)
            store.accept(frames[1], {A: THREE, B: THREE})
            store.accept(frames[3], said | {B: said[A]})
    session = make_session(tmp_path, 'carla', queue='review')
    assert session.queue == [frames[0], frames[3]] and session.annotation() == {B: TWO}
    press(session, 'confirm')
    assert 'not decided' in session.message and session.store.settled(frames[0]) is None
    press(session, 'set 0 3')
    assert session.store.settled(frames[0]) == {A: THREE, B: TWO}
    show(session, frames[1])
    press(session, 'set 0 0')
    assert session.store.settled(frames[1]) == {B: THREE}
    show(session, frames[1])
    press(session, 'select_forward', 'select_forward', 'set 0 1')         # over frame 2, which nobody has labeled
    assert [session.store.settled(item) for item in frames[1:4]] == [{A: ONE, B: THREE}, None, None]
    show(session, frames[3])
    press(session, 'set 1 2')
    assert session.store.settled(frames[3]) == {A: ONE, B: TWO}
    press(session, 'undo')
    assert session.store.settled(frames[3]) is None and open_events(session, frames[3]) == [B]
    session.close()
    assert {record.frame_index for record in read_records(tmp_path)} == {0, 1, 3}

def test_a_phase_over_a_skipped_picture_and_a_finished_one_leaves_the_finished_one_finished(tmp_path):
    make_folder(tmp_path, 3)
    session = make_session(tmp_path)
    press(session, 'nothing', 'skip', 'back', 'back', 'select_forward', 'set 0 1')
    assert [session.status(item) for item in session.sequence] == ['done', 'todo', 'todo']
    press(session, 'undo')
    assert [session.status(item) for item in session.sequence] == ['done', 'skipped', 'todo']
    press(session, 'unselect', 'last', 'set 0 1', 'skip', 'last', *[f'set {row} 0' for row in range(1, len(SCHEMA.events))])
    assert session.status(session.sequence[2]) == 'done'                 # every event of it was said
    session.close()


# --- pictures and the tool

@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_file_breaks_the_screen(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('any')/'x.jpg'
    path.write_bytes(content)
    assert show_picture(path).error

def test_names_are_never_markup(tmp_path):
    schema = EventSchema(events=('<script>x</script>', 'b&b'), phases=('<i>1</i>', '2'))
    session = press(make_session(make_folder(tmp_path, 3, '<u>v'), annotator='ann', schema=schema), 'set 0 1', 'set 1 2', 'interval')
    pictures = Prepared(lambda items: [show_picture(tmp_path/item) for item in items])
    drawn = rows_html(session) + timeline_html(session) + header_html(session) + toolbar_html(session) + filmstrip_html(session, pictures)
    assert '<script' not in drawn and '<i>1' not in drawn and '<u>' not in drawn
    pictures.close()


# --- the schema is made in the tool

@given(st.text(max_size=60), st.text(max_size=30))
@settings(max_examples=25, deadline=None)
def test_whatever_is_typed_the_form_shows_a_schema_or_a_reason(events, phases):
    html, schema = preview_html(events, phases, 'en', 'list')
    if schema is None: assert 'vqa-wrong' in html or not typed_names(events) or not typed_names(phases)
    else: assert schema.parse(schema.render({schema.events[0]: schema.phases[0]})) == {schema.events[0]: schema.phases[0]}

def test_a_bare_folder_is_asked_for_its_schema_once(tmp_path):
    make_folder(tmp_path, 3)
    tool = LabelingTool(tmp_path, annotator='ann', pause_s=0)
    assert tool.session is None
    tool.form.events.value, tool.form.phases.value = '1. clipping\n2. cutting', 'begin, end'
    tool.form.answer_format.value = 'list'
    tool.form.start.click()
    assert tool.schema.events == ('clipping', 'cutting')
    for command in 'set 1 2', 'confirm': tool.handle(command)
    tool.close()
    assert [record.answer for record in read_records(tmp_path)] == ['cutting: end']
    again = LabelingTool(tmp_path, annotator='ann', pause_s=0)
    assert again.form is None and again.schema == tool.schema
    again.close()

# --- playback

@pytest.fixture(scope='module')
def cut(bikes, tmp_path_factory):
    "A folder of frames cut from a real video, and the video beside it"
    home = tmp_path_factory.mktemp('cut')
    extract_frames(bikes, home/'data', every_s=0.4, end_s=4)
    return home

def test_keys_while_a_video_plays_label_the_picture_that_was_passed(cut, tmp_path):
    shutil.copytree(cut/'data', tmp_path/'data')
    tool, sent = LabelingTool(tmp_path/'data', SCHEMA, 'ann', pause_s=0), []
    def send(message, buffers):
        sent.append(message['play'])
        tool.playback.drawn(1)
    tool.playback.send = send
    tool.handle('faster'); tool.handle('play')
    limit = time.monotonic() + 60
    while len(sent) < 20 and time.monotonic() < limit: time.sleep(0.01)
    pressed_at = sent[-1]['item']
    tool.handle('set 0 2', pressed_at)                 # the picture on screen may be another one by now
    tool.handle('play')
    session = tool.session
    places = {item: i for i, item in enumerate(session.sequence)}
    assert tool.playback.player.recording.video is not None and not tool.playback.is_playing
    assert session.store.state(pressed_at).explicit == {A: TWO}
    assert [annotation == {A: TWO} for annotation in held(session)] == [i >= places[pressed_at] for i in places.values()]
    assert 'played' in session.offers
    played = [frame['item'] for frame in sent if frame != 'stop']
    tool.handle('confirm_played')
    assert labels(session).keys() == set(range(places[played[0]], places[played[-1]] + 1))
    tool.close()

# --- other names later

def test_names_are_changed_in_the_tool_and_no_label_is_lost(tmp_path):
    make_folder(tmp_path, 5)
    tool = LabelingTool(tmp_path, SCHEMA, 'ann', pause_s=0)
    for command in 'set 0 2', 'confirm', 'confirm', 'set 1 1': tool.handle(command)
    ask_for_names(tool)
    form = tool.names_form
    form.names['events'][A].value = B                                  # two of one name: told, and nothing happens
    form.change.click()
    assert 'are the same' in form.told.value and tool.schema == SCHEMA and not tool.store.closed
    form.names['events'][A].value, form.names['phases'][TWO].value, form.more['events'].value = 'clipping', 'late', 'suture'
    form.change.click()
    assert tool.schema.events == ('clipping', B, C, D, E, 'suture') and tool.session.item == 'images/v_000002.jpg'
    assert tool.session.annotation(tool.session.sequence[1]) == {'clipping': 'late'} and 'suture' in tool.parts['message'].value
    assert tool.store.state(tool.session.item).explicit == {B: ONE} and 'suture' in tool.store.open_events(tool.session.item)
    tool.handle('flag_finished')
    tool.session.use_queue('flagged')
    assert tool.session.queue == tool.session.sequence[:2]
    tool.close()
    assert [record.answer for record in read_records(tmp_path)] == [tool.schema.render({'clipping': 'late'})] * 2
    assert {record.question for record in read_records(tmp_path)} == {tool.schema.question()}
    [backup] = (tmp_path/'labels').glob('before *.zip')
    put_back(tmp_path, backup)
    again = LabelStore(tmp_path, 'ann')
    assert again.notices == [] and again.annotation('images/v_000000.jpg') == {A: TWO}
    again.close()

@pytest.mark.slow
@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_labeled_says_the_same_under_new_names(tmp_path_factory, data):
    folder = make_folder(tmp_path_factory.mktemp('names'), 6)
    for annotator in 'ann', 'bob':
        session = make_session(folder, annotator)
        press(session, *data.draw(commands))
        if data.draw(st.booleans()): session.use_queue('review')
        press(session, *data.draw(commands))
        session.close()
    renamed = dict(rename_events=dict(zip((A, B), data.draw(st.permutations((B, A))))), rename_phases={ONE: 'first'}, add_events=['F'])
    before = {name: make_session(folder, name) for name in ('ann', 'bob')}
    said = {name: (held(session), dict(session.statuses), [session.store.open_events(item) for item in session.sequence]) for name, session in before.items()}
    for session in before.values(): session.close()
    lines = read_records(folder) if (folder/'labels.jsonl').exists() else []
    change_schema(folder, **renamed)
    new = EventSchema.load(folder/'schema.json')
    names = Renaming(SCHEMA, new, renamed['rename_events'], renamed['rename_phases'])
    after = read_records(folder) if (folder/'labels.jsonl').exists() else []
    assert [names.record(line) for line in lines] == after
    for name in 'ann', 'bob':
        session = LabelingSession(LabelStore(folder, name), pause_s=0)
        assert session.store.notices == []
        assert held(session) == [new.check(names.annotation(one)) for one in said[name][0]] and session.statuses == said[name][1]
        assert [{*session.store.open_events(item)} - {'F'} for item in session.sequence] == [{names.event(event) for event in events} for events in said[name][2]]
        session.close()
    assert (read_records(folder) if (folder/'labels.jsonl').exists() else []) == after
