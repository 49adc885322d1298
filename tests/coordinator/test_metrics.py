"""Metrics: what an operator watches."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.client import AdminClient
from coordinator.server import max_connections
from edge_agent.errors import Rejected
from fleet.clients import Device, Lie, LyingDevice
from tests.coordinator.plans import constant, plan
from tests.coordinator.processes import served_process, stop
from tests.coordinator.raw import ask
from tests.coordinator.serving import Serving


async def test_what_arrives_is_counted_by_outcome(served: Serving):
    await plan(goal=9, deadline="1h").create(served.admin)
    good, quitter = await served.devices(2)
    taken = await good.take()
    data = good.write(taken, constant(1.0))
    for _ in range(2):
        await good.deliver(taken, data)
    await quitter.give_up(await quitter.take())
    liar = await served.device(LyingDevice, lie=Lie.NOT_FINITE)
    with pytest.raises(Rejected):
        await liar.serve(constant(1.0))
    for outcome, number in (("accepted", 1), ("duplicate", 1), ("given_up", 1), ("refused", 1)):
        sample = f'lamplighter_updates_total{{outcome="{outcome}",task="digits"}}'
        assert await served.count(sample) == number, outcome
    assert await served.count('lamplighter_refusals_total{code="not_finite",task="digits"}') == 1
    assert await served.count("lamplighter_upload_bytes_total") >= len(data)


async def test_the_open_round_is_in_gauges(served: Serving):
    await plan(goal=4, deadline="1h", over_selection=1.5).create(served.admin)
    first, second = await served.devices(2)
    await first.serve(constant(1.0))
    await second.take()
    served.clock.leap(600)

    async def gauge(name: str, labels: str = "") -> float:
        return await served.count(f'lamplighter_{name}{{{labels}task="digits"}}')

    assert await gauge("round_number") == 1
    assert await gauge("round_places") == 6
    assert await gauge("round_goal") == 4
    assert await gauge("round_arrived") == 1
    assert await gauge("round_working") == 1
    assert await gauge("round_deadline_seconds") == pytest.approx(3000, abs=5)
    phase = 'lamplighter_round_phase{phase="%s",task="digits"}'
    assert await served.count(phase % "selecting") == 1
    assert await served.count(phase % "reporting") == 0
    assert await served.count("lamplighter_connections") == 0
    await served.admin.stop("digits")
    assert await served.count(phase % "selecting") == 0
    assert await gauge("round_working") == 0
    assert await served.count('lamplighter_rounds_total{reason="stopped",task="digits"}') == 1
    ended = 'lamplighter_round_seconds_count{reason="stopped",task="digits"}'
    assert await served.count(ended) == 1


async def test_the_store_is_timed(served: Serving):
    await plan().create(served.admin)
    assert await served.count('lamplighter_store_seconds_count{kind="write"}') > 0
    assert await served.count('lamplighter_store_seconds_count{kind="read"}') > 0
    assert await served.count('lamplighter_store_waiting{kind="write"}') == 0
    assert await served.count("process_resident_memory_bytes") > 0


async def test_all_of_it_is_what_prometheus_reads_and_behind_the_token(served: Serving):
    await plan().create(served.admin)
    families = list(text_string_to_metric_families(await served.admin.metrics()))
    assert len(families) > 20
    assert all(family.documentation for family in families)
    assert (await ask(served, "GET", "/metrics")).status == 401


def test_the_number_of_connections_follows_the_open_files(monkeypatch: pytest.MonkeyPatch):
    for soft, most in ((1024, 480), (100_000, 49_968), (1 << 20, 50_000), (-1, 49_968), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert max_connections() == most


# Several processes


def test_workers_answer_for_each_other(tmp_path: Path):
    state = tmp_path / "state"

    async def count(url: str, sample: str) -> float:
        # A connection of its own each time: any of the workers may answer.
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            for line in (await answer.text()).splitlines():
                if line.startswith(f"{sample} "):
                    return float(line.split()[-1])
        return 0.0

    async def until(what: Callable[[float], bool], url: str, sample: str) -> None:
        async with asyncio.timeout(30):
            while not what(await count(url, sample)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def serve(url: str, own: AdminClient) -> None:
        async with own as admin:
            await plan(goal=8, deadline="1h").create(admin)
            token = await admin.token(8, 60.0)
            devices = [await Device.enroll(admin.url, token) for _ in range(8)]
            await asyncio.sleep(1.0)  # each worker has heard of the task by then
            await asyncio.gather(*(device.serve(constant(1.0)) for device in devices))
        accepted = 'lamplighter_updates_total{outcome="accepted",task="digits"}'
        for _ in range(10):
            assert await count(url, accepted) == 8
        await until(lambda n: n == 1, url, 'lamplighter_model_version{task="digits"}')
        # A worker that is killed leaves its counts, and none of its gauges.
        folder = state / "metrics"
        gauges = await asyncio.to_thread(lambda: list(folder.glob("gauge_livesum_*.db")))
        pids = {int(path.stem.split("_")[-1]) for path in gauges}
        assert len(pids) == 2
        victim = pids.pop()
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(30):
            gone = folder / f"gauge_livesum_{victim}.db"
            while await asyncio.to_thread(gone.exists):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await until(lambda n: n == 8, url, accepted)

    with served_process(state, "--workers", 2, "--metrics-open") as (process, endpoint):
        asyncio.run(serve(endpoint.url, AdminClient.of_state(state)))
        stop(process, signal.SIGTERM)
