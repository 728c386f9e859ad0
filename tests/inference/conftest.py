"""A small random model and its automaton, for the schema that a module of tests calls `SCHEMA`."""
import pytest
from decoding_models import byte_level_tokenizer, random_model

from paligemma_vqa.inference.automaton import AnswerAutomaton


@pytest.fixture(scope='module')
def tokenizer(request): return byte_level_tokenizer(request.module.SCHEMA)


@pytest.fixture(scope='module')
def model(tokenizer): return random_model(len(tokenizer))


@pytest.fixture(scope='module')
def automaton(request, tokenizer): return AnswerAutomaton(request.module.SCHEMA, tokenizer)
