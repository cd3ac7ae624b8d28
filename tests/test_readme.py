"""What README and the pages show to paste runs as it stands there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import lsam_jax as lsam

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
OPTIONAL = ("equinox", "haiku")
LONG = ("sharpness", "experiments", "migrating")
"""Pages whose blocks take a while."""


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def framework(block):
    names = ("flax.linen", "nnx", "equinox", "haiku", "optax.microbatching", "scale")
    return next((name for name in names if name in block), "jax")


ALONE = ("frameworks", "optax", "lora", "scanned-models", "low-precision")
"""Pages each of whose blocks stands by itself."""
STANDING = [
    pytest.param(page, block, id=f"{page}-{framework(block)}")
    for page in ALONE
    for block in blocks(PAGES[page])
]


def run(block, name, namespace):
    exec(compile(block, name, "exec"), namespace)


def given():
    """What a reader has: a loss, parameters, a batch, and the imports of the first example."""

    def loss_fn(params, batch):
        logits = jnp.tanh(batch @ params["w"]) @ params["head"]["kernel"]
        return jnp.mean(logits**2), {"logits": logits}

    params = {"w": jnp.eye(8), "head": {"kernel": jnp.ones((8, 2))}}
    batch, names = jnp.ones((16, 8)), {"jax": jax, "jnp": jnp, "optax": optax, "lsam": lsam}
    names |= {"loss_fn": loss_fn, "params": params, "batch": batch, "batches": [batch]}
    return names | {"__name__": "__main__"}


def test_the_first_example_runs():
    change, chain = blocks(TEXT)
    namespace = given()
    run(change, "README.md", namespace)
    first = None
    for _ in range(5):
        namespace["params"], namespace["sam_state"], namespace["opt_state"], loss, aux = namespace[
            "train_step"
        ](*(namespace[name] for name in ("params", "sam_state", "opt_state", "batch")))
        first = loss if first is None else first
    assert loss < first and aux["logits"].shape == (16, 2)
    assert float(namespace["sam_state"].rho) > 0
    params, loss_fn = namespace["params"], namespace["loss_fn"]
    namespace["grads"], _ = jax.grad(loss_fn, has_aux=True)(params, namespace["batch"])
    namespace["state"] = optax.chain(namespace["sam"], optax.sgd(0.1, momentum=0.9)).init(params)
    for _ in range(3):  # the first step by a rise is not perturbed
        run(chain, "README.md", namespace)
    assert float(namespace["state"][0].sharpness) > 0


def test_is_of_two_pages_and_leads_to_all_others():
    assert len(TEXT.splitlines()) <= 200
    assert set(re.findall(r"\]\(docs/([\w-]+)\.md\)", TEXT)) == set(PAGES)
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT)
    assert all((ROOT / link).exists() for link in links)
    for page in PAGES.values():
        links = re.findall(r"\]\(((?!http)[^)#]+)\)", page)
        assert all((ROOT / "docs" / link).exists() for link in links)


def test_every_framework_has_a_block():
    assert [framework(block) for block in blocks(PAGES["frameworks"])] == [
        "flax.linen",
        "nnx",
        "equinox",
        "haiku",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page, block", STANDING)
def test_runs_in_a_fresh_namespace(page, block, tmp_path, monkeypatch, capsys):
    if framework(block) in OPTIONAL:
        pytest.importorskip(framework(block))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    run(block, f"{page}.md", namespace)
    shown = PAGES[page].split(block, 1)[1].removeprefix("```\n\n```\n")
    if shown[0].isdigit():  # what it prints stands below it
        assert shown.startswith(f"{capsys.readouterr().out}```")
    if "train_step" in namespace:
        assert jnp.isfinite(namespace["loss"])
        assert namespace["loss"] < jnp.log(3)  # it has learned something


@pytest.mark.slow
def test_the_quickstart_needs_nothing_else_and_ends_where_it_says():
    namespace = {"__name__": "__main__"}
    for block in blocks(PAGES["quickstart"]):
        run(block, "quickstart.md", namespace)
    ends = [float(x) for x in re.findall(r"^```\n([\d.]+)[\d. ]*\n```", PAGES["quickstart"], re.M)]
    found = [namespace[name] for name in ("plain", "flat", "cheap")]
    assert found == pytest.approx(ends, abs=2.0)  # of 597 images; releases round differently


def test_devices_run():
    place, shard_map = blocks(PAGES["devices"])
    namespace = given()
    tx = lsam.layerwise_sam(k=1, rho=0.1)

    def train_step(params, sam_state, opt_state, batch):
        found = lsam.value_and_grad(namespace["loss_fn"], tx, has_aux=True)
        (loss, aux), grads, sam_state = found(params, sam_state, batch)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
        return params, sam_state, opt_state, loss, aux

    state = tx.init(namespace["params"])
    run(place, "devices.md", namespace | locals() | {"sam_state": state, "opt_state": ()})
    namespace = {"__name__": "__main__"}
    run(shard_map, "devices.md", namespace)
    assert namespace["loss"] == 1  # ones through two identities, squared
    assert int(namespace["sam_state"].count) == 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in LONG else ())
        for page in PAGES
        if page not in (*ALONE, "devices", "quickstart", "earlier-study")  # the last has none
    ],
)
def test_pages_of_the_documentation_run(page):
    """The blocks of a page, one after the other."""
    shown = blocks(PAGES[page])
    assert shown
    namespace = given()
    for block in shown:
        run(block.replace("k=4", "k=2"), f"{page}.md", namespace)
    if page == "sharpness":
        assert namespace["ball"].rise > 0
        assert namespace["plane"].loss.shape == (9, 9)
