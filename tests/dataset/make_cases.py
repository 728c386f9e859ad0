"""Made `cases/cvat_datumaro.xml`, `coco_*.json`, `elan_*.eaf` and `boris_8_27*`, with datumaro, pympi and BORIS themselves

    pip install --target TOOLS datumaro==1.9.1 pympi-ling==1.71 && PYTHONPATH=TOOLS python tests/dataset/make_cases.py
    pip install --no-deps --target TOOLS boris-behav-obs==8.27.4 tablib PyQt5 PyQt5-sip PyQt5-Qt5 && PYTHONPATH=TOOLS python tests/dataset/make_cases.py boris

BORIS is a program with windows; here its own readers and exporters run without them. `boris_9*` (BORIS 9 is not on PyPI) and
`cvat_tracks.xml` (CVAT is a server) were written by hand after what these programs document and write.
"""
import ast, importlib.util, json, shutil, sys, tempfile, types
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np

CASES = Path(__file__).parent / 'cases'
SAID = {'scene_000_000000': {'A': '2', 'B': '3'}, 'scene_000_000010': {'C': '1'}, 'scene_000_000020': {}}


def with_datumaro():
    from datumaro.components.annotation import Bbox, Label
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image
    def items(make): return [DatasetItem(id=name, media=Image.from_numpy(data=np.zeros((24, 32, 3), np.uint8)), annotations=[make('ABC'.index(event), phase) for event, phase in said.items()],
                                         attributes={'frame': n}) for n, (name, said) in enumerate(SAID.items())]
    for format, options, make, pattern, name in (('cvat', dict(allow_undeclared_attrs=True), lambda label, phase: Label(label, attributes={'phase': phase}), '*.xml', 'cvat_datumaro.xml'),
                                        ('coco_instances', {}, lambda label, phase: Bbox(1, 2, 8, 9, label=label, attributes={'phase': phase}), 'instances*.json', 'coco_datumaro.json')):
        folder = Path(tempfile.mkdtemp())
        Dataset.from_iterable(items(make), categories=['A', 'B', 'C']).export(str(folder / 'out'), format, **options)
        [written] = (folder / 'out').rglob(pattern)
        shutil.copy(written, CASES / name)


def with_pympi():
    from pympi.Elan import Eaf
    eaf = Eaf()
    eaf.add_linked_file('file:///D:/videos/op1.mp4', relpath='./op1.mp4', mimetype='video/mp4')
    for tier, intervals in dict(A=[(1000, 3000, '1'), (3000, 3500, '2')], B=[(3000, 3500, '3')]).items():
        eaf.add_tier(tier)
        for interval in intervals: eaf.add_annotation(tier, *interval)
    eaf.remove_tier('default')
    eaf.to_file(str(CASES / 'elan_pympi.eaf'))


def boris():
    "The modules of BORIS, without the window and the video player that it opens when it is imported"
    sys.modules['boris'] = package = types.ModuleType('boris')
    package.__path__ = [str(Path(importlib.util.find_spec('tablib').origin).parents[1] / 'boris')]
    sys.modules['boris.mpv2'] = player = types.ModuleType('mpv2')
    player.dll, player.MpvEventID = '', None
    from boris import config, export_observation, project_functions
    return config, project_functions, export_observation


def boris_project(events, video='videos/op1.mp4', kinds=dict(A='State event', B='State event', C='Point event')):
    "An observation of a video as BORIS keeps it; whose behaviour an event is stands in its second place"
    config, *_ = boris()
    phases = {'0': {'name': 'phase', 'description': '', 'type': 0, 'ask at stop': False, 'values': ['1', '2', '3', '4']}}
    behaviours = {str(i): {'type': kind, 'key': code.lower(), 'code': code, 'description': '', 'category': '', 'modifiers': phases, 'excluded': '', 'coding map': ''}
                  for i, (code, kind) in enumerate(kinds.items())}
    observation = {'file': {str(i): [video] if i == 1 else [] for i in range(1, 9)}, 'type': 'MEDIA', 'date': '2026-03-02T10:11:12.123', 'description': '', 'time offset': 0.0,
                   'events': events, 'observation time interval': [0, 0], 'independent_variables': {}, 'visualize_spectrogram': False, 'visualize_waveform': False,
                   'close_behaviors_between_videos': False, 'media_info': {'length': {video: 20.0}, 'fps': {video: 25.0}, 'hasVideo': {video: True},
                                                                            'hasAudio': {video: False}, 'offset': {'1': 0.0}}}
    subjects = {str(i): {'key': '', 'name': name, 'description': ''} for i, name in enumerate(sorted({event[1] for event in events} - {''}))}
    return config.EMPTY_PROJECT | {'project_name': 'operations', 'project_date': '2026-03-02T10:00:00', config.SUBJECTS: subjects, config.ETHOGRAM: behaviours,
                                   config.OBSERVATIONS: {'op1': observation}}


def boris_exports(path, folder):
    "What BORIS says of a project that it opens: its own copy, tabular events and aggregated events"
    config, projects, exports = boris()
    _, _, project, message = projects.open_project_json(str(path))
    if 'error' in project: raise SystemExit(project['error'])
    [name] = project[config.OBSERVATIONS]
    observation, folder = project[config.OBSERVATIONS][name], Path(folder)
    is_paired, problem = projects.check_state_events_obs(name, project[config.ETHOGRAM], observation)
    if not is_paired: raise SystemExit(problem)
    asked = {'time': config.TIME_FULL_OBS, config.SELECTED_SUBJECTS: [config.NO_FOCAL_SUBJECT, *(one['name'] for one in project[config.SUBJECTS].values())],
             config.SELECTED_BEHAVIORS: [one['code'] for one in project[config.ETHOGRAM].values()]}
    (folder / 'project.boris').write_text(json.dumps(project, indent=1, default=lambda number: float(number) if isinstance(number, Decimal) else str(number)))
    is_done, problem = exports.export_tabular_events(project, asked, name, observation, project[config.ETHOGRAM], str(folder / 'tabular.tsv'), 'tsv')
    if not is_done: raise SystemExit(problem)
    rows, count = exports.export_aggregated_events(project, asked, name)
    rows.headers = list(aggregated_columns(SimpleNamespace(pj=project))(count))   # its window adds them
    is_done, problem = exports.dataset_write(rows, str(folder / 'aggregated.tsv'), 'tsv')
    if not is_done: raise SystemExit(problem)


def aggregated_columns(window):
    "The function inside of BORIS's window that names the columns of aggregated events"
    import datetime as dt
    from boris import config
    source = (Path(sys.modules['boris'].__path__[0]) / 'export_events.py').read_text()
    found = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == 'fields_type')
    names = dict(self=window, cfg=config, util=sys.modules['boris.utilities'], dt=dt)
    exec(compile(ast.Module([found], []), 'export_events.py', 'exec'), names)
    return names['fields_type']


def with_boris():
    folder = Path(tempfile.mkdtemp())
    both_hands = [[1.0, 'left hand', 'A', '1', ''], [2.0, 'right hand', 'A', '1', ''], [3.0, 'left hand', 'A', '1', ''], [4.0, 'right hand', 'A', '1', ''],
                  [6.0, '', 'B', '3', 'a note'], [7.0, '', 'B', '3', '']]
    (folder / 'made.boris').write_text(json.dumps(boris_project(both_hands)))
    boris_exports(folder / 'made.boris', folder)
    for name, case in {'project.boris': 'boris_8_27.boris', 'tabular.tsv': 'boris_8_27_tabular.tsv', 'aggregated.tsv': 'boris_8_27_aggregated.tsv'}.items():
        shutil.copy(folder / name, CASES / case)


if __name__ == '__main__':
    if 'boris' in sys.argv: with_boris()
    else: with_datumaro(); with_pympi()
