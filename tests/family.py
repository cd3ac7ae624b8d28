"""One row for each method of the family: how it is made, and its textbook.

A method whose textbook has its name, and its defaults, needs no row here.
"""

from functools import partial
from typing import Any, NamedTuple

import family_textbook as textbook
from contract import NAMES

import lsam_jax as lsam

RHO = 0.1


class Row(NamedTuple):
    """A method.

    `want(problem, order)` gives its textbook, `order` being the order in which ties are settled.
    """

    make: Any  # -> a transformation
    want: Any
    grad_fn: bool = True  # whether a gradient function is enough
    clean: bool = True  # whether there is a clean pass


def rho_of(name):
    return 0.05 if name.startswith("deep") else 0.2


def is_weight(name):
    return not name.endswith("/b")


def is_kernel(name):
    return name.endswith("/w")


LATE = ("join/w", "join/b", "deep/1/w")


def by_its_defaults(name):
    return Row(partial(getattr(lsam, name), RHO), lambda p, o: getattr(textbook, name)(p, RHO))


TABLE = {
    **{name: by_its_defaults(name) for name in NAMES if hasattr(textbook, name)},
    "generalized_sam": Row(
        lambda: lsam.generalized_sam(RHO, 0.7), lambda p, o: textbook.generalized(p, RHO, 0.7)
    ),
    "asam": Row(lambda: lsam.asam(RHO), lambda p, o: textbook.asam(p, RHO, 0.01, is_weight)),
    "asam_kernels": Row(
        lambda: lsam.asam(RHO, 0.1, scaled=is_kernel),
        lambda p, o: textbook.asam(p, RHO, 0.1, is_kernel),
    ),
    "sam_on": Row(
        lambda: lsam.sam_on(RHO, layers=lambda path: path if path in LATE else None),
        lambda p, o: textbook.sam_on(p, RHO, LATE),
    ),
    "gsam": Row(lambda: lsam.gsam(RHO, 0.4), lambda p, o: textbook.gsam(p, RHO, 0.4)),
    "per_layer": Row(
        lambda: lsam.sam(lsam.per_layer(rho_of)), lambda p, o: textbook.radii(p, rho_of)
    ),
    "look_sam": Row(
        lambda: lsam.look_sam(RHO, every=3, alpha=0.7),
        lambda p, o: textbook.look(p, RHO, 3, 0.7),
    ),
    "ae_sam": Row(
        lambda: lsam.ae_sam(RHO, threshold=0.2), lambda p, o: textbook.adaptive(p, RHO, 0.2, 0.9)
    ),
    "momentum_sam": Row(
        lambda: lsam.momentum_sam(RHO, 0.8),
        lambda p, o: textbook.momentum(p, RHO, 0.8),
        clean=False,
    ),
    "adazo_sam": Row(
        lambda: lsam.adazo_sam(RHO, 3, seed=7),
        lambda p, o: textbook.differences(p, RHO, 3, 1e-3, 7),
        grad_fn=False,
    ),
    "esam": Row(
        lambda: lsam.esam(RHO, 0.6, gamma=1), lambda p, o: textbook.part(p, RHO, 0.6, p.arrays)
    ),
    "esam_weights": Row(
        lambda: lsam.esam(RHO, 0.6, gamma=1, weights=True, seed=8),
        lambda p, o: textbook.part_of_weights(p, RHO, 0.6, 8),
    ),
    "sparse_sam": Row(
        lambda: lsam.sparse_sam(RHO, 0.7, seed=3), lambda p, o: textbook.sparse(p, RHO)
    ),
    "sparse_sam_dynamic": Row(
        lambda: lsam.sparse_sam(RHO, 0.7, dynamic=True, every=4, drop=0.3),
        lambda p, o: textbook.sparse(p, RHO),
    ),
    "gam": Row(
        lambda: lsam.gam(RHO, 0.5, step=0.02),
        lambda p, o: textbook.gam(p, RHO, 0.5, 0.02),
        grad_fn=False,
    ),
    "f_sam": Row(lambda: lsam.f_sam(RHO, 0.8, 0.7), lambda p, o: textbook.f_sam(p, RHO, 0.8, 0.7)),
    "vasso": Row(lambda: lsam.vasso(RHO, 0.3), lambda p, o: textbook.vasso(p, RHO, 0.3)),
    "wsam": Row(lambda: lsam.wsam(RHO, 0.8), lambda p, o: textbook.wsam(p, RHO, 0.8)),
    "zsharp": Row(lambda: lsam.zsharp(RHO, 0.3), lambda p, o: textbook.zsharp(p, RHO, 0.3)),
    "stale": Row(
        lambda: lsam.with_parts(lsam.sam(RHO), ascent=lsam.stale(rest=1)),
        lambda p, o: textbook.momentum(p, -RHO, 0.0),
        clean=False,
    ),
    "late": Row(
        lambda: lsam.with_parts(lsam.sam(RHO), when=lsam.between(5, 9)),
        lambda p, o: textbook.window(p, RHO, 5, 9),
    ),
    "sl_sam": Row(
        lambda: lsam.sl_sam(RHO, 0.5, rate=0.1), lambda p, o: textbook.drawn(p, RHO, p.arrays)
    ),
    "sl_sam_kernels": Row(
        lambda: lsam.sl_sam(RHO, 0.4, layers="kernel"),
        lambda p, o: textbook.drawn(p, RHO, {n: p.layers[n] for n in p.order}),
    ),
    "layerwise_asam": Row(
        lambda: lsam.asam(RHO, k=2, selection="high", layers="kernel"),
        lambda p, o: textbook.layerwise_asam(p, RHO, 0.01, 2, o),
    ),
    "layerwise_look_sam": Row(
        lambda: lsam.look_sam(RHO, 3, 0.7, k=2, selection="high", layers="kernel"),
        lambda p, o: textbook.layerwise_look(p, RHO, 3, 0.7, 2, o),
    ),
}
