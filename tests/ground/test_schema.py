"""The schema's promises over names and annotations that nobody thought of."""
import subprocess, sys

from hypothesis import assume, given, settings, strategies as st

from paligemma_vqa.schema import EventSchema, VQAError

name = st.one_of(
    st.text(st.characters(codec='utf-8', categories=['L', 'N', 'P', 'S', 'M', 'Zs']), min_size=1, max_size=8),
    st.lists(st.sampled_from(['and', 'in', 'the', 'phase', 'no', 'none', '1', '10', 'a', '出', '血', '处于', ':', '-', 'cut']),
             min_size=1, max_size=4).map(' '.join))


@st.composite
def schemas(draw):
    "A schema with odd names, or nothing when such names are refused"
    events = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    phases = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    try: return EventSchema.preset(draw(st.sampled_from(['default', 'zh'])), events=events, phases=phases)
    except VQAError: assume(False)


@given(schemas(), st.data())
@settings(max_examples=400, deadline=None)
def test_parse_is_the_inverse_of_render(schema, data):
    codes = data.draw(st.tuples(*[st.integers(0, len(schema.phases))] * len(schema.events)))
    annotation = schema.from_codes(codes)
    assert schema.codes(annotation) == codes
    for answer_format in schema.answer_formats:
        answer = schema.render(annotation, answer_format)
        assert schema.parse(answer, answer_format) == annotation
        assert schema.parse(answer) == annotation


@given(schemas(), st.data())
@settings(max_examples=100, deadline=None)
def test_different_annotations_have_different_answers(schema, data):
    codes = st.tuples(*[st.integers(0, len(schema.phases))] * len(schema.events))
    one, other = data.draw(codes), data.draw(codes)
    for answer_format in schema.answer_formats:
        assert (one == other) == (schema.render(schema.from_codes(one), answer_format) == schema.render(schema.from_codes(other), answer_format))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_reading_forgives_how_and_not_what(data):
    schema = EventSchema()
    codes = data.draw(st.tuples(*[st.integers(0, 4)] * 5))
    annotation = schema.from_codes(codes)
    items = data.draw(st.permutations(list(annotation.items())))
    spaces = st.sampled_from([' ', '  ', '\n', '\u00a0'])
    comma = st.sampled_from([', ', ' and ', ', and ', ';', '，'])
    text = 'Based on the image, I can see '
    for i, (event, phase) in enumerate(items): text += (data.draw(comma) if i else '') + f'{event} in the {phase} phase'
    text += ', and no other events are visible' if items else 'no events'
    text = ''.join(data.draw(spaces) if c == ' ' else c for c in text) + data.draw(st.sampled_from(['', '.', ' .']))
    text = data.draw(st.sampled_from([str.lower, str.upper, str]))(text)
    assert schema.parse(text) == annotation


@given(st.text(max_size=60))
def test_whatever_comes_is_read_or_refused(text):
    schema = EventSchema()
    try: annotation = schema.parse(text)
    except VQAError as error: assert '\n' not in str(error)
    else: assert schema.check(annotation) == annotation


@given(schemas())
@settings(max_examples=50, deadline=None)
def test_json_round_trip(schema):
    again = EventSchema.from_dict(schema.to_dict())
    assert again == schema and again.fingerprint == schema.fingerprint


def test_importing_the_schema_is_light():
    code = 'import sys, paligemma_vqa.schema; print([m for m in ("torch", "numpy", "transformers", "PIL") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'
