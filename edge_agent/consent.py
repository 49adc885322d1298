"""The owner's consent: what was agreed, by whom, for which coordinator; and the text that says it.

Nothing is trained and nothing is sent before it was given; also not the enrolment, which sends the
device's name and facts. What is agreed to is one version of the summary for one coordinator: a new
text or another coordinator needs a new consent. The configuration is the owner's own, so what it
says of when and how may change without one.

consent.json    in the state folder; it is gone as soon as consent is withdrawn
"""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_agent.config import Config
from edge_agent.errors import StateError
from schedules.schedule import Schedule
from schedules.window import DAYS, Window
from wire.files import sync_folder, write_durably

CONSENT_FILE = "consent.json"

SUMMARY_VERSION = 2
"""Raised with every change of what the summary says."""

JOINING = {
    "name": "the name you give it, its host name if you give none",
    "labels": "the labels you give it",
    "facts": "what it is, as listed below",
}
"""The fields of `wire.messages.Enroll` in plain words; so on for the others."""

FACTS = {
    "agent": "version of this software",
    "machine": "kind of processor",
    "system": "operating system and its version",
    "python": "version of Python",
    "runtime": "version of ONNX Runtime",
    "cores": "number of processor cores",
    "memory_bytes": "size of the memory",
}

CHECK_IN = {
    "protocols": "the versions of the protocol that it speaks",
    "facts": "what it is, as listed below",
    "tasks": "the tasks that your configuration names",
    "without": "the tasks for which it has no usable examples",
    "evaluations": "how well models did on examples that are kept out of training: the task, the "
    "model's version, the metrics (such as the accuracy) and the number of those examples; where a "
    "task has the device make a personal version of the model, that one's metrics, too",
}

UPDATE = {
    "examples": "how many examples were used",
    "skipped": "how many could not be used",
    "steps": "how many steps the training took",
    "loss": "the mean loss of the training",
    "seconds": "how long it took",
    "assignment": "which work this was",
    "plan": "how the model was trained",
    "base": "which model the training began with",
    "codec": "how the change is packed",
}

GIVING_UP = {
    "reason": "why a training failed or was stopped, in a word or two",
    "detail": "for a fault of the software, what it was",
}


class Consent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was agreed: the summary's version for the coordinator at `url`. `by` is a user's name,
    `at` ISO 8601."""

    version: int
    url: str
    by: str
    at: str


class Answer(NamedTuple):
    """Whether the owner agrees. `code` is stable: `ok`, `no_consent` or `consent_outdated`;
    `observed` is for people."""

    ok: bool
    code: str
    observed: str


def given(folder: Path, url: str) -> Answer:
    """Whether the owner has agreed to what happens with the coordinator at `url`. Blocking."""
    try:
        if (folder / CONSENT_FILE).exists() and not (folder / CONSENT_FILE).is_file():
            return Answer(False, "no_consent", f"{CONSENT_FILE} is no file: give it again")
        consent = msgspec.json.decode((folder / CONSENT_FILE).read_bytes(), type=Consent)
    except FileNotFoundError:
        return Answer(False, "no_consent", "the owner has not agreed: run 'edge-agent consent'")
    except (OSError, msgspec.DecodeError) as error:
        return Answer(False, "no_consent", f"the consent cannot be read ({error}): give it again")
    if consent.url != _address(url):
        return Answer(False, "consent_outdated", f"it was given for {consent.url}, not {url}")
    if consent.version != SUMMARY_VERSION:
        text = f"it was given to version {consent.version} of the summary, now {SUMMARY_VERSION}"
        return Answer(False, "consent_outdated", text)
    return Answer(True, "ok", f"{consent.by} agreed on {consent.at}")


def give(folder: Path, url: str, by: str, now: datetime) -> Consent:
    """The owner agrees to the summary, as it is now, for the coordinator at `url`; durable on
    return. Blocking. Raises `StateError`."""
    at = now.isoformat(timespec="seconds")
    consent = Consent(version=SUMMARY_VERSION, url=_address(url), by=by, at=at)
    try:
        write_durably(folder / CONSENT_FILE, msgspec.json.encode(consent))
    except OSError as error:
        raise StateError(f"the consent cannot be kept: {error}") from None
    return consent


def kept(folder: Path) -> bytes | None:
    """The consent as it is on the disk, to be put back by `put_back`. Blocking."""
    try:
        return (folder / CONSENT_FILE).read_bytes()
    except OSError:
        return None


def put_back(folder: Path, before: bytes | None) -> None:
    """The consent as it was `before` another one was given in vain. Blocking. Raises
    `StateError`."""
    if before is None:
        return
    try:
        write_durably(folder / CONSENT_FILE, before)
    except OSError as error:
        raise StateError(f"the consent cannot be kept: {error}") from None


def withdraw(folder: Path) -> bool:
    """The owner agrees no more; durable on return. Whether there was a consent. Blocking. Raises
    `StateError`."""
    try:
        (folder / CONSENT_FILE).unlink()
        sync_folder(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateError(f"the consent cannot be withdrawn: {error}") from None
    return True


def summary(url: str, config: Config) -> str:
    """What the owner agrees to, in plain words, for a terminal of 80 columns. Pure."""
    url = _address(url)
    encrypted = url.startswith("https://")
    sections = {
        "What stays on this device": [
            "Your examples. Training happens here: no example leaves this device, nor a part of "
            "one, nor the name of a file.",
        ],
        f"What goes to {url}, and nowhere else": [
            "When this device joins:",
            *_items(JOINING),
            "At each check-in:",
            *_items(CHECK_IN),
            "After a training:",
            "- the change of the model's numbers that your examples brought about",
            *_items(UPDATE),
            "Or, instead of these:",
            *_items(GIVING_UP),
            "What it is means:",
            *_items(FACTS),
            "As with any server that you visit, its operator sees this device's IP address and "
            "the time of each connection. "
            + (
                "Connections are encrypted."
                if encrypted
                else "CONNECTIONS ARE NOT ENCRYPTED: plain HTTP."
            ),
        ],
        "When": [_when(config)],
        "What it may tell of you": [
            "The change of a model is no example, but it was computed from yours: who has it, "
            "some skill and some time may find out something about them, in principle. The "
            "operator can look at the change of each single device. Agree only if you trust "
            "them.",
        ],
        "How to stop, and how to leave": [
            "'edge-agent consent --withdraw': from then on nothing is trained and nothing sent.",
            "'edge-agent leave': the coordinator forgets this device, its name, labels, facts and "
            "metrics, and drops each of its changes that is not in a published model yet. What "
            "the agent keeps on this device is deleted, even when the coordinator cannot be "
            "reached; you are then told what to tell its operator. Your examples stay as they are.",
            "What is in a published model by then cannot be taken out of it. Nor does this "
            "software reach what the operator has copied: logs and backups.",
        ],
    }
    lines = [f"What it means to take part (version {SUMMARY_VERSION} of this summary)"]
    for title, paragraphs in sections.items():
        lines += ["", title, *(line for p in paragraphs for line in _wrapped(p))]
    return "\n".join(lines)


def _items(words: dict[str, str]) -> list[str]:
    return [f"- {text}" for text in words.values()]


def _when(config: Config) -> str:
    allowed = config.eligibility
    conditions = [
        _schedule(config.timing),
        "only on mains power" if allowed.power == "mains" else "on mains power or on battery",
        f"only while other programs use {allowed.max_busy:g} % of the processor at most",
        "on any network, also a metered one"
        if allowed.network == "any"
        else "only on a network that is not metered",
    ]
    return (
        f"This device asks for work and trains {'; '.join(conditions)}. A change that was trained "
        "is sent as soon as the network may be used. You set this in the agent's configuration."
    )


def _schedule(schedule: Schedule) -> str:
    if not schedule.windows:
        return "at any time of the day"
    return "from " + " and from ".join(_window(w) for w in schedule.windows)


def _window(window: Window) -> str:
    days = "" if window.days == DAYS else f" on {', '.join(window.days)}"
    zone = "" if window.zone == "local" else f" ({window.zone})"
    return f"{window.start} to {window.end}{zone}{days}"


def _wrapped(paragraph: str) -> list[str]:
    """Lines of at most 78 columns; a list's items hang."""
    # An idle agent asks for consent, too, and has no use for what wraps a text.
    import textwrap

    item = paragraph.startswith("- ")
    first, rest = ("    ", "      ") if item else ("  ", "  ")
    return textwrap.wrap(paragraph, 78, initial_indent=first, subsequent_indent=rest)


def _address(url: str) -> str:
    return url.rstrip("/")
