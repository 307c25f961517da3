import contextlib
import os
import re


# Before anything imports the libraries that read them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
from browser import start_browser
from helpers import make_rows, tiny_model, tiny_tokenizer


hypothesis.settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture
def rows():
    return make_rows(6)


@pytest.fixture
def refused(capsys):
    """A context in which a command must end with code 2 and a last line on stderr that a pattern is found in."""

    @contextlib.contextmanager
    def refused(pattern):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            yield
        assert stop.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"trl-segment \w+: error: ", last)
        assert re.search(pattern, last), last

    return refused


@pytest.fixture(scope="session")
def browser():
    browser = start_browser()
    yield browser
    browser.quit()
