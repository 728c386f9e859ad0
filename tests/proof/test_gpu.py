"""The proof that runs on a card runs on a CPU too, so that nothing is found out there that could have been found here."""
import json, os, subprocess, sys, time

import pytest

from paligemma_vqa.proof.gpu import STEPS


def prove(folder, *options):
    return subprocess.run([sys.executable, '-m', 'paligemma_vqa.proof', '--device', 'cpu', '--tiny', '--output', folder, *options],
                          capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


@pytest.mark.parametrize('options', [['--no-compile'], pytest.param([], marks=pytest.mark.slow)], ids=['eager', 'compiled'])
def test_every_step_ends_and_every_check_passes(tmp_path, options):
    done = prove(tmp_path, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    found, page = json.loads((tmp_path / 'gpu.json').read_text()), (tmp_path / 'gpu.md').read_text()
    assert list(found['steps']) == list(STEPS)
    checks = found['steps']['correct']['rows']
    assert sum(check['passed'] is True for check in checks) >= 10 and not [c for c in checks if c['passed'] is False]
    ways = {row['way'] for row in found['steps']['speed']['rows'] if row['kind'] == 'speed'}
    assert ('ours, compiled' in ways) == (not options)
    assert all(row['samples_a_second'] > 0 for row in found['steps']['tuning']['rows'])
    assert 'at most generate' in page
    assert all(row['name'] in page for row in checks) and found['machine']['torch'] in page


@pytest.mark.slow
def test_a_step_that_fails_is_told_and_leaves_the_others(tmp_path):
    (tmp_path / 'correct.jsonl').mkdir()            # cannot be written
    done = prove(tmp_path, '--no-compile')
    found = json.loads((tmp_path / 'gpu.json').read_text()) if (tmp_path / 'gpu.json').exists() else None
    assert done.returncode == 1 and found and found['steps']['correct']['ended'] != 0
    assert found['steps']['tuning']['rows']


def test_it_needs_few_packages(tmp_path):
    "On a machine that has torch, transformers, peft and accelerate, and little else"
    absent = ['cv2', 'av', 'datasets', 'pandas', 'sklearn', 'matplotlib', 'ipywidgets', 'jinja2', 'imagehash', 'typer', 'tensorboard', 'anywidget']
    code = (f'import sys\nsys.modules |= dict.fromkeys({absent!r})\nfrom paligemma_vqa.proof.gpu import step_rows\n'
            'for step in ("correct", "speed", "tuning"):\n    print(step, next(step_rows(step, "cpu", "tiny", 1e9, False))["kind"])\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split() == ['correct', 'check', 'speed', 'device', 'tuning', 'tuning'], done.stderr[-2000:]


def test_it_ends_in_the_time_it_is_given(tmp_path):
    "However slow the machine is: what was found by then is kept, and it is said that time ran out"
    began = time.monotonic()
    done = prove(tmp_path, '--no-compile', '--minutes', '0.02')
    seconds, found = time.monotonic() - began, json.loads((tmp_path / 'gpu.json').read_text())
    assert done.returncode == 1 and [step['ended'] for step in found['steps'].values()] == ['out of time'] * len(STEPS)
    assert sum(step['seconds'] for step in found['steps'].values()) < 10 and seconds < 120
    assert 'out of time' in (tmp_path / 'gpu.md').read_text()
