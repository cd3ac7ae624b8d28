"""The networks by name, and what training must know of each beside the module itself."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from lsam_jax.experiments.files import PathLike
from lsam_jax.experiments.models import resnet, vit, vit_weights


class Architecture(NamedTuple):
    """A family of networks, called with what should differ from it.

    Attributes:
        make: Options to a Flax module of images and `train`.
        preprocess: uint8 images to the floats that the module takes; None for the data set's own.
        frozen: Top-level name of the parameters that are pretrained and never trained, and
            ``(file, shapes) -> parameters`` to read them; None where all are trained.
    """

    make: Callable[..., nn.Module]
    preprocess: Callable[[Any], jax.Array] | None = None
    frozen: tuple[str, Callable[[PathLike, Any], Any]] | None = None

    def __call__(self, **options: Any) -> nn.Module:
        """A module."""
        return self.make(**options)

    def split(self, params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parameters that are trained, and those that are not."""
        frozen = {} if self.frozen is None else {self.frozen[0]: params[self.frozen[0]]}
        return {name: x for name, x in params.items() if name not in frozen}, frozen

    def read(self, weights: PathLike, frozen: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are not trained, from a file.

        Raises:
            OSError, ValueError: When the file cannot serve, naming it and what is wrong with it.
        """
        read_one = self.frozen[1] if self.frozen is not None else None
        return {} if read_one is None else {n: read_one(weights, x) for n, x in frozen.items()}

    def check_weights(self, config: Any, weights: PathLike | None) -> None:
        """Raises unless `weights` and `config.random_init` fit this architecture.

        Raises:
            ValueError: When a pretrained backbone is wanted and not given, or the reverse.
        """
        if self.frozen and weights is None and not config.random_init:
            raise ValueError(
                f"model={config.model!r} has a pretrained, frozen backbone, and no weights are "
                "given: pass --weights FILE (.npz of the original release, or .safetensors of "
                "Hugging Face), or configure random_init=true to try it on random weights, which "
                "is worthless for accuracy"
            )
        if weights is not None and not self.frozen:
            raise ValueError(f"model={config.model!r} has no pretrained part; leave --weights out")
        if weights is not None and config.random_init:
            raise ValueError("--weights and random_init=true exclude each other; give one of them")


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet8": Architecture(resnet.resnet8),
    "resnet20": Architecture(resnet.resnet20),
    "wrn28_10": Architecture(resnet.wrn28_10),
    "wrn16_2": Architecture(resnet.wrn16_2),
    "wrn16_8": Architecture(resnet.wrn16_8),
    "vit_tiny": Architecture(vit.vit_tiny),
    "vit_b16": Architecture(
        vit.vit_b16, preprocess=vit.to_signed, frozen=(*vit.FROZEN, vit_weights.load_vit)
    ),
}


def preset(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        ValueError: When there is none.

    Example:
        >>> preset("resnet8")(num_classes=4).stages
        (1, 1, 1)
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"model={name!r} is not known; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
