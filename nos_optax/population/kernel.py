"""Whether the kernel that applies rules to many children at once can be used on a device."""

import warnings
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar import (
    ProgramState,
    apply_program,
    encode,
    init_program_state,
    program_streams,
)


@lru_cache
def kernel_works(device: jax.Device) -> bool:
    """Return whether the kernel of `fused_update` runs on a device, and does as the interpreter.

    Pallas and the compilers below it change from version to version: where the kernel fails, or its
    numbers differ, there is a warning, and rules are interpreted by selects.
    """
    if device.platform != "gpu":
        return False
    rows = ["adam", "exp(sign(g) * sign(m)) * g", "drop(g, 0.3) + noise", "cd * clip(v, 1e-5)"]
    programs = jnp.asarray(np.stack([encode(row, 3).array for row in rows]))
    size, steps, key = 1000, jnp.int32(10), jax.random.key(0)
    g, w = jax.random.normal(key, (2, len(rows), size))
    rates = jnp.full(len(rows), 0.1)

    def interpreted(program, streams, g, w, rate):
        update, _ = apply_program(program, streams, init_program_state(w), g, w, steps, key)
        return w - rate * update

    with jax.default_device(device):
        streams = jax.vmap(program_streams)(programs)
        expected = jax.jit(jax.vmap(interpreted))(programs, streams, g, w, rates)
        zeros = jnp.zeros_like(w)
        state = ProgramState(jnp.zeros([], jnp.int32), zeros, zeros, zeros)
        keys = jnp.broadcast_to(key, (len(rows),))
        try:
            from nos_optax.grammar.fused import fused_update

            found, _ = jax.jit(fused_update)(programs, streams, state, g, w, rates, steps, keys)
            reason = f"they differ by {float(jnp.max(jnp.abs(found - expected))):g}"
            works = bool(jnp.allclose(found, expected, rtol=1e-4, atol=1e-5))
        except Exception as error:  # whatever a compiler raises
            works, reason = False, f"{type(error).__name__}: {str(error).splitlines()[0]:.300}"
    if not works:
        warnings.warn(f"rules are interpreted without the kernel, slowly: {reason}", stacklevel=2)
    return works
