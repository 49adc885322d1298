"""The configuration: safe defaults, and one clear error for each mistake."""

from pathlib import Path

import pytest

from edge_agent.config import Config, load, parse
from edge_agent.errors import ConfigError


def test_an_empty_file_means_the_defaults():
    config = parse("")
    assert config == Config()
    assert config.eligibility.power == "mains"
    assert config.eligibility.network == "unmetered"
    assert config.eligibility.unknown_network == "metered"
    assert config.timing.check_in > 0


def test_a_full_file_is_read():
    config = parse(
        """
        poll = "10s"
        schedule = "nightly"
        [data]
        folder = "/data"
        hold_out = 0.1
        tasks = { digits = "/digits" }
        columns = { x = ["a", "b"] }
        [eligibility]
        power = "any"
        min_battery = 20
        max_busy = 50
        network = "any"
        unknown_network = "unmetered"
        [training]
        threads = 2
        grace = "500ms"
        time_limit = "1h"
        """
    )
    assert config.poll == 10.0
    assert config.timing.windows[0].start == "01:00"
    assert config.training.grace == 0.5
    assert config.data.columns == {"x": ("a", "b")}
    assert config.data.folder_of("digits") == Path("/digits")
    assert config.data.folder_of("other") == Path("/data")


def test_a_task_without_a_folder_has_none():
    assert parse("").data.folder_of("digits") is None


def test_a_schedule_may_be_written_out():
    config = parse('[schedule]\nround_deadline = "1m"\ncheck_in = "500ms"\n')
    assert config.timing.check_in == 0.5


BAD = {
    "unknown key": ("polls = 1", ["polls", "poll", "eligibility"]),
    "unknown table": ("[power]", ["power", "eligibility"]),
    "unknown key in a table": ("[data]\nfoldr = '/x'", ["data.foldr", "folder"]),
    "power": ("[eligibility]\npower = 'solar'", ["eligibility.power", "solar", "mains", "any"]),
    "network": ("[eligibility]\nnetwork = 'free'", ["eligibility.network", "free", "unmetered"]),
    "unknown network": (
        "[eligibility]\nunknown_network = 'any'",
        ["eligibility.unknown_network", "any", "metered"],
    ),
    "a percentage": ("[eligibility]\nmax_busy = 130", ["eligibility.max_busy", "130", "100"]),
    "a negative percentage": ("[eligibility]\nmin_battery = -1", ["min_battery", "-1", "0"]),
    "hold-out": ("[data]\nhold_out = 1.0", ["data.hold_out", "1.0", "0.9"]),
    "threads": ("[training]\nthreads = 0", ["training.threads", "0", "1"]),
    "a number for a duration": ("poll = 30", ["poll", "30", "'30s'"]),
    "a bad duration": ("poll = 'soon'", ["poll", "soon", "'30s'"]),
    "no time at all": ("poll = '0s'", ["poll", "0", "50 ms"]),
    "a grace that outlasts the service": ("[training]\ngrace = '20s'", ["training.grace", "15 s"]),
    "too little memory": (
        "[training]\nmax_memory = '1 MB'",
        ["training.max_memory", "1 MB", "40 MB"],
    ),
    "too little room for examples": (
        "[data.retain]\nsize = '1 kB'",
        ["data.retain.size", "100 kB"],
    ),
    "a bad grace": ("[training]\ngrace = -1", ["training.grace", "-1", "'30s'"]),
    "no time to train": ("[training]\ntime_limit = '1ms'", ["training.time_limit", "50 ms"]),
    "an unknown schedule": ("schedule = 'weekly'", ["schedule", "weekly", "nightly", "hourly"]),
    "a bad window": (
        "[schedule]\nround_deadline='1m'\ncheck_in='1m'\nwindows=[{start='25:00', end='05:00'}]",
        ["schedule.windows", "25:00", "01:30"],
    ),
    "a folder that is no string": ("[data]\nfolder = 3", ["data.folder", "3", "str"]),
    "a task's bad name": ("[data.tasks]\n'My Task' = '/x'", ["data.tasks", "My Task", "lower"]),
    "columns that are no list": ("[data.columns]\nx = 'a'", ["data.columns", "'a'", "array"]),
    "not TOML": ("poll = ", ["TOML"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_error_that_names_key_value_and_what_is_allowed(name):
    text, words = BAD[name]
    with pytest.raises(ConfigError) as caught:
        parse(text, "agent.toml")
    message = str(caught.value)
    assert message.startswith("agent.toml: ")
    assert "\n" not in message.strip()
    for word in words:
        assert word in message


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"agent\.toml: cannot be read"):
        load(tmp_path / "agent.toml")


def test_an_optional_file_that_is_not_there_means_the_defaults(tmp_path):
    assert load(tmp_path / "agent.toml", optional=True) == Config()


def test_a_file_that_cannot_be_read_is_an_error_though_optional(tmp_path):
    (tmp_path / "agent.toml").write_bytes(b"poll = '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "agent.toml", optional=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, optional=True)
