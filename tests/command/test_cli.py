"""The command as its users run it: a process, files on disk, one line when the input is wrong."""
import json, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import cv2
import numpy as np
import pytest
from terminal import fails, run, run_process

from paligemma_vqa.schema import EventSchema

def test_help_is_quick_and_names_every_command():
    run_process('--help')   # the first start compiles the modules
    start = time.perf_counter()
    done = run_process('--help')
    assert done.returncode == 0
    for name in 'demo label frames lint split train evaluate infer video merge doctor'.split(): assert name in done.stdout
    print(f'--help took {time.perf_counter() - start:.2f} s')


def test_help_does_not_import_torch():
    code = 'import sys; from paligemma_vqa.command.cli import run; run(["--help"]); sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def test_help_shows_every_square_bracket(monkeypatch, capsys):
    "What stands in brackets looks like a colour to the printer of help texts"
    import typer
    from paligemma_vqa.command.cli import app, run as command
    monkeypatch.setenv('COLUMNS', '1000')
    monkeypatch.setenv('TERMINAL_WIDTH', '1000')
    seen = 0
    for name, one in typer.main.get_command(app).commands.items():
        command([name, '--help'])
        shown = ' '.join(capsys.readouterr().out.split())
        for text in [one.help or '', *(getattr(parameter, 'help', None) or '' for parameter in one.params)]:
            for part in re.findall(r'\S*\[[^\]]*\]\S*', ' '.join(text.split())):
                seen += 1
                assert part in shown, (name, part)
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_command_that_is_stopped_says_so_from_its_first_moment(tmp_path, number):
    "What a scheduler sends comes while torch is still being imported"
    def after(lines):
        code = f'import os; from paligemma_vqa.command import cli, terminal\ndef stop(): os.kill(os.getpid(), {int(number)})\n{lines}\ncli.main()'
        done = subprocess.run([sys.executable, '-c', code, 'wait'], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stderr
    said = 130, 'Error: stopped; what was finished is kept.\n'
    assert after('cli.app.command("wait")(terminal.checked(stop))') == said
    # before typer calls it; and a library that makes an error of its own of it
    assert after('cli.app.callback()(stop)\ncli.app.command("wait")(lambda: None)') == said
    library = 'def read():\n    try: stop()\n    except BaseException: raise ValueError("the data set could not be made")'
    assert after(f'{library}\ncli.app.command("wait")(terminal.checked(read))') == said


@pytest.mark.slow
def test_photographs_get_well_formed_answers(trained, photographs, tmp_path):
    done = run_process('infer', '--image_path', photographs, '--lora_path', trained / 'run' / 'adapter', '--json', '--save_dir', tmp_path / 'kept')
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2
    for answer in answers: assert EventSchema().parse(answer['answer']) == answer['annotation']
    assert (tmp_path / 'kept' / 'china.png').exists()


@pytest.mark.slow
def test_answers_that_are_kept_are_those_of_this_adapter_and_these_pictures(photographs, tmp_path, capsys):
    "Two pictures of one name, drawings below the pictures, another schema, a picture replaced"
    from paligemma_vqa.command.cli import run as command
    for case, name in (('case1', 'china.jpg'), ('case2', 'flower.jpg')):
        (tmp_path / case).mkdir()
        (tmp_path / case / 'f_1.jpg').write_bytes((photographs / name).read_bytes())
    def infer(model='tiny', *more):
        code = command(['infer', '--image_path', str(tmp_path), '--model', model, '--save_dir', str(tmp_path / 'out'), '--json', *more])
        out, err = capsys.readouterr()
        return code, [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()], err
    code, first, _ = infer()
    assert code == 0 and len(first) == 2 and 'valid_mass' not in first[0]
    assert sorted(path.name for path in (tmp_path / 'out').rglob('f_1.png')) == ['f_1.png'] * 2
    code, second, err = infer()
    assert second == first and '2 of 2 pictures were answered before' in err
    code, third, err = infer('tiny', '--valid-mass')
    assert len(third) == 2 and 0 < third[0]['valid_mass'] < 1 and 'they are now in' in err
    (tmp_path / 'case1' / 'f_1.jpg').write_bytes((photographs / 'flower.jpg').read_bytes())
    code, fourth, err = infer()
    assert '1 of 2' in err and [one['answer'] for one in fourth] == [first[1]['answer']] * 2 and first[0]['answer'] != first[1]['answer']
    assert command(['infer', '--image_path', str(tmp_path / 'case1'), '--model', 'tiny', '--save_dir', str(tmp_path / 'case1')]) == 2
    assert 'over the pictures' in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_answers_are_the_same(trained, photographs):
    arguments = ('infer', '--image_path', photographs / 'china.jpg', '--lora_path', trained / 'run' / 'adapter', '--dtype', 'float32', '--json')
    plain, compiled = (run(*arguments, *more) for more in ((), ('--compile',)))
    if 'C++ compiler' in compiled.stderr: pytest.skip('there is no C++ compiler')
    assert compiled.returncode == 0, compiled.stderr
    one, other = json.loads(plain.stdout), json.loads(compiled.stdout)
    assert one['answer'] == other['answer']
    assert np.allclose(one['log_probability'], other['log_probability'], atol=1e-3)


def test_four_bits_can_be_asked_for(trained, photographs):
    pytest.importorskip('bitsandbytes')
    done = run('infer', '--image_path', photographs / 'china.jpg', '--lora_path', trained / 'run' / 'adapter', '--json', '--quantization', 'nf4')
    answer = json.loads(done.stdout)
    assert EventSchema().parse(answer['answer']) == answer['annotation']


def test_hyphens_and_underscores_are_the_same(trained, photographs):
    outputs = [run('infer', f'--image{c}path', photographs / 'china.jpg', f'--lora{c}path', trained / 'run' / 'adapter').stdout for c in '-_']
    assert outputs[0] == outputs[1] and outputs[0].startswith('>> Model Response:\nBased on the image')


def test_a_broken_picture_in_a_folder_is_reported_and_the_others_are_answered(trained, photographs, tmp_path):
    for path in photographs.iterdir(): (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / 'broken.jpg').write_bytes((photographs / 'china.jpg').read_bytes()[:3000])
    done = run('infer', '--image_path', tmp_path, '--lora_path', trained / 'run' / 'adapter', '--json')
    assert done.returncode == 2 and 'broken.jpg' in done.stdout
    assert sum('annotation' in json.loads(line) for line in done.stdout.splitlines()) == 2


def test_what_is_no_picture_is_not_answered_and_nothing_is_answered_twice(trained, photographs, tmp_path):
    content = (photographs / 'china.jpg').read_bytes()
    for name in ('case1/f_1.jpg', 'case2/f_1.jpg', '.ipynb_checkpoints/f_1-checkpoint.jpg', 'case1/._f_1.jpg', '.hidden.jpg', 'broken.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content[:3000] if name == 'broken.jpg' else content)
    def infer():
        done = run('infer', '--image_path', tmp_path, '--lora_path', trained / 'run' / 'adapter', '--json', '--save_dir', tmp_path / 'out')
        return done, [json.loads(line) for line in done.stdout.splitlines()], (tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines()
    for again in (False, True):   # the drawings of the first time lie among the pictures the second time
        done, answers, lines = infer()
        assert done.returncode == 2 and sorted(Path(one['image']).relative_to(tmp_path).as_posix() for one in answers) == ['broken.jpg', 'case1/f_1.jpg', 'case2/f_1.jpg']
        assert len(lines) == 3 and ('2 of 3 pictures were answered before' in done.stderr) == again
        assert sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.png')) == ['case1/f_1.png', 'case2/f_1.png']


def test_free_text(trained, photographs):
    done = run('infer', '--image_path', photographs / 'china.jpg', '--lora_path', trained / 'run' / 'adapter', '--prompt', 'caption en')
    assert done.returncode == 0 and '>> Model Response:' in done.stdout


def test_a_real_video(trained, bikes, tmp_path):
    done = run('video', '--video_path', bikes, '--lora_path', trained / 'run' / 'adapter', '--output', tmp_path / 'out', '--fps', '1', '--json')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for segment in found['segments']: assert segment['event'] in EventSchema().events and segment['start_s'] < segment['end_s']
    for name in ('segments.json', 'segments.csv', 'timeline.png', 'annotated.mp4', 'report.json'): assert (tmp_path / 'out' / name).stat().st_size
    capture = cv2.VideoCapture(str(tmp_path / 'out' / 'annotated.mp4'))
    assert capture.read()[0]


def test_a_video_with_truth_is_scored(trained, tmp_path):
    from paligemma_vqa.scenes.videos import make_video, plan_scene
    from paligemma_vqa.video.exports import to_csv
    scene = make_video(tmp_path / 'scene.mp4', plan_scene(77, duration_s=6))
    (tmp_path / 'truth.csv').write_text(to_csv(scene.segments()))
    def look(name, truth):
        done = run('video', '--video_path', tmp_path / 'scene.mp4', '--lora_path', trained / 'run' / 'adapter', '--output', tmp_path / name, '--truth', truth,
                   '--fit_to', trained / 'data', '--json')
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)['metrics']
    barely_trained = look('first', tmp_path / 'truth.csv')
    assert 0 <= barely_trained['smoothed']['f1@50'] < 1
    assert look('again', tmp_path / 'first' / 'segments.csv')['smoothed']['f1@50'] == 1


def test_evaluate_writes_a_report(trained):
    done = run('evaluate', '--data', trained / 'data', '--lora_path', trained / 'run' / 'adapter', '--json')
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 <= report['overall']['event_f1']['value'] <= 1 and 'best constant answer' in report['baselines']
    assert (trained / 'run' / 'adapter' / 'evaluation' / 'report.html').stat().st_size > 10_000


def test_merge_then_infer_without_the_adapter(trained, photographs, tmp_path):
    assert run('merge', '--lora_path', trained / 'run' / 'adapter', '--output', tmp_path / 'merged').returncode == 0
    arguments = ('--image_path', photographs / 'flower.jpg', '--lora_path')
    assert run('infer', *arguments, tmp_path / 'merged').stdout == run('infer', *arguments, trained / 'run' / 'adapter').stdout


def test_frames_lint_and_split(bikes, tmp_path, trained):
    done = run('frames', bikes, '--output', tmp_path / 'frames', '--every', '2')
    assert done.returncode == 0 and list((tmp_path / 'frames' / 'images').glob('bikes_*.jpg')), done.stderr
    assert run('lint', trained / 'data').returncode == 0
    assert 'no leak found' in run('split', trained / 'data').stdout


def test_labels_go_out_to_a_table_and_come_back(trained, tmp_path):
    data = shutil.copytree(trained / 'data', tmp_path / 'data')
    before = (data / 'labels.jsonl').read_text().splitlines()
    assert run('export', data, tmp_path / 'labels.csv').stdout.strip() == str(tmp_path / 'labels.csv')
    (data / 'labels.jsonl').unlink()
    assert f'{len(before)} pictures labeled' in run('import', tmp_path / 'labels.csv', data).stdout
    after = (data / 'labels.jsonl').read_text().splitlines()
    def said(lines): return {row['image']: row['answer'] for row in map(json.loads, lines)}
    assert said(after) == said(before)
    (tmp_path / 'map.json').write_text('["not a mapping"]')
    fails('import', tmp_path / 'labels.csv', data, '--map', tmp_path / 'map.json', says=['map.json', 'for each label'])
    fails('import', tmp_path / 'none.csv', data, says=['none.csv', 'no such file'])
    fails('export', data, tmp_path / 'labels.doc', says=['no format', 'label-studio'])


def test_doctor_as_json():
    facts = json.loads(run_process('doctor', '--json').stdout)
    assert facts['torch'] and 'tiny' in facts['bases']


def write(folder, *lines, picture=True):
    (folder / 'images').mkdir(parents=True)
    if picture: cv2.imwrite(str(folder / 'images' / 'v_000001.jpg'), np.zeros((32, 32, 3), np.uint8))
    (folder / 'labels.jsonl').write_text(''.join(line + '\n' for line in lines))
    return folder


def record(answer='A: 1', image='images/v_000001.jpg'):
    return json.dumps(dict(image=image, question=EventSchema().question(), answer=answer))


@pytest.mark.parametrize('lines, picture, says', [
    ((), True, ['labels.jsonl']),
    ((record(), record()[:40]), True, ['labels.jsonl:2']),
    ((record(),), False, ['labels.jsonl:1', 'images/v_000001.jpg']),
    ((record(), record('Z: 1', 'images/v_000001.jpg')), True, ['labels.jsonl:2', "unknown event 'Z'", 'A, B, C']),
    ((record(image='../../etc/passwd'),), True, ['labels.jsonl:1']),
], ids=['empty', 'torn', 'missing picture', 'unknown event', 'outside'])
def test_bad_data_sets(tmp_path, lines, picture, says):
    fails('train', '--data', write(tmp_path / 'data', *lines, picture=picture), '--model', 'tiny', '--output', tmp_path / 'run', says=says)


def test_other_bad_input(tmp_path, trained, photographs):
    adapter = trained / 'run' / 'adapter'
    (tmp_path / 'text.mp4').write_text('not a video')
    fails('train', '--data', tmp_path / 'nowhere', '--model', 'tiny', says=['nowhere', 'no such'])
    fails('train', '--data', trained / 'data', '--model', 'google/paligemma2-3b-pt-448', '--output', tmp_path / 'run', says=['google/paligemma2-3b-pt-448', 'licence'])
    fails('infer', '--image_path', photographs / 'nothing.jpg', '--lora_path', adapter, says=['nothing.jpg'])
    fails('infer', '--image_path', photographs, says=['--lora_path'])
    fails('infer', '--image_path', photographs, '--lora_path', tmp_path, says=[str(tmp_path)])
    fails('video', '--video_path', tmp_path / 'text.mp4', '--lora_path', adapter, '--output', tmp_path / 'out', says=['text.mp4'])
    fails('video', '--lora_path', adapter, says=['--video_path'])
    fails('train', '--data', trained / 'data', '--bogus', says=['--bogus'])


def test_an_adapter_for_another_base(trained, photographs, tmp_path):
    other = tmp_path / 'other'
    shutil.copytree(trained / 'run' / 'adapter', other)
    info = json.loads((other / 'paligemma_vqa.json').read_text())
    info['base_fingerprint'] = '0' * len(info['base_fingerprint'])
    (other / 'paligemma_vqa.json').write_text(json.dumps(info))
    fails('infer', '--image_path', photographs, '--lora_path', other, says=['base'])
