"""The lowest versions that pyproject.toml allows are tried, not believed."""
import os, re, subprocess, sys, tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIGHT = ('transformers', 'peft', 'accelerate')      # torch itself is gigabytes: `make lowest` tries that


def lowest(name):
    "The lowest version of a dependency that pyproject.toml allows"
    needs = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['dependencies']
    [version] = [match[1] for need in needs if (match := re.match(rf'{name}>=([\d.]+)', need))]
    return version


@pytest.mark.slow
def test_the_proof_passes_with_the_lowest_versions(tmp_path):
    packages, asked = tmp_path / 'packages', [f'{name}=={lowest(name)}.*' for name in LIGHT]
    # the hub's client of its time; one in place is too new for this transformers
    install = subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', packages, *asked,
                              'huggingface_hub<2'], capture_output=True, text=True, env=os.environ | dict(PIP_CONSTRAINT=''))
    if install.returncode: pytest.skip(f'the packages cannot be had: {install.stderr.strip().splitlines()[-1:]}')
    done = subprocess.run([sys.executable, '-m', 'paligemma_vqa.proof', '--device', 'cpu', '--tiny', '--no-compile', '--output', tmp_path / 'proof'],
                          capture_output=True, text=True, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=f'{packages}:{ROOT}', OMP_NUM_THREADS='1'))
    page = (tmp_path / 'proof' / 'gpu.md').read_text()
    assert done.returncode == 0, page + done.stderr[-3000:]
    assert f'transformers {lowest("transformers")}' in page
