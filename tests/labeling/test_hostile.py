"""A data set from elsewhere, whose names are HTML, formulas, paths, links and turned directions: nothing in it runs, wherever it is shown."""
import csv, io, json, shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jupyter_browser import NotebookPage, chromium_page, jupyter_lab
from paligemma_vqa.command.report import evaluate
from paligemma_vqa.dataset.formats.tables import write_metadata, write_table
from paligemma_vqa.dataset.formats.text import parse_table
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.files import read_table, to_table
from paligemma_vqa.labeling.card import write_card
from paligemma_vqa.labeling.session import LabelingSession
from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.labeling import view
from paligemma_vqa.labeling.ahead import show_picture
from paligemma_vqa.schema import EventSchema
from terminal import run

CASE = EventSchema.load(Path(__file__).with_name('cases')/'hostile_schema.json')
EVENTS = (*CASE.events,
          "<svg/onload=document.title='PWNED'>", "</script><script>document.title='PWNED'</script>", "' onmouseover=document.title='PWNED' x='",
          "&ltimg src=x onerror=document.title='PWNED'&gt", "![x](x' onerror=document.title='PWNED')", '| a | --> ``` <b>', '-1+2', '@SUM(A1)', '＝1+1')
PHASES = CASE.phases
RUNS = "<img src=x onerror=document.title='ran'>"


def tempting(name) -> bool: return any(mark in name for mark in '<>=@')


@pytest.fixture(scope='module')
def schema(): return EventSchema(events=EVENTS, phases=PHASES)


@pytest.fixture(scope='module')
def received(tmp_path_factory, schema):
    "What somebody sent: names, notes, journals, lines and files that are traps"
    folder = tmp_path_factory.mktemp('received')/"<img src=x onerror=document.title='folder'>"
    (folder/'images').mkdir(parents=True)
    for video in range(3):
        for frame in range(6):
            Image.new('RGB', (64, 36), (40 * frame, 60 * video, 0)).save(folder/f"images/v{video}{RUNS if video == 1 else ''}_{frame:06d}.png")
    (folder/'images/page.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/ran) (w) file\nshowpage\n')
    schema.save(folder/'schema.json')
    for name in ('anna', 'bert'):
        with LabelStore(folder, name) as store:
            for i, item in enumerate(store.items):
                store.annotate(item, {EVENTS[(i + len(name)) % len(EVENTS)]: PHASES[0], EVENTS[i % 3]: PHASES[i % 2]}, hold='item')
                store.set_note(item, RUNS)
            store.set_status(store.items, 'done')
    lines = [record.to_json() for record in read_records(folder)]
    for i, extra in enumerate((dict(annotator=RUNS), dict(source=RUNS), dict(note='=1+1'))):
        lines[i] = json.dumps(json.loads(lines[i]) | extra, ensure_ascii=False)
    (folder/'labels.jsonl').write_text('\n'.join(lines) + '\n')
    (folder/'frames.jsonl').write_text(json.dumps(dict(image='images/page.jpg', frame_index=RUNS + '0', video=RUNS)) + '\n')
    return folder


@pytest.fixture(scope='module')
def page():
    with chromium_page() as (page, errors): yield page


def shows_quietly(page, html, tmp_path, at_least=()):
    "Nothing of the page ran, nothing in it can, and what was to be read can be read"
    path = tmp_path/'page.html'
    path.write_text(html, encoding='utf-8')
    page.goto(path.as_uri())
    page.wait_for_timeout(200)   # a picture that is not there needs a moment to say so
    for element in page.locator('[class^=vqa], td, th').all()[:40]: element.dispatch_event('mouseover')
    assert not {'PWNED', 'PWNED2', 'ran', 'folder'} & {page.title()}, page.title()
    assert page.evaluate('''() => [...document.querySelectorAll('*')].flatMap(element => [...element.attributes])
        .filter(one => one.name.startsWith('on') || /^\\s*javascript:/i.test(one.value)).map(one => one.name + '=' + one.value)''') == []
    text = page.evaluate('document.body.innerText')
    for name in at_least: assert name in text, name
    return text


@pytest.mark.browser
def test_the_tool(received, schema, page, tmp_path):
    class Guesser:
        def predict(self, paths): return [SimpleNamespace(annotation={}, probabilities=np.full((len(EVENTS), 3), 1 / 3)) for _ in paths]
    with LabelStore(received, 'carla') as store:
        session = LabelingSession(store, predictor=Guesser(), predictor_name=RUNS, pause_s=0)
        assert session.suggestions.wait()
        pictures = SimpleNamespace(ready=lambda item: show_picture(received/item))
        session.say(' '.join(store.notices) + RUNS)
        session.offers['x'] = (RUNS, [('undo', RUNS)])
        store.set_note(session.item, RUNS)
        for queue in ('time', 'review'):
            session.use_queue(queue)
            parts = [part(session) for part in (view.header_html, view.progress_html, view.rows_html, view.toolbar_html, view.differing_html, view.message_html,
                                                view.timeline_html, view.answer_html, view.question_html, view.agreement_html)]
            text = shows_quietly(page, '<meta charset=utf-8>' + view.static(*parts, view.filmstrip_html(session, pictures), view.legend_html(schema)), tmp_path, [RUNS])
            assert all(event in text for event in EVENTS if event.isprintable()), text
        session.close()


@pytest.mark.browser
def test_the_report(received, schema, page, tmp_path):
    folder = shutil.copytree(received, tmp_path/'copy')
    Image.new('RGB', (64, 36)).save(folder/'images/page.jpg')
    class Guesser:
        info, answer_format = None, schema.answer_format
        def predict_each(self, images, batch_size=8, **_):
            random = np.random.default_rng(0)
            for _ in images:
                probabilities = random.dirichlet(np.ones(3), len(EVENTS))
                yield SimpleNamespace(probabilities=probabilities, annotation=schema.from_codes(tuple(map(int, probabilities.argmax(-1)))), unexplained=0.0)
        def predict(self, images, **_): return list(self.predict_each(images))
    Guesser.schema = schema
    (folder/'splits.json').write_text(json.dumps(dict(version=1, by='file name', seed=0, ratios=dict(train=.34, validation=.33, test=.33), fingerprint='x',
                                                      splits=dict(train=['v0'], validation=[], test=[f'v1{RUNS}', 'v2']))))
    evaluate(Guesser(), folder, baselines=False, output_dir=tmp_path/'report')
    shows_quietly(page, (tmp_path/'report/report.html').read_text(), tmp_path, [PHASES[0]])


@pytest.mark.browser
@pytest.mark.parametrize('kind', ['data set', 'model'])
def test_the_cards(received, schema, page, tmp_path, kind):
    "Rendered by a parser that lets HTML and every address through: what is safe there is safe on the hub and in JupyterLab"
    from markdown_it import MarkdownIt
    if kind == 'data set': text = write_card(received, name=RUNS).read_text()
    else:
        from paligemma_vqa.model.adapter import AdapterInfo
        from paligemma_vqa.training.card import model_card_text
        info = AdapterInfo(schema, RUNS, RUNS, 448, True, question=f'answer en {RUNS}', dataset_fingerprint='`' + RUNS, metrics={RUNS: 1.0}, told=[RUNS, '[x](javascript:y)'])
        text = model_card_text(info, RUNS, examples={RUNS: 3})
    body = text.split('---\n')[-1] if kind == 'data set' else text
    markdown = MarkdownIt('commonmark', dict(html=True)).enable('table')
    markdown.validateLink = lambda address: True
    shown = shows_quietly(page, '<meta charset=utf-8>' + markdown.render(body), tmp_path, [RUNS, *(event for event in EVENTS if event.isprintable() and '`' not in event)])
    assert page.locator('a, img, script, svg').count() == 0 and '‮' not in shown
    rows = [line for line in body.splitlines() if line.startswith('| ') and 'SUM' in line]
    assert len({line.count(' | ') for line in rows}) <= 2, 'a name opened a column'


@pytest.mark.browser
@pytest.mark.slow
def test_jupyterlab_with_the_command_s_notebook_and_the_card(received, tmp_path):
    folder = shutil.copytree(received, tmp_path/'sent')
    assert run('label', folder, '--annotator', 'carla', '--no-browser').returncode == 0
    write_card(folder, name=RUNS)
    with jupyter_lab(folder) as address, chromium_page() as (page, errors):
        notebook = NotebookPage(page, address, 'label.ipynb')
        notebook.run_all()
        page.locator(".vqa-labeling[data-ready='1']").last.wait_for()
        page.locator('.vqa-picture').last.click()
        for key in ('ArrowRight', 'ArrowRight', 'PageDown', 'a', '1', 'Enter', 'n'): page.keyboard.press(key)
        page.locator('.vqa-counts').last.wait_for()
        page.wait_for_timeout(1500)
        assert 'carla' in page.locator('.vqa-annotator').last.inner_text()
        assert not {'PWNED', 'PWNED2', 'ran', 'folder'} & {page.title()}
        assert page.locator('.vqa-labeling img[src=x], .vqa-labeling script, .vqa-labeling svg[onload]').count() == 0
        page.goto(f'{address}/lab/tree/README.md?reset', wait_until='domcontentloaded')
        page.locator('.jp-FileEditor .cm-content').click(button='right')
        page.get_by_text('Show Markdown Preview').click()
        page.locator('.jp-RenderedMarkdown h1').first.wait_for()
        page.wait_for_timeout(1000)
        assert not {'PWNED', 'PWNED2', 'ran', 'folder'} & {page.title()}
        assert page.locator('.jp-RenderedMarkdown img, .jp-RenderedMarkdown a[href^=javascript]').count() == 0


def test_the_review_page_escapes_as_well(schema, tmp_path):
    from paligemma_vqa.video.review import write_review
    from paligemma_vqa.video.smoothing import Segment
    page = write_review(tmp_path/'review.html', None, [Segment(event, PHASES[0], i, i + 1, .9) for i, event in enumerate(EVENTS)], schema, title=RUNS).read_text()
    assert '<img src=x' not in page and "<script>document.title" not in page and '<svg/onload' not in page


@pytest.mark.parametrize('name', [*(event for event in EVENTS if tempting(event)), '\t=1', "'=1", "''@x", '+cmd', '-', "it's", '-1.5', '1e5', ' =x', '\n=1'])
def test_no_cell_is_a_formula_and_each_comes_back(name):
    written = to_table(['name'], [dict(name=name)])
    [_, [cell]] = csv.reader(io.StringIO(written, newline=''))
    assert cell[:1] not in tuple('=@\t\r\n＝＋－＠') and (cell[:1] not in '+-' or float(cell) is not None)
    assert [row['name'] for _, row in read_table(written)] == [name]


def test_labels_go_through_a_spreadsheet_and_back(received, schema):
    records = read_records(received)
    for write in (write_table, write_metadata):
        text = write(records, schema, received).decode('utf-8-sig')
        for row in csv.reader(io.StringIO(text, newline='')):
            for cell in row: assert not cell.startswith(('=', '@', '+', '\t')) and (not cell.startswith('-') or float(cell) < 0), cell
    table = parse_table(write_table(records, schema, received).decode('utf-8-sig'), Path('labels.csv'))
    assert set(EVENTS) <= set(table.columns)
    notes = [row.get('note') for _, row in table.rows]
    assert '=1+1' in notes and RUNS in notes


def test_the_folder_of_an_import_is_the_same_again(received, schema, tmp_path):
    shutil.copytree(received/'images', tmp_path/'again/images')
    schema.save(tmp_path/'again/schema.json')
    assert run('export', received, tmp_path/'labels.csv').returncode == 0
    done = run('import', tmp_path/'labels.csv', tmp_path/'again')
    assert done.returncode == 0, done.stderr
    def said(folder): return {record.image: schema.parse(record.answer) for record in read_records(folder)}
    assert said(tmp_path/'again') == said(received)


def test_what_only_looks_like_a_picture_starts_no_program(received):
    shown = show_picture(received/'images/page.jpg')
    assert 'page.jpg cannot be read' in shown.error and str(received) not in shown.error




def test_a_table_of_videos_is_one_too(tmp_path):
    from paligemma_vqa.video.folder import Outcome, _write_tables
    _write_tables(tmp_path, [Outcome('=cmd().mp4', '=cmd()', 'failed', error='-x')])
    [_, [video, folder, *rest]] = csv.reader(io.StringIO((tmp_path/'videos.csv').read_text(), newline=''))
    assert (video, folder) == ("'=cmd().mp4", "'=cmd()")
