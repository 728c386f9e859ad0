"Each way of writing answers gives the same scores: trained, scored and asked in it, the tiny base finds the same events"
import warnings

import pytest

from paligemma_vqa.command.report import evaluate
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.training.run import finetune
from paligemma_vqa.training.validation import score_answers
from small_dataset import make_folder

METRICS = 'event_f1', 'phase_accuracy', 'exact_match'


def table(found:dict) -> str:
    "A row a format"
    def cell(one): return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    rows = [f"| {name} | {' | '.join(cell(overall[metric]) for metric in METRICS)} |" for name, overall in found.items()]
    return '\n'.join([f"| format | {' | '.join(METRICS)} |", '|---' * 4 + '|', *rows])


@pytest.mark.slow
def test_the_three_formats_score_alike(tmp_path):
    schema, found = EventSchema(), {}
    config = TrainingConfig.preset('tiny', max_steps=50, eval_steps=50, batch_size=8, learning_rate=5e-3, tensorboard=False)
    for name in schema.answer_formats:
        folder = make_folder(tmp_path / name, videos=12, answer_format=name)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')            # few videos
            run = finetune(folder, tmp_path / f'run {name}', config, score=score_answers(schema), progress=False)
            predictor = Predictor.from_adapter(run.adapter_dir)
            assert predictor.answer_format == name
            found[name] = evaluate(predictor, folder, split='validation', baselines=False)['overall']
    print(table(found))
    for metric in METRICS:
        lows, highs = ([overall[metric][edge] for overall in found.values()] for edge in ('low', 'high'))
        assert max(lows) <= min(highs), metric          # all intervals share a value
    assert min(overall['exact_match']['value'] for overall in found.values()) > .8
