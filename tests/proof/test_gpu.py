"""The proof that runs on a card runs on a CPU too, so that nothing is found out there that could have been found here."""
import json, os, shutil, subprocess, sys, time

import pytest
import torch

from paligemma_vqa.proof.gpu import STEPS, run_steps, step_rows
from paligemma_vqa.proof.speed import compiled_rows, sides
from paligemma_vqa.proof.subject import make_subject
from paligemma_vqa.schema import EventSchema


def prove(folder, *options):
    return subprocess.run([sys.executable, '-m', 'paligemma_vqa.proof', '--device', 'cpu', '--tiny', '--output', folder, *options],
                          capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


@pytest.mark.slow
def test_every_step_ends_and_every_check_passes(tmp_path):
    done = prove(tmp_path, '--no-compile')
    assert done.returncode == 0, done.stderr[-3000:]
    found, page = json.loads((tmp_path / 'gpu.json').read_text()), (tmp_path / 'gpu.md').read_text()
    assert list(found['steps']) == list(STEPS)
    checks = found['steps']['correct']['rows']
    assert sum(check['passed'] is True for check in checks) >= 10 and not [c for c in checks if c['passed'] is False]
    ways = {row['way'] for row in found['steps']['speed']['rows'] if row['kind'] == 'speed'}
    assert 'ours' in ways and 'ours, compiled' not in ways
    assert all(row['samples_a_second'] > 0 for row in found['steps']['tuning']['rows'])
    assert 'at most generate' in page
    assert all(row['name'] in page for row in checks) and found['machine']['torch'] in page


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='there is no C++ compiler')
def test_compiled():
    "What is compiled is compared in the first step and timed in the second; on one model, whose programs serve both"
    checks = [row for row in step_rows('correct', 'cpu', 'tiny', 1e9) if 'compiled' in row['name']]
    assert len(checks) == 2 and all(check['passed'] for check in checks), checks
    subject = make_subject('tiny', 'cpu', torch.float32, 'eager', EventSchema(events=('A', 'B', 'C'), phases=('1', '2')))
    compiling, *rows = compiled_rows(subject, 1, 1, float('inf'))
    assert compiling['seconds'] > 0, compiling
    assert [row['way'].replace(', compiled', '') for row in rows] == [way for way in sides(subject, subject.inputs(1)) if way.startswith('ours')]
    assert all(row['ms'] > 0 and row['rounds'] == 1 and 'compiled' in row['way'] for row in rows)


@pytest.mark.slow
def test_a_step_that_fails_is_told_and_leaves_the_others(tmp_path):
    (tmp_path / 'correct.jsonl').mkdir()            # cannot be written
    found = run_steps(tmp_path, 'cpu', 'tiny', ('correct', 'tuning'), compiles=False)
    assert found == json.loads((tmp_path / 'gpu.json').read_text()) and found['steps']['correct']['ended'] == 1
    assert found['steps']['tuning']['ended'] == 0 and found['steps']['tuning']['rows']


@pytest.mark.slow
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
