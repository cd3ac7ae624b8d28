"""The core needs jax and optax, and nothing else."""

import pathlib
import re
import subprocess
import sys

import lsam_jax

PACKAGE = pathlib.Path(lsam_jax.__file__).parent

PROGRAM = """
import importlib.abc, sys

BLOCKED = {"flax", "rich", "tqdm", "matplotlib", "sklearn", "chex", "pandas", "orbax", "grain"}
BLOCKED |= {"equinox", "haiku"}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
import jax, jax.numpy as jnp
before = jax.config.values.copy()
import lsam_jax as lsam
assert jax.config.values == before, "importing changed the configuration of JAX"

params = {"w1": jnp.eye(2), "w2": jnp.eye(2)}
loss = lambda p, x: jnp.sum((x @ p["w1"] @ p["w2"]) ** 2)
tx = lsam.layerwise_sam(k=1, rho=0.1)
out = jax.jit(lsam.value_and_grad(loss, tx))(params, tx.init(params), jnp.ones((1, 2)))
print(lsam.inspect(loss, params, jnp.ones((1, 2))))
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
print("selected", out[2].selected.tolist())
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "JAX_PLATFORMS": "cpu", "PATH": ""},
        check=False,
    )


def test_works_with_jax_and_optax_alone():
    done = run(PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "selected [False, True]" in done.stdout


def test_importing_computes_nothing():
    """No backend is started: `jax.distributed` and device settings may still follow."""
    done = run(
        "import jax, lsam_jax; jax.config.update('jax_num_cpu_devices', 3); "
        "assert len(jax.devices()) == 3"
    )
    assert done.returncode == 0, done.stderr


def test_a_framework_is_imported_by_its_own_module_alone():
    imports = {path.stem: path.read_text() for path in (PACKAGE / "integrations").glob("*.py")}
    assert {name for name, text in imports.items() if "flax" in text} == {"linen", "nnx"}
    done = run("import sys, lsam_jax.integrations; assert 'flax' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_only_public_jax():
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 5
    assert not [path for path, text in sources.items() if re.search(r"jax\s*\.\s*_src", text)]


def test_what_is_public_is_there():
    assert all(hasattr(lsam_jax, name) for name in lsam_jax.__all__)
    assert sorted(lsam_jax.__all__) == list(lsam_jax.__all__)


def test_type_checkers_are_told_that_there_are_types():
    """PEP 561; hatchling packs every file of the package, so that it is in the wheel too."""
    assert (PACKAGE / "py.typed").is_file()
