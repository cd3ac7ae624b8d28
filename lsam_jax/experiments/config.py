"""What a run is made of: one frozen, hashable, JSON-able dataclass."""

import dataclasses
import math

METHODS = ("sgd", "sam", "gsam", "lsam")
"""Plain SGD, SAM (Foret 2021), generalized SAM (Zhao 2022), layer-wise SAM (Lee 2024)."""

_DEFAULT_RHO = {"sgd": 0.0, "sam": 0.05, "gsam": 0.1, "lsam": 0.1}
_DEFAULT_ALPHA = {"sgd": 1.0, "sam": 1.0, "gsam": 0.8, "lsam": 0.8}


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run.

    The optimizer is SGD with momentum 0.9 (not Nesterov); the learning rate falls by `decay`
    at each point of `decay_at`. The defaults of the optimizer and of the methods are those of
    the layer-wise SAM paper's CIFAR-10 recipe.

    Args:
        method: One of `METHODS`.
        data: Name of the data set, see `data.LOADERS` and `data.PREPARED`.
        model: Name of the model, see `models.PRESETS`.
        width: Channels of the model's first stage; None for the model's own.
        seed: Of the initial weights, the order of the batches and dropout.
        epochs: Passes over the training split.
        batch_size: Images in a batch; the last, partial batch of an epoch is left out.
        learning_rate: At the start.
        decay: What the learning rate is multiplied by.
        decay_at: When, as shares of the run.
        momentum: Of SGD.
        weight_decay: Coefficient on the weights, added to the gradient before momentum.
        label_smoothing: Of the training loss; the test loss is not smoothed.
        k: How many layers layer-wise SAM perturbs.
        rho: How far the weights are perturbed; None for the method's default.
        alpha: Share of the perturbed gradient in the mix; None for the method's default.
        normalize: Whether layer-wise SAM divides its ascent gradient by the norm over the
            perturbed layers. The paper does not; SAM and generalized SAM always do.

    Raises:
        ValueError: When a value makes no sense. What depends on the model (`k` above the
            number of layers) is found when the program is built, before anything is trained.
    """

    method: str = "lsam"
    data: str = "digits"
    model: str = "resnet8"
    width: int | None = None
    seed: int = 0
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    decay: float = 0.1
    decay_at: tuple[float, ...] = (2 / 3, 13 / 15)
    momentum: float = 0.9
    weight_decay: float = 2e-4
    label_smoothing: float = 0.1
    k: int = 2
    rho: float | None = None
    alpha: float | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"method={self.method!r} is not known; choose one of {', '.join(METHODS)}"
            )
        if self.rho is None:
            object.__setattr__(self, "rho", _DEFAULT_RHO[self.method])
        if self.alpha is None:
            object.__setattr__(self, "alpha", _DEFAULT_ALPHA[self.method])
        for name, least in (("epochs", 1), ("batch_size", 2), ("k", 0), ("seed", 0), ("width", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        for name in ("learning_rate", "rho", "weight_decay", "decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be a finite number, zero or above")
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must lie in [0, 1)")
        if not math.isfinite(self.alpha or 0.0):
            raise ValueError(f"alpha={self.alpha} must be a finite number")
        if not all(0 < share < 1 for share in self.decay_at):
            raise ValueError(f"decay_at={self.decay_at} must hold shares of the run, in (0, 1)")
