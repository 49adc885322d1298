"""The demo's digits, whose plan ships compiled, as a task of any name: for learners."""

import msgspec

from coordinator.compiler.folder import read_plan_dir
from fleet.digits import PLAN
from tests.coordinator.plans import Plan, task_file


def digits(name: str = "digits", sections: str = "", **round_keys: object) -> Plan:
    """Blocking: the task, all of its options as given; updates are coded as float32."""
    compiled = read_plan_dir(PLAN)
    definition = task_file(name, sections, **round_keys)
    definition = definition.replace(
        "[training]", f"[training]\nepochs = {compiled.manifest.epochs}"
    )
    manifest = msgspec.structs.replace(compiled.manifest, task=name)
    return Plan(definition, manifest, list(compiled.files.values()), compiled.initial)
