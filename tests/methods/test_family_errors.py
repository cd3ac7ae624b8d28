"""Bad arguments of the family: an error that names the argument, its value and the way out."""

import jax.numpy as jnp
import pytest
from contract import METHODS, NAMES
from refusals import INF, NAN, ids, parameters, refused

import lsam_jax as lsam


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rho", [-0.1, NAN, INF, "0.1", None])
def test_the_radius_of_every_method(name, rho):
    with refused(TypeError if isinstance(rho, str | None) else ValueError, "rho", str(rho)):
        METHODS[name](rho)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "layerwise_sam"])
@pytest.mark.parametrize("option", ["when", "norm_decay", "rhoo"])
def test_an_option_that_a_method_does_not_have(name, option):
    with refused(TypeError, name, option, "rho", "axis_name"):
        getattr(lsam, name)(**{option: 0.5})


ARGUMENTS = [
    (lsam.asam, {"eta": -1.0}, ValueError, ["eta", "-1"]),
    (lsam.asam, {"scaled": "kernel"}, ValueError, ["scaled", "'kernel'", "kernels", "weights"]),
    (lsam.asam, {"selection": "high"}, ValueError, ["k", "None"]),
    (lsam.asam, {"selection": "best"}, ValueError, ["selection", "'best'"]),
    (lsam.gsam, {"alpha": NAN}, ValueError, ["alpha", "nan"]),
    (lsam.look_sam, {"every": 0}, ValueError, ["every", "0", "at least 1"]),
    (lsam.look_sam, {"every": 2.5}, ValueError, ["every", "2.5", "whole"]),
    (lsam.ae_sam, {"threshold": NAN}, ValueError, ["threshold", "nan"]),
    (lsam.ae_sam, {"decay": 1.0}, ValueError, ["decay", "1", "below 1"]),
    (lsam.momentum_sam, {"momentum": 1.0}, ValueError, ["momentum", "1", "below 1"]),
    (lsam.f_sam, {"sigma": NAN}, ValueError, ["sigma", "nan"]),
    (lsam.f_sam, {"decay": 1.0}, ValueError, ["decay", "1", "below 1"]),
    (lsam.fisher_sam, {"eta": -1.0}, ValueError, ["eta", "-1", "at least 0"]),
    (lsam.vasso, {"theta": 0.0}, ValueError, ["theta", "0", "above 0"]),
    (lsam.wsam, {"gamma": 1.0}, ValueError, ["gamma", "1", "below 1"]),
    (lsam.zsharp, {"share": 1.5}, ValueError, ["share", "1.5", "at most 1"]),
    (lsam.esam, {"beta": 0.0}, ValueError, ["beta", "0", "above 0"]),
    (lsam.esam, {"beta": 1.5}, ValueError, ["beta", "1.5", "at most 1"]),
    (lsam.esam, {"gamma": 0.0}, ValueError, ["gamma", "0", "above 0"]),
    (lsam.esam, {"gamma": lambda count: 0.5}, TypeError, ["gamma", "plain number"]),
    (lsam.sparse_sam, {"sparsity": 1.0}, ValueError, ["sparsity", "1", "below 1"]),
    (lsam.sparse_sam, {"sparsity": lambda count: 0.5}, TypeError, ["sparsity", "plain number"]),
    (lsam.sparse_sam, {"every": 0}, ValueError, ["every", "0"]),
    (lsam.sparse_sam, {"drop": 1.5}, ValueError, ["drop", "1.5"]),
    (lsam.adazo_sam, {"probes": 0}, ValueError, ["probes", "0"]),
    (lsam.adazo_sam, {"probes": lambda count: 1}, TypeError, ["probes", "plain number"]),
    (lsam.gam, {"step": 0.0}, ValueError, ["step", "0", "above 0"]),
    (lsam.adazo_sam, {"step": 0.0}, ValueError, ["step", "0", "above 0"]),
    (lsam.sl_sam, {"active": 0.0}, ValueError, ["active", "0"]),
    (lsam.sl_sam, {"rate": -1.0}, ValueError, ["rate", "-1"]),
    (lsam.sl_sam, {"budget": -1.0}, ValueError, ["fraction", "-1"]),
    (lsam.esam, {"weights": 2}, TypeError, ["weights=2", "True or False"]),
    (lsam.sl_sam, {"scale_free": "maybe"}, TypeError, ["scale_free='maybe'", "True or False"]),
    (lsam.sparse_sam, {"dynamic": None}, TypeError, ["dynamic=None", "True or False"]),
    (lsam.independent, {"probability": 1.2}, ValueError, ["probability", "1.2"]),
]


@pytest.mark.parametrize(
    ("make", "argument", "kind", "words"), ARGUMENTS, ids=ids([a[1:] for a in ARGUMENTS])
)
def test_arguments(make, argument, kind, words):
    with refused(kind, *words):
        make(**argument)


RADII = [
    (lsam.per_layer({"body/w": 0.1}), ["rho", "body/b", "default"]),
    (lsam.per_layer({"tail/w": 0.1}, default=0.1), ["rho", "'tail/w'", "body/w"]),
    (lsam.per_layer({"body/w": -0.1}, default=0.1), ["rho", "body/w", "-0.1"]),
    (lsam.per_layer(lambda name: NAN), ["rho", "nan"]),
]


@pytest.mark.parametrize(("rho", "words"), RADII, ids=ids(RADII))
def test_radii_that_do_not_fit_the_parameters(rho, words):
    with refused(ValueError, *words):
        lsam.sam(rho).init(parameters())


def test_radii_are_a_mapping_or_a_function():
    with refused(TypeError, "radii", "float"):
        lsam.per_layer(0.1)


@pytest.mark.parametrize("method", [lsam.look_sam, lsam.momentum_sam, lsam.sl_sam, lsam.ae_sam])
def test_a_state_of_another_method(method):
    other = lsam.sam().init(parameters())
    with refused(ValueError, "state", "tx.init"):
        method().update(parameters(), other, parameters(), value_fn=lambda p: jnp.zeros(()))
