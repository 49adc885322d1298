"""Profiles, the file and the environment: who has the last word, and how a mistake is told."""

from functools import reduce
from pathlib import Path

import msgspec
import pytest

from edge_agent import config as package
from edge_agent.config import PROFILES, Config, load, parse
from edge_agent.config.load import PREFIX
from edge_agent.errors import ConfigError

FOLDER = Path(package.__file__).parent / "profiles"
KINDS = [name for name in PROFILES if name != "any"]


def written(table, prefix=""):
    """The dotted keys of a table."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from written(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def value_of(config, key):
    """A key's value."""
    return reduce(getattr, key.split("."), config)


def test_there_is_a_file_for_each_profile_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*")) == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_profile_is_a_valid_configuration_that_makes_a_difference(name):
    text = (FOLDER / f"{name}.toml").read_text()
    keys = dict(written(msgspec.toml.decode(text)))
    chosen = parse(f'profile = "{name}"')
    assert chosen == msgspec.structs.replace(parse(text), profile=name)
    same = [key for key in keys if value_of(chosen, key) == value_of(Config(), key)]
    assert all(k == "training.threads" for k in same), same  # said aloud for one core alone


@pytest.mark.parametrize("name", KINDS)
def test_a_profile_says_what_depends_on_the_kind_of_device(name):
    keys = dict(written(msgspec.toml.decode((FOLDER / f"{name}.toml").read_text())))
    for key in (
        "eligibility.max_temperature",
        "eligibility.min_memory",
        "eligibility.min_disk",
        "training.threads",
        "training.max_memory",
    ):
        assert key in keys


def test_a_small_device_is_asked_for_less_than_a_large_one():
    small, board, laptop = (
        parse(f'profile = "{name}"')
        for name in ("raspberry-pi-zero-2-w", "raspberry-pi-4", "laptop")
    )
    limits = [c.training.max_memory for c in (small, board, laptop)]
    assert limits == sorted(limits)
    free = [c.eligibility.min_memory for c in (small, board, laptop)]
    assert free == sorted(free)
    assert small.training.threads <= board.training.threads


def test_the_file_overrides_the_profile_key_by_key():
    config = parse('profile = "laptop"\n[eligibility]\nmax_busy = 5\n')
    assert config.eligibility.max_busy == 5
    assert config.eligibility.min_battery == 80  # the laptop's
    assert config.eligibility.sessions == "idle"  # the default


def test_the_environment_overrides_the_file():
    config = parse(
        'poll = "10s"\n[eligibility]\nmax_busy = 5\n',
        environment={
            "EDGE_AGENT_ELIGIBILITY_MAX_BUSY": "7",
            "EDGE_AGENT_DATA_RETAIN_SIZE": "64 MB",
            "EDGE_AGENT_DATA_TASKS": "{digits = '/digits'}",
            "EDGE_AGENT_SYSTEM_BUS": "",
            "HOME": "/home/pi",
        },
    )
    assert config.eligibility.max_busy == 7
    assert config.data.retain.size == 64_000_000
    assert config.data.tasks == {"digits": "/digits"}
    assert config.system_bus == ""
    assert config.poll == 10.0


def test_a_profile_of_the_environment_is_under_the_file():
    environment = {"EDGE_AGENT_PROFILE": "laptop"}
    config = parse('profile = "raspberry-pi-4"\ntraining.threads = 3', environment=environment)
    assert config.profile == "laptop"
    assert config.eligibility.min_battery == 80
    assert config.training.threads == 3


@pytest.mark.parametrize("quoted", ["10s", '"10s"', "'10s'"])
def test_text_of_the_environment_needs_no_quotes(quoted):
    assert parse("", environment={"EDGE_AGENT_POLL": quoted}).poll == 10.0


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("EDGE_AGENT_POL", "10s", ["unknown variable", "config explain"]),
        ("EDGE_AGENT_POLL", "30", ["poll", "30", "'30s'"]),
        ("EDGE_AGENT_POLL", "1ms", ["poll", "50 ms"]),
        ("EDGE_AGENT_POLL", "soon\nnow", ["poll", "soon"]),
        ("EDGE_AGENT_TRAINING_THREADS", "many", ["training.threads", "many"]),
        ("EDGE_AGENT_TRAINING_THREADS", "0", ["training.threads", "0", "1"]),
        ("EDGE_AGENT_ELIGIBILITY_POWER", "solar", ["eligibility.power", "solar", "mains"]),
        ("EDGE_AGENT_DATA_FOLDER", "data", ["data.folder", "data", "absolute path"]),
        ("EDGE_AGENT_DATA_RETAIN_SIZE", "1 kB", ["data.retain.size", "100 kB"]),
        ("EDGE_AGENT_PROFILE", "fridge", ["profile", "fridge", "laptop"]),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable_and_what_is_allowed(
    variable, value, words
):
    with pytest.raises(ConfigError) as caught:
        parse("poll = '10s'", "agent.toml", {variable: value})
    message = str(caught.value)
    assert variable in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_mistake_in_the_file_is_not_hidden_by_the_environment():
    with pytest.raises(ConfigError, match=r"training\.threads"):
        parse("training.threads = 0", environment={f"{PREFIX}TRAINING_THREADS": "2"})


def test_an_unknown_profile_is_told_with_its_line():
    with pytest.raises(ConfigError) as caught:
        parse("poll = '10s'\nprofile = 'fridge'\n", "agent.toml")
    assert str(caught.value).startswith("agent.toml: line 2: ")
    assert "fridge" in str(caught.value)
    assert "raspberry-pi-4" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("poll = '10s'\npolls = 1", 2),
        ("[data]\n\nfoldr = '/x'", 3),
        ("[eligibility]\npower = 'mains'\nmax_busy = 130", 3),
        ("poll = '10s'\n[training]\ngrace = -1", 3),
        ("# a comment\ntraining.threads = 0", 2),
        ("poll = '10s'\n[data.retain]\nage = 'soon'", 3),
        ("profile = 'laptop'\n[eligibility]\nmin_battery = 101", 3),
        ("poll = '10s'\npoll = 3 3", 2),
    ],
)
def test_a_mistake_in_the_file_names_its_line(text, line):
    with pytest.raises(ConfigError, match=rf"line {line}\b"):
        parse(text, "agent.toml")


def test_the_environment_is_over_a_file_that_is_not_there(tmp_path):
    environment = {"EDGE_AGENT_POLL": "10s"}
    assert load(tmp_path / "agent.toml", optional=True, environment=environment).poll == 10.0
