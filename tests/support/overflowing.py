"""A plugin for tests: a model whose gradient overflows for some rows."""

from __future__ import annotations

from psgdsim.models.base import Model, register_model


@register_model("overflowing_of_a_test")
def overflowing() -> Model:
    """Have a gradient that is infinite in one of two leaves for the rows whose ids are divisible by 16."""

    def init(_key, _shape, _num_outputs):
        import jax.numpy as jnp

        return {"calm": jnp.ones(3), "wild": jnp.ones(2)}

    def apply(params, ids):
        import jax.numpy as jnp

        factor = jnp.where(ids % 16 == 0, jnp.inf, 1.0)
        return jnp.sum(params["calm"] ** 2) + factor * jnp.sum(params["wild"])

    return Model(init, apply, loss=lambda outputs, _targets: outputs)
