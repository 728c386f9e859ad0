"""`--lora_path OWNER/NAME`: what was pushed to the hub, from the cache or fetched, or one clear line"""
import pytest
from huggingface_hub import constants
from PIL import Image

from paligemma_vqa.model.info import INFO_FILE, AdapterInfo, adapter_folder
from paligemma_vqa.schema import EventSchema, VQAError
from terminal import fails


def test_from_the_cache(tmp_path, monkeypatch):
    kept = tmp_path / 'models--somebody--adapter'
    for folder in (kept / 'refs', kept / 'snapshots/abc'): folder.mkdir(parents=True)
    (kept / 'refs/main').write_text('abc')
    AdapterInfo(EventSchema(), 'tiny', 'f', 96, True).save(kept / 'snapshots/abc')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    assert (adapter_folder('somebody/adapter') / INFO_FILE).exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'somebody/adapter').mkdir(parents=True)
    assert not adapter_folder('somebody/adapter').is_absolute()   # a folder that is here comes first


def test_offline_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    Image.new('RGB', (96, 96)).save(tmp_path / 'a.png')
    fails('infer', '--image_path', tmp_path / 'a.png', '--lora_path', 'somebody/adapter', says=['somebody/adapter: there is no such folder, and the hub gives nothing', 'hf auth login'])
    with pytest.raises(VQAError, match='there is no such folder'): adapter_folder(tmp_path / 'none')
