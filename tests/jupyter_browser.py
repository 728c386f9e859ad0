"""A real JupyterLab and a headless Chromium, for tests and benchmarks of what happens in the browser."""
import json, os, re, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

CHROMIUM = next((path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None)
ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
             '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage']
REPOSITORY = Path(__file__).resolve().parent.parent


def wait_for(condition, timeout_s=20, what='a condition'):
    "Poll until `condition()` is true, and return it"
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition(): return found
        time.sleep(0.03)
    raise AssertionError(f'{what} did not come true in {timeout_s} s')


def write_notebook(path, *cells):
    "A notebook of code cells that imports this package from the working tree"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata['kernelspec'] = dict(name='python3', display_name='Python 3', language='python')
    nbformat.write(notebook, path)


@contextmanager
def jupyter_lab(folder, theme='JupyterLab Light'):
    "A JupyterLab that serves `folder`, with settings, kernels and runtime files of its own; yields its address"
    private = Path(tempfile.mkdtemp())
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'IPYTHONDIR': str(private/'ipython'), 'OMP_NUM_THREADS': '1',
                   'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
                   **{f'JUPYTER_{name}': str(private/name.lower()) for name in ('CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR')},
                   'JUPYTERLAB_SETTINGS_DIR': str(private/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(private/'workspaces')}
    # A news toast would cover the page.
    settings = private/'settings/@jupyterlab/apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True)))
    (settings/'themes.jupyterlab-settings').write_text(json.dumps({'theme': theme, 'adaptive-theme': False}))
    with open(private/'log', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={port}', '--allow-root',
                                   '--IdentityProvider.token=', '--ServerApp.password=', '--ServerApp.disable_check_xsrf=True', f'--ServerApp.root_dir={folder}'],
                                  cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f'http://127.0.0.1:{port}'

    def answers():
        if server.poll() is not None: raise AssertionError(f'JupyterLab did not start:\n{(private/"log").read_text()}')
        try: return urllib.request.urlopen(f'{address}/api', timeout=1)
        except OSError: return None
    try:
        wait_for(answers, 60, 'the JupyterLab server')
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try: server.wait(20)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)
        shutil.rmtree(private, ignore_errors=True)


_playwrights = []

@contextmanager
def one_playwright():
    "Playwright, which can be started once in a process: what asks for it inside gets the one there is"
    from playwright.sync_api import sync_playwright
    if _playwrights: yield _playwrights[0]; return
    with sync_playwright() as playwright:
        _playwrights.append(playwright)
        try: yield playwright
        finally: _playwrights.clear()


@contextmanager
def chromium_page(width=1500, height=1000, **options):
    "A page of a headless Chromium; yields it and the list of the errors in its console"
    with one_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        page, errors = browser.new_page(viewport=dict(width=width, height=height), **options), []
        page.set_default_timeout(90_000)   # a busy machine is slow, not wrong
        page.on('console', lambda message: errors.append(message.text) if message.type == 'error' else None)
        page.on('pageerror', lambda error: errors.append(str(error)))
        try: yield page, errors
        finally: browser.close()


class NotebookPage:
    "A notebook open in JupyterLab: run it, save it, restart its kernel"
    def __init__(self, page, address, name):
        self.page = page
        page.goto(f'{address}/lab/tree/{name}?reset', wait_until='domcontentloaded')
        self.wait_idle()

    def wait_idle(self):
        # Run All before the kernel is there clears the outputs and runs nothing.
        self.page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=60_000)
        self.page.wait_for_function("() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", timeout=60_000)
        self.page.locator('#jp-main-statusbar').get_by_text(re.compile(r'\| Idle')).wait_for(timeout=60_000)

    def menu(self, *path):
        for name in path: self.page.get_by_role('menuitem', name=name, exact=True).click()

    def run_all(self):
        "Run every cell; `AssertionError` with the output when one fails"
        ran = """() => { const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent);
                         return prompts.length && prompts.every(text => /\\[\\d+\\]/.test(text)); }"""
        waits = "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(e => e.textContent.includes('*'))"
        for _ in range(4):  # an early click clears the outputs and runs nothing; a second one while cells run would run them twice
            self.menu('Run', 'Run All Cells')
            begun = time.monotonic()
            while time.monotonic() < begun + 15 or time.monotonic() < begun + 120 and self.page.evaluate(waits):
                if self.page.evaluate(ran): return
                errors = self.page.locator('.jp-OutputArea-output', has_text='Traceback (most recent call last)').all_inner_texts()
                assert not errors, errors[0]
                time.sleep(0.1)
        raise AssertionError('the cells did not run')

    def restart_kernel(self):
        self.page.get_by_role('menuitem', name='Kernel', exact=True).click()
        self.page.get_by_role('menuitem', name=re.compile('^Restart Kernel…')).click()
        self.page.locator('.jp-Dialog .jp-mod-accept').click()
        self.page.locator('.jp-Dialog').wait_for(state='detached')
        self.wait_idle()

    def save(self, path):
        "Save, and wait until the file holds the outputs"
        self.page.keyboard.press('Control+s')
        wait_for(lambda: '"execution_count": 1' in Path(path).read_text(), 10, 'saving the notebook')

    def cells(self) -> int: return self.page.locator('.jp-Notebook .jp-Cell').count()
