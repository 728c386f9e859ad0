"""How fast is the labeling tool in a browser? `python tests/labeling_speed.py FOLDER [--labels 100] [--picture FILE]` prints JSON.

FOLDER is a dataset folder; its labels are moved out of the way first. The keyboard path is event, phase, Enter for each frame."""
import argparse, json, shutil, statistics, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from jupyter_browser import NotebookPage, chromium_page, jupyter_lab, write_notebook

# Times of keys and of pictures, as the page sees them.
WATCH = """() => {
  window.keyTimes = []; window.pictureTimes = [];
  document.addEventListener('keydown', () => keyTimes.push(performance.now()), true);
  document.addEventListener('load', event => { if (event.target.matches?.('.vqa-picture img')) pictureTimes.push(performance.now()); }, true);
}"""


def quantiles(values):
    values = sorted(values)
    return dict(median=round(statistics.median(values)), p95=round(values[int(0.95 * len(values))]), max=round(values[-1]))


def measure(folder, labels, picture):
    folder = Path(folder).resolve()
    shutil.rmtree(folder/'labels', ignore_errors=True)
    (folder/'labels.jsonl').unlink(missing_ok=True)
    write_notebook(folder/'speed.ipynb', 'from paligemma_vqa.labeling.widget import LabelingTool\nfrom paligemma_vqa.schema import EventSchema', "tool = LabelingTool('.', EventSchema(), 'speed')\ntool.keyboard.stall_ms = 20_000   # a slow key is to be measured, not left out\ntool")
    with jupyter_lab(folder) as address, chromium_page() as (page, errors):
        notebook = NotebookPage(page, address, 'speed.ipynb')
        page.evaluate(WATCH)
        page.locator('.jp-CodeCell .cm-content').first.click()
        page.keyboard.press('Shift+Enter')
        page.locator('.jp-CodeCell .jp-InputPrompt', has_text='[1]').wait_for(timeout=60_000)   # the import is not the tool's time
        page.evaluate('() => { keyTimes.length = 0; }')
        page.keyboard.press('Shift+Enter')
        page.wait_for_function('() => pictureTimes.length > 0', timeout=60_000)
        first_ms = page.evaluate('() => pictureTimes[0] - keyTimes[keyTimes.length - 1]')
        page.locator(".vqa-labeling[data-ready='1']").wait_for()
        page.locator('.vqa-picture').click()
        time.sleep(1)

        def label(i, pause_s):
            page.keyboard.press('abcde'[i % 5]); time.sleep(pause_s)
            page.keyboard.press(str(i % 4 + 1)); time.sleep(pause_s)
            count = page.evaluate('() => pictureTimes.length')
            page.keyboard.press('Enter')
            page.wait_for_function(f'() => pictureTimes.length > {count}', timeout=10_000, polling=5)
            return page.evaluate('() => pictureTimes[pictureTimes.length - 1] - keyTimes[keyTimes.length - 1]')

        latencies = [label(i, 0.1) for i in range(labels // 2)]      # an expert who knows what to press
        start = time.perf_counter()
        for i in range(labels): label(i, 0)                          # as fast as the pictures come
        seconds = time.perf_counter() - start
        if picture: page.locator('.vqa-labeling').screenshot(path=picture)
        header = page.locator('.vqa-counts').inner_text()
        assert not errors, errors
    written = sum(1 for _ in open(folder/'labels/speed.jsonl'))
    return dict(first_picture_ms=round(first_ms), next_picture_ms=quantiles(latencies), labels_per_minute=round(60 * labels / seconds), events_on_disk=written, header=header)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('--labels', type=int, default=100)
    parser.add_argument('--picture')
    options = parser.parse_args()
    print(json.dumps(measure(options.folder, options.labels, options.picture)))
