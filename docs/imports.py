"""What it costs to import what a user begins with.

    python docs/imports.py          # a table in Markdown, as in CONTRIBUTING.md
"""
import os, re, resource, subprocess, sys

SUBJECTS = {'schema': 'import paligemma_vqa.schema', 'inference': 'from paligemma_vqa.inference import Predictor',
            'training': 'from paligemma_vqa.training import finetune', 'labeling': 'from paligemma_vqa.labeling import LabelingTool',
            'the command': 'import paligemma_vqa.command.cli', 'torch alone': 'import torch'}
HEAVY = ('torch', 'transformers', 'datasets', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'av', 'cv2', 'ipywidgets')


def import_times(statement:str) -> tuple[float, dict[str, float]]:
    "Seconds of CPU, and what `python -X importtime` says that each module took itself, without what it imports in turn"
    def used(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    done = subprocess.run([sys.executable, '-X', 'importtime', '-c', statement], capture_output=True, text=True, check=True,
                          env=os.environ | dict(OMP_NUM_THREADS='1'))
    return used() - before, {name: int(own) / 1e6 for own, name in re.findall(r'import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)', done.stderr)}


def row(subject:str, runs:int=3) -> str:
    "The quickest of some runs: the first one reads from a cold disk"
    cpu_s, times = min((import_times(SUBJECTS[subject]) for _ in range(runs)), key=lambda found: found[0])
    heavy = [name for name in HEAVY if name in times]
    return f'| `{SUBJECTS[subject]}` | {cpu_s:.1f} | {sum(times.values()):.1f} | {len(times):,} | {", ".join(heavy) or "none"} |'


if __name__ == '__main__':
    print('| | CPU, s | `importtime`, s | modules | heavy ones among them |\n|---|---|---|---|---|')
    for subject in SUBJECTS: print(row(subject), flush=True)
