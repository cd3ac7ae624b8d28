"""What steps of a run cost: of states from its middle, relative to SGD's."""

import dataclasses

import numpy as np
import pytest
from tiny import STEPS, TINY

from lsam_jax.experiments.bench.training_steps import StepTimes
from lsam_jax.experiments.frontier import costs
from lsam_jax.experiments.frontier.contenders import SAM, SGD, Contender
from lsam_jax.experiments.frontier.ledger import Key, Ledger
from lsam_jax.experiments.frontier.regimes import Regime

CONTENDERS = (
    Contender(SGD, "SGD", "sgd", {}),
    Contender("broken", "a run without end", "sam", {"perturb_every": 2}, (7.0,)),
    Contender(SAM, "SAM", "sam", {}, (0.1, 0.2)),
    Contender("window", "SAM at the end", "sam", {"perturb_from": 0.5}, (0.1,)),
)


@pytest.mark.slow
def test_states_are_of_the_middle_of_a_run_by_its_final_radius(tmp_path, small, monkeypatch):
    ledger = Ledger(tmp_path / "tiny.jsonl")
    for one in CONTENDERS:
        rho = one.radii[-1] if one.radii else None
        ledger.add(Key(one.name, rho, 0, False), {"accuracy": [0.5], "config": "x"})
    taken = {}

    def timed(programs, states, rounds):
        for program, state in zip(programs, states, strict=True):
            taken[program.config.method] = int(state.step), dict(program.config.options)
        assert rounds == 2 * costs.BLOCK
        seconds = np.tile([1.0, 1.5], (rounds, 1))
        seconds[: costs.BLOCK, 1] = 2.5  # the first block
        return StepTimes(seconds, [])

    fit = costs.loop.fit

    def diverges(config, **given):
        if dict(config.options).get("rho") == 7.0:
            raise costs.loop.NonFiniteLossError("the training loss is nan")
        return fit(config, **given)

    monkeypatch.setattr(costs, "time_steps", timed)
    monkeypatch.setattr(costs.loop, "fit", diverges)
    config = dataclasses.replace(TINY, epochs=4, options={}, method="sgd")
    found = costs.measure(Regime("tiny", "tiny", config, 0, (0,), CONTENDERS), ledger, small, 2)
    assert taken == {"sgd": (STEPS, {}), "sam": (STEPS, {"rho": 0.2})}  # 2 of 4 epochs
    assert found["left_out"] == ["broken"]
    assert found["costs"][SAM] == {"median": 2.0, "least": 1.5, "most": 2.5}
    assert costs.of_steps(found, CONTENDERS) == {SGD: 1.0, SAM: 2.0, "window": 1.5}
