"""What a layer is: how a pytree of parameters is cut into named layers."""
