"""What tests of videos share."""
import pytest
from brightness import flicker

from jupyter_browser import CHROMIUM, one_playwright


@pytest.fixture(scope='module')
def browser():
    with one_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='session')
def three_hours(tmp_path_factory):
    "A drawn recording of three hours, a picture a second, in which something changes every two minutes"
    return flicker(tmp_path_factory.mktemp('three hours') / 'three hours.mp4', 3 * 3600, fps=1, hold_s=120)
