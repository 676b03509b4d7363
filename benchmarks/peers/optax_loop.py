"""Peer: a plain Optax loop, as most people would write it: one `jax.jit` train step per rule.

The child is a flax network with flax's own convolutions; each rule is a `scale_by_rule`
transformation with the learning rate as an argument, so that the seven rates of a sweep share one
compile. The same short cuts: a candidate whose sweep never left chance is not trained.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.grammar import decode, scale_by_rule
from nos_optax.population import Dataset, PopulationTrainer
from nos_optax.population.task import paper_child


class Child(nn.Module):
    """The paper's ConvNet."""

    filters: int
    classes: int

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.Conv(self.filters, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class Loop:
    """Evaluates candidates one after another, by the protocol of a `PopulationTrainer`."""

    def __init__(self, trainer: PopulationTrainer, data: Dataset):
        self.trainer = trainer
        self.net = Child(paper_child(data).filters, data.num_classes)
        standard = lambda x: jnp.asarray((x.astype(np.float32) - data.mean) / data.std)  # noqa: E731
        self.train = standard(data.train_images), jnp.asarray(data.train_labels)
        self.valid = standard(data.validation_images), jnp.asarray(data.validation_labels)
        self.variables = jax.jit(self.net.init, static_argnames="train")(
            jax.random.key(0), self.train[0][:1], train=False
        )
        self.predict = jax.jit(lambda v, x: self.net.apply(v, x, train=False).argmax(-1))

    def reward(self, program: np.ndarray, seed: int = 0) -> float:
        """Return a candidate's reward: sweep, then training with the best learning rate."""
        trainer, rule = self.trainer, decode(program)
        order = trainer.order(seed)

        @jax.jit
        def step(variables, state, total_steps, rate, images, labels):
            def loss(params):
                logits, new = self.net.apply(
                    {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
                )
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), new["batch_stats"]

            (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            tx = scale_by_rule(rule, total_steps=total_steps)
            updates, state = tx.update(grads, state, variables["params"])
            params = jax.tree.map(lambda w, u: w - rate * u, variables["params"], updates)
            return {"params": params, "batch_stats": stats}, state, value

        def train_child(rate, order):
            variables = self.variables
            state = scale_by_rule(rule, total_steps=len(order)).init(variables["params"])
            for rows in order:
                variables, state, value = step(
                    variables, state, len(order), rate, self.train[0][rows], self.train[1][rows]
                )
                if not np.isfinite(value):
                    return -1.0
            return float(jnp.mean(self.predict(variables, self.valid[0]) == self.valid[1]))

        rates = trainer.protocol.learning_rates
        scores = [train_child(rate, order[: trainer.sweep_steps]) for rate in rates]
        best = int(np.argmax(scores))
        if scores[best] <= trainer.threshold:
            return trainer.chance
        accuracy = train_child(rates[best], order[trainer.sweep_steps :])
        return accuracy if accuracy >= 0 else trainer.chance
