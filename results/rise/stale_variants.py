"""Why stale SAM keeps little of the gain with the MLP: fixed radii, and a perturbation that turns.

Held-out images and tuning seeds of evidence.py alone; one JSON line a run, made once:

    python results/rise/stale_variants.py
"""

import evidence
import jax.numpy as jnp

import lsam_jax as lsam


def turning():
    """Stale, but the sign of every other step's perturbation is turned."""
    stale = lsam.stale()

    def estimate(loss_of, w, at, now, memory):
        *_, uphill, _ = stale.estimate(loss_of, w, at, now, memory)
        turned = [jnp.where(now.count % 2 == 0, d, -d) for d in uphill]
        return None, None, turned, turned

    return stale._replace(estimate=estimate)


ASCENTS = {"stale": lsam.stale, "turning": turning}
RUNS = [
    *(("mlp", ascent, rho) for ascent in ASCENTS for rho in (0.2, 0.3, 0.4, 0.5, 0.8)),
    *((net, ascent, None) for net in ("mlp", "resnet") for ascent in ASCENTS),
]

if __name__ == "__main__":
    for net, ascent, rho in RUNS:
        stored = evidence.Stored(f"{net}-stale", evidence.REGIMES[net][:4])
        radius = lsam.rise(share=0.4) if rho is None else rho
        tx = lsam.with_parts(lsam.sam(radius), ascent=ASCENTS[ascent]())
        for seed in evidence.TUNING:
            name = f"{ascent}, {'share 0.4' if rho is None else f'rho {rho}'}"
            stored.run(name, tx, None, seed, held_out=True)
