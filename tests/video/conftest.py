"""What tests of videos share."""
import pytest

from jupyter_browser import CHROMIUM, one_playwright


@pytest.fixture(scope='module')
def browser():
    with one_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()
