"""The README's Python runs as it stands, and so does its example of a task."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from nos_optax.grammar import encode
from nos_optax.search import TaskConfig
from nos_optax.search.engine import make_trainer

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))])
def test_blocks_run(block):
    exec(compile(block, str(README), "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


def test_the_example_of_a_task_learns(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    config = TaskConfig(dataset="breast_cancer:task", minibatch_size=20, epochs=2)
    trainer = make_trainer(config, 2, jax.devices()[:1])
    evaluation = trainer.evaluate(np.stack([encode("adam", 2).array]))
    assert evaluation.reward[0] > trainer.threshold
