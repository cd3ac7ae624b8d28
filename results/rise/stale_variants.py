"""Why stale SAM kept little of the gain with the MLP, and what mends it.

Held-out images and tuning seeds of evidence.py; one JSON line a run, made once:

    python results/rise/stale_variants.py

At fixed radii and by rise: as it is without rest; with the sign of every other step's perturbation
turned; and with a step of rest where gradient and perturbation agree by more than a cosine.
"""

import evidence
import jax.numpy as jnp

import lsam_jax as lsam


def turning():
    """Stale, but the sign of every other step's perturbation is turned."""
    stale = lsam.stale(rest=1)

    def estimate(loss_of, w, at, now, memory):
        *_, uphill, _ = stale.estimate(loss_of, w, at, now, memory)
        turned = [jnp.where(now.count % 2 == 0, d, -d) for d in uphill]
        return None, None, turned, turned

    return stale._replace(estimate=estimate)


ASCENTS = {
    "stale without rest": lambda: lsam.stale(rest=1),
    "turning": turning,
    **{f"stale, rest {x}": lambda x=x: lsam.stale(rest=x) for x in (0.5, 0.6, 0.7)},
    "stale without rest, decay 0.5": lambda: lsam.stale(0.5, rest=1),
    "stale without rest, less the mean": lambda: lsam.stale(rest=1),  # of F-SAM
}
RESTS = [name for name in ASCENTS if name.startswith("stale, rest") or name.endswith("rest")]
FEW, MANY = (100, 101), (100, 101, 102, 103)
RUNS = [
    *(("mlp", a, x, FEW) for a in list(ASCENTS)[:2] for x in (0.2, 0.3, 0.4, 0.5, 0.8)),
    *(("mlp", "stale, rest 0.6", x, FEW) for x in (0.2, 0.3, 0.4, 0.5, 0.8)),
    *((net, "turning", None, FEW) for net in ("mlp", "resnet")),
    *((n, a, None, MANY) for n in ("mlp", "resnet", "vit") for a in RESTS),
    *(("mlp", a, None, FEW) for a in list(ASCENTS)[-2:]),
]

if __name__ == "__main__":
    for net, ascent, rho, seeds in RUNS:
        stored = evidence.Stored(f"{net}-stale", net)
        radius = lsam.rise(share=0.4) if rho is None else rho
        make = lsam.f_sam if ascent.endswith("the mean") else lsam.sam
        tx = lsam.with_parts(make(radius), ascent=ASCENTS[ascent]())
        for seed in seeds:
            name = f"{ascent}, {'share 0.4' if rho is None else f'rho {rho}'}"
            stored.run(name, tx, None, seed, held_out=True)
