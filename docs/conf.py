"How Sphinx turns the chapters and the modules into pages; `docs/build.py` lays out what it reads."
import inspect
from functools import cached_property, partial

from fastcore.docments import docments

import paligemma_vqa

project, author, release = 'paligemma_vqa', 'The paligemma_vqa authors', paligemma_vqa.__version__
copyright = '2026, the paligemma_vqa authors'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode']
exclude_patterns = ['**/.ipynb_checkpoints', '**/runs']

nb_execution_mode = 'off'                  # the outputs that are kept in the notebooks are shown
nb_mime_priority_overrides = [('html', 'application/vnd.jupyter.widget-view+json', None)]
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
suppress_warnings = ['myst.header']        # chapters may skip a level

default_role = 'literal'                   # docstrings write `name` as Markdown does
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_format = 'short'
maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = 'hide'

html_theme = 'furo'
html_title = 'paligemma_vqa'
html_static_path = ['static']
html_css_files = ['chapters.css']
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = 'friendly', 'monokai'


def parameter_comments(thing) -> dict[str, str]:
    "What the comments behind the parameters of a function, or behind the fields of a dataclass and its bases, say"
    texts = {}
    for source in reversed(inspect.getmro(thing)) if inspect.isclass(thing) else [thing]:
        if source.__module__.startswith('paligemma_vqa'): texts |= {name: text for name, text in docments(source).items() if text}
    *_, last = inspect.signature(thing).parameters.values() or [None]
    if last and last.kind is last.VAR_KEYWORD and 'return' in texts and last.name not in texts:   # fastcore takes `**options,  # …` for the return value
        texts[last.name] = texts.pop('return')
    return texts


def add_comments(app, what, name, thing, options, lines):
    "Docstring, then one line a parameter, with the comment in the source"
    if what not in ('class', 'function', 'method'): return
    try: parameters, texts = inspect.signature(thing).parameters, parameter_comments(thing)
    except (TypeError, ValueError, OSError): return      # a type alias, or generated
    if not texts: return
    lines += ['', *(f':param {parameter}: {texts.get(parameter, "")}' for parameter in parameters if parameter not in ('self', 'cls'))]
    if 'return' in texts: lines.append(f":returns: {texts['return']}")


def is_hidden(app, what, name, thing, skip, options) -> bool | None:
    "Fields of a dataclass are listed as parameters already"
    if what == 'class' and not callable(thing) and not isinstance(thing, (property, cached_property, classmethod, staticmethod)): return True


def shorten_sidebar(app, pagename, templatename, context, doctree):
    "Rooms, and the chapters of the one that is open: hundreds of lines on each of hundreds of pages are slow to build and to read"
    if 'toctree' in context: context['toctree'] = partial(_collapsed, context['toctree'])

def _collapsed(toctree, **options): return toctree(**options | dict(collapse=True))


def setup(app):
    app.connect('html-page-context', shorten_sidebar, priority=100)     # before the theme asks for it
    app.connect('autodoc-process-docstring', add_comments)
    app.connect('autodoc-skip-member', is_hidden)
