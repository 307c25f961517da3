import os


# Before anything imports the libraries that read them
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
from browser import start_browser
from helpers import make_rows, tiny_model, tiny_tokenizer


hypothesis.settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture
def rows():
    return make_rows(6)


@pytest.fixture(scope="session")
def browser():
    browser = start_browser()
    yield browser
    browser.quit()
