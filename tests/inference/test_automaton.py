"""The automaton accepts exactly the rendered annotations, whatever the names, the format and the tokenizer."""
import re

import pytest
from decoding_models import TOKENIZERS, boundless_tokenizer, byte_level_tokenizer
from hypothesis import given, settings, strategies as st

from paligemma_vqa.inference.automaton import AnswerAutomaton, answer_regex
from paligemma_vqa.schema import AnswerFormat, EventSchema, VQAError

NAMES = ['A', 'B', 'AB', 'A B', 'tear', 'tear repair', 'in', 'the', 'and no', 'phase', '1', '10', '出血', '出血点', 'É', 'x.y', 'a (b)', '🩸']
PHASES = ['1', '2', '10', '100', 'early', 'early stop', 'phase', 'III', '早期', '早', '.5']


def language(automaton, state=0, tokens=()):
    if state == automaton.end: yield tokens
    for token, after in automaton.next(state).items(): yield from language(automaton, after, tokens + (token,))


def build(events, phases, preset, make_tokenizer, answer_format):
    try: schema = EventSchema.preset(preset, events=tuple(events), phases=tuple(phases))
    except VQAError: return None    # names that the schema itself refuses
    return AnswerAutomaton(schema, make_tokenizer(schema, answer_format), answer_format)


def accepted_is_exactly_rendered(automaton):
    schema, tokenizer = automaton.schema, automaton.tokenizer
    rendered = {automaton.tokens(a): schema.codes(a) for a in schema.annotations()}
    accepted = list(language(automaton))
    assert len(accepted) == len(set(accepted)) == schema.size
    assert set(accepted) == set(rendered)
    for tokens, codes in rendered.items(): assert automaton.codes(tokens) == codes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True), st.lists(st.sampled_from(PHASES), min_size=1, max_size=3, unique=True),
       st.sampled_from(['default', 'zh']), st.sampled_from(TOKENIZERS), st.sampled_from(['sentence', 'list', 'json']))
def test_accepts_exactly_the_rendered_annotations(events, phases, preset, make_tokenizer, answer_format):
    automaton = build(events, phases, preset, make_tokenizer, answer_format)
    if automaton: accepted_is_exactly_rendered(automaton)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True), st.lists(st.sampled_from(PHASES), min_size=1, max_size=3, unique=True),
       st.sampled_from(['default', 'zh']), st.sampled_from(['sentence', 'list', 'json']), st.randoms())
def test_the_regular_expression_says_the_same(events, phases, preset, answer_format, dice):
    try: schema = EventSchema.preset(preset, events=tuple(events), phases=tuple(phases))
    except VQAError: return
    pattern = re.compile(answer_regex(schema, answer_format))
    answers = {schema.render(a, answer_format) for a in schema.annotations()}
    for answer in answers:
        assert pattern.fullmatch(answer)
        at, other = dice.randrange(len(answer)), dice.choice(sorted(set(''.join(answers))))
        for changed in (answer[:at] + other + answer[at + 1:], answer[:at] + answer[at + 1:], answer[:at] + other + answer[at:], answer + other):
            assert bool(pattern.fullmatch(changed)) == (changed in answers)


@pytest.mark.parametrize('answer_format', ['sentence', 'list', 'json'])
def test_a_schema_far_too_large_to_list_stays_small_in_memory(answer_format):
    schema = EventSchema(events=tuple(f'event {c}' for c in 'abcdefghijkl'), phases=tuple(f'phase {i}' for i in range(1, 9)))
    automaton = AnswerAutomaton(schema, byte_level_tokenizer(schema, answer_format, 500), answer_format)
    assert schema.size == 9 ** 12 and not automaton.is_enumerated
    assert len(automaton) == 2     # lazy: nothing is built before it is asked for
    everything = {e: schema.phases[i % 8] for i, e in enumerate(schema.events)}
    assert automaton.codes(automaton.tokens(everything)) == schema.codes(everything)
    state = 0
    while state < len(automaton): automaton.next(state); state += 1
    assert len(automaton) < 3000


def test_tokens_across_items_are_listed_when_few_and_refused_when_many():
    few = EventSchema(events=('A', 'B'), phases=('1', '2'))
    automaton = AnswerAutomaton(few, boundless_tokenizer(few))
    assert automaton.is_enumerated
    accepted_is_exactly_rendered(automaton)
    many = EventSchema(events=tuple('ABCDEFGHIJ'), phases=tuple('123456'))
    with pytest.raises(VQAError, match='too many to list'): AnswerAutomaton(many, boundless_tokenizer(many, vocab_size=400))


def test_a_format_of_ones_own():
    lines = AnswerFormat(item='<{event}|{phase}>', separator='', nothing='-', prefix='» ', suffix=' «')
    schema = EventSchema(events=('A', 'B', 'C'), phases=('1', '11'), answer_formats=dict(lines=lines))
    for make_tokenizer in TOKENIZERS: accepted_is_exactly_rendered(AnswerAutomaton(schema, make_tokenizer(schema), 'lines'))
