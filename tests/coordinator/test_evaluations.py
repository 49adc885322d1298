"""Evaluations from the check-in to the operator: what is believed, how it is told, what is kept."""

import json
import math

import msgspec
import pytest

from coordinator import evaluations as looking
from coordinator import gauges, tidying
from coordinator.client import InputError
from coordinator.spread import Gain, gain, spread
from coordinator.store import evaluations
from coordinator.store.records import MetricRecord
from coordinator.store.sql import Steps
from fleet.clients import FACTS, Device
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import ask
from tests.coordinator.serving import Serving
from wire.messages import Evaluation

WORDS = [(0.5, 10, 0.625), (0.75, 30, 0.75), (0.875, 10, 1.0), (0.25, 50, 0.125)]


def said(accuracy: float, examples: int = 10, own: float | None = None, version: int = 0):
    return Evaluation(
        task="digits",
        version=version,
        examples=examples,
        metrics={"loss": 1 - accuracy, "accuracy": accuracy},
        personal={} if own is None else {"loss": 1 - own, "accuracy": own},
    )


async def everyone_says(served: Serving, version: int = 0) -> None:
    for accuracy, examples, own in WORDS:
        device = await served.device()
        await device.check_in(evaluations=(said(accuracy, examples, own, version),))


async def versions(served: Serving, number: int) -> None:
    """Publish so many."""
    device = await served.device()
    for each in range(number):
        newest = served.task().model.version
        await device.serve(constant(0.5 + each))
        await served.until(lambda newest=newest: served.task().model.version > newest)


# What is told


async def test_what_devices_say_is_told_as_it_is_spread(served: Serving):
    await plan().create(served.admin)
    await everyone_says(served)
    loss, accuracy = (await served.admin.task("digits")).task.metrics[0]
    expected = spread([(a, n) for a, n, _ in WORDS], "higher")
    assert (accuracy.name, accuracy.better, accuracy.worst) == ("accuracy", "higher", 0.25)
    assert (accuracy.devices, accuracy.examples) == (4, 100)
    assert accuracy.mean == pytest.approx(expected.mean)
    assert accuracy.deviation == pytest.approx(expected.deviation)
    assert accuracy.worst_decile == expected.worst_decile == 0.25
    assert (loss.better, loss.worst, loss.worst_decile) == ("lower", 0.75, 0.75)
    assert accuracy.personal == gain([(a, own) for a, _, own in WORDS], "higher")
    assert (
        loss.personal
        == accuracy.personal
        == Gain(devices=4, gaining=2, median=0.0625, mean=0.03125)
    )


async def test_a_device_without_a_personal_version_has_no_part_in_the_gain(served: Serving):
    await plan().create(served.admin)
    for own in (None, 0.75, None):
        await (await served.device()).check_in(evaluations=(said(0.5, own=own),))
    (_, accuracy) = (await served.admin.tasks())[0].metrics[0]
    assert accuracy.devices == 3
    assert accuracy.personal == Gain(devices=1, gaining=1, median=0.25, mean=0.25)


async def test_an_agent_that_knows_of_no_personal_version_is_understood(served: Serving):
    await plan().create(served.admin)
    device = await served.device()
    word = msgspec.to_builtins(said(0.5))
    assert "personal" not in word, "older coordinators would refuse it"
    body = {"protocols": [1], "facts": msgspec.to_builtins(FACTS), "evaluations": [word]}
    answer = await ask(
        served, "POST", "/v1/check-in", body=json.dumps(body).encode(), credential=device.secret
    )
    assert answer.status == 200
    assert (await served.admin.tasks())[0].metrics[0][1].personal is None


async def test_the_newest_version_that_devices_evaluated_is_in_gauges(served: Serving):
    await plan(goal=1, over_selection=10).create(served.admin)
    await everyone_says(served)

    async def gauge(name: str, metric: str = "accuracy") -> float:
        return await served.count(f'lamplighter_{name}{{metric="{metric}",task="digits"}}')

    await gauges.look_at_evaluations(served.coordinator)
    assert await gauge("evaluation_devices") == 4
    assert await gauge("evaluation_worst_decile") == 0.25
    assert await gauge("evaluation_worst_decile", "loss") == 0.75
    assert await gauge("evaluation_deviation") == pytest.approx(
        spread([(a, n) for a, n, _ in WORDS], "higher").deviation
    )
    assert await gauge("personal_devices") == 4
    assert await gauge("personal_gaining") == 2
    assert await gauge("personal_gain", "loss") == 0.0625
    await versions(served, 1)
    await (await served.device()).check_in(evaluations=(said(0.5, version=1),))
    await gauges.look_at_evaluations(served.coordinator)
    assert await served.count('lamplighter_evaluation_version{task="digits"}') == 1
    assert await gauge("personal_devices") == 0
    assert math.isnan(await gauge("personal_gain"))


# What is believed


@pytest.mark.parametrize(
    "word",
    [
        said(1.5),
        said(0.5, own=1.5),
        said(0.5, own=-0.5),
        msgspec.structs.replace(said(0.5), personal={"accuracy": 0.5}),
        msgspec.structs.replace(said(0.5), personal={"loss": 1.0, "accuracy": 0.5, "auc": 0.5}),
        msgspec.structs.replace(said(0.5), personal={"loss": 1e300, "accuracy": 0.5}),
    ],
    ids=["over 1", "own over 1", "own below 0", "metrics missing", "unknown metric", "absurd"],
)
async def test_what_cannot_be_is_passed_over(served: Serving, word: Evaluation):
    await plan().create(served.admin)
    liar, honest = await served.devices(2)
    await liar.check_in(evaluations=(word,))
    assert (await served.admin.tasks())[0].metrics == {}
    await honest.check_in(evaluations=(said(0.5),))
    assert (await served.admin.tasks())[0].metrics[0][1].devices == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"1"', "null"])
async def test_what_is_no_number_is_refused(served: Serving, number: str):
    await plan().create(served.admin)
    device = await served.device()
    word = (
        '{"task": "digits", "version": 0, "examples": 1, "metrics": {"loss": 1, "accuracy": 1},'
        f' "personal": {{"loss": {number}, "accuracy": 1}}}}'
    )
    facts = msgspec.json.encode(FACTS).decode()
    body = f'{{"protocols": [1], "facts": {facts}, "evaluations": [{word}]}}'.encode()
    answer = await ask(served, "POST", "/v1/check-in", body=body, credential=device.secret)
    assert (answer.status, answer.code) == (422, "bad_message")
    assert (await served.admin.tasks())[0].metrics == {}


async def test_one_devices_gain_weighs_no_more_than_anothers(served: Serving):
    await plan().create(served.admin)
    for number, device in enumerate(await served.devices(5)):
        word = said(0.5, own=0.25) if number else said(0.5, 1 << 53, own=1.0)
        await device.check_in(evaluations=(word, word))
    (_, accuracy) = (await served.admin.tasks())[0].metrics[0]
    assert accuracy.personal == Gain(devices=5, gaining=1, median=-0.25, mean=-0.1)


# What is kept


async def test_what_devices_said_of_old_versions_is_kept_as_figures(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluations, "KEPT", 2)
    await plan(goal=1, over_selection=10).create(served.admin)
    await everyone_says(served)
    before = await served.admin.evaluations("digits")
    await versions(served, 3)
    late = await served.device()
    await late.check_in(evaluations=(said(0.0, version=1), said(0.5, version=2)))
    store = served.coordinator.services.store
    await tidying.tidy_evaluations(store, served.coordinator.tasks)
    assert await store.read(evaluations.oldest, "digits") == 2
    after = await served.admin.evaluations("digits")
    assert [v.version for v in after.versions] == [2, 0]  # of 1 it was too late to say anything
    assert after.versions[-1] == before.versions[0]
    assert after.left == 0
    await tidying.tidy_evaluations(store, served.coordinator.tasks)
    assert await served.admin.evaluations("digits") == after
    assert (await served.admin.task("digits")).task.metrics.keys() == {0, 2}


async def test_versions_come_newest_first_and_in_pages(served: Serving):
    await plan(goal=1, over_selection=10).create(served.admin)
    await versions(served, 3)
    for version in range(4):
        device = await served.device()
        await device.check_in(evaluations=(said(version / 4, version=version),))
    every = await served.admin.evaluations("digits")
    assert [v.version for v in every.versions] == [3, 2, 1, 0]
    some = await served.admin.evaluations("digits", 2)
    assert some.versions == every.versions[:2]
    more = await served.admin.evaluations("digits", 9, some.before)
    assert more.versions == every.versions[2:]
    with pytest.raises(InputError, match="last"):
        await served.admin.evaluations("digits", 1001)
    with pytest.raises(InputError, match="no task"):
        await served.admin.evaluations("other")


# A large fleet


async def test_a_look_that_takes_long_tells_what_it_has(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    look = evaluations.look

    def slow(task: str, version: int) -> Steps[list[MetricRecord]]:
        served.clock.leap(3.0)
        return (yield from look(task, version))

    await plan(goal=1, over_selection=10).create(served.admin)
    await versions(served, 3)
    for version in range(4):
        device = await served.device()
        await device.check_in(evaluations=(said(version / 4, version=version),))
    monkeypatch.setattr(evaluations, "look", slow)
    first = await served.admin.evaluations("digits", 4)
    assert ([v.version for v in first.versions], first.before, first.left) == ([3, 2], 2, 2)
    rest = await served.admin.evaluations("digits", first.left, first.before)
    assert ([v.version for v in rest.versions], rest.left) == ([1, 0], 0)
    assert (await served.admin.task("digits")).task.metrics.keys() == {2, 3}


async def test_what_a_large_fleet_says_is_not_looked_at_again_at_once(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(looking, "_MANY", 2)
    monkeypatch.setattr(looking, "_SECONDS_EACH", 100.0)
    await plan().create(served.admin)

    async def devices() -> int:
        return (await served.admin.tasks())[0].metrics[0][0].devices

    async def another() -> None:
        device: Device = await served.device()
        await device.check_in(evaluations=(said(0.5),))

    await another()
    assert await devices() == 1
    await another()
    assert await devices() == 2, "one is looked at each time"
    await another()
    assert await devices() == 2
    served.clock.leap(201.0)
    assert await devices() == 3
