"""Every example on a page or in a docstring runs as it stands, or says why it can't."""

from __future__ import annotations

import pytest

from tests import tidy
from tests.docs.examples import Page, all_pages, markdown_page, run, source_pages

PAGES = all_pages()


@pytest.mark.parametrize("page", [page for page in PAGES if page.program], ids=lambda page: page.name)
def test_example_runs(page, tmp_path):
    """The runnable blocks of a page are one program that ends well."""
    done = run(page, tmp_path)

    assert done.returncode == 0, f"{page.name}\n{done.stdout}"


def test_every_block_says_whether_it_runs():
    """Each block of Python is marked `python run`, or `python no-run:` with a reason."""
    assert [] == [f"{page.name}:{line}" for page in PAGES for line in page.silent]


def test_blocks_that_do_not_run_are_counted():
    """The number of blocks of each page that are not run is the one written down in tests/tidy.toml."""
    written = {name: entry["count"] for name, entry in tidy.allowed()["unrun_examples"].items()}

    assert written == {page.name: len(page.unrun) for page in PAGES if page.unrun}


MARKDOWN = """
```python run
first = 1
```
Text, and a list:
  ````python run
  if first:
      assert __file__.endswith("x_md.py")
  ````
```python no-run: needs a key
boom()
```
```python
neither()
```
```console
$ python
```
"""


def test_blocks_are_found():
    """A page gives its runnable blocks at their own line numbers, and names the others."""
    page = markdown_page("x.md", MARKDOWN)

    assert page == Page(
        name="x.md",
        program='\n\nfirst = 1\n\n\n\nif first:\n    assert __file__.endswith("x_md.py")\n',
        unrun=("needs a key",),
        silent=(13,),
    )


def test_docstrings_are_pages():
    """Each docstring is a page of its own, with the line numbers of its module."""
    source = '"""Nothing."""\nclass A:\n    """\n    One.\n\n    ```python run\n    x = 1\n    ```\n    """\n'

    assert [Page(name="a.py:A", program="\n" * 6 + "x = 1\n")] == list(source_pages("a.py", source))


def test_blocks_of_a_page_share_names(tmp_path):
    """The blocks of a page run as one program, in order."""
    done = run(markdown_page("x.md", MARKDOWN), tmp_path)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("code", ["1 / 0", "import warnings; warnings.warn('old')", "raise SystemExit(3)"])
def test_a_broken_example_is_caught(code, tmp_path):
    """An exception, a warning or an exit status of a program is a failure, shown with the line of the page."""
    done = run(markdown_page("x.md", f"# Title\n```python run\n{code}\n```\n"), tmp_path)

    assert done.returncode != 0
    assert "SystemExit" in code or 'x_md.py", line 3' in done.stdout
