"""What is asked of a model of any framework: exact, compiled once, at its floor of operations."""

import jax
import pytest
import textbook
from counting import flops
from training import RHO, assert_trains_like_textbook

import lsam_jax as lsam


def assert_exact(case, k=2, alpha=0.8, layers="kernel"):
    """Layer-wise SAM is the textbook's, over the steps of a `Case`, in one compilation."""
    assert set(lsam.layer_names(case.params, layers)) == set(case.order)
    traced = []

    def loss(params, batch):
        traced.append(batch)
        return case.loss(params, batch)

    assert_trains_like_textbook(
        case._replace(loss=loss),
        lsam.layerwise_sam(k, RHO, alpha, layers=layers),
        lambda norms, reported: textbook.choose(norms, k, case.order),
        alpha,
    )
    assert len(traced) == 2  # by us, and by the textbook


def assert_at_floor(loss, suffix, params, selected, hidden, batch):
    """A step costs a plain gradient, and one of `suffix(params, hidden, batch)` by the selected.

    `loss(params, batch)` and the suffix are real; `hidden` is the shape of what goes into it.
    """
    tx = lsam.layerwise_sam(None, RHO, selection=selected)
    plain = flops(jax.value_and_grad(loss), params, batch)

    def by_selected(arrays, hidden, batch):
        return suffix(replaced(params, arrays), hidden, batch)

    arrays = {name: x for name, x in textbook.named(params).items() if name in selected}
    floor = plain + flops(jax.value_and_grad(by_selected), arrays, hidden, batch)
    cost = flops(lsam.value_and_grad(loss, tx), params, tx.init(params), batch)
    assert cost == pytest.approx(floor, rel=0.02)
    assert floor < 1.8 * plain
    return cost / plain


def replaced(params, arrays):
    """`params` with the arrays of these names."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return treedef.unflatten([arrays.get(n, x) for n, (_, x) in zip(names, leaves)])
