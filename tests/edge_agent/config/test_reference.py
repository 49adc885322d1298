"""The reference of keys and codes: complete, and what the documents hold."""

import re
from pathlib import Path

import pytest

from edge_agent.config import parse
from edge_agent.config.load import PREFIX
from edge_agent.config.reference import explain, keys, table, variables
from edge_agent.errors import ConfigError
from edge_agent.signals import reference as signals

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs/agent.md").read_text()
HERE = Path(__file__)


@pytest.mark.parametrize("key", list(keys()), ids=lambda key: key.name)
def test_every_key_has_a_default_a_meaning_and_what_it_allows(key):
    assert key.default
    assert key.allows
    assert len(key.means) > 10


@pytest.mark.parametrize("key", list(keys()), ids=lambda key: key.name)
def test_every_default_is_what_the_file_takes(key):
    if key.default != "none":
        assert parse(f"{key.name} = {key.default}") == parse("")
    with pytest.raises(ConfigError, match=key.name.replace(".", r"\.")):
        parse(f"{key.name} = [1]")


def test_every_key_has_a_variable_of_its_own():
    names = [key.name for key in keys()]
    assert list(variables(PREFIX).values()) == names
    for variable in variables(PREFIX):
        assert re.fullmatch("EDGE_AGENT_[A-Z_]+", variable)


def test_the_explanation_names_every_key_with_its_variable():
    text = explain(PREFIX)
    for variable, key in variables(PREFIX).items():
        assert f"{key} = " in text
        assert variable in text


def test_the_document_holds_the_table_of_keys():
    assert table() in DOCUMENT, "python -m edge_agent.config.reference"


def test_the_document_holds_the_table_of_codes():
    assert signals.table() in DOCUMENT, "python -m edge_agent.signals.reference"


@pytest.mark.parametrize("code", [code for _, code, _ in signals.codes()])
def test_every_code_has_a_test_that_drives_its_signal(code):
    """By text alone: in which file, and how, is for readers to judge."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != HERE]
    assert any(re.search(rf"\b{code}\b", path.read_text()) for path in files)


def test_codes_are_stable_words_each_with_one_meaning():
    found = [code for _, code, _ in signals.codes()]
    assert len(found) == len(set(found))
    for signal, code, meaning in signals.codes():
        assert re.fullmatch("[a-z_]+", code)
        assert signal
        assert meaning
