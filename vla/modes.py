"""Which modules of a policy are in training mode."""

from torch import nn

from vla.adapters.host import UPDATES


def enter_mode(module: nn.Module, *, training: bool, parent: bool) -> bool:
    """Set the mode of a module and all within; whether anything in it is trainable decides.

    An adapter's own layers are apart: where they alone are trained, dropout of the frozen layers around them stays off.
    A block that recomputes its activations in training mode does so for them, too.
    """
    parameters = [parameter for name, parameter in module.named_parameters() if UPDATES not in f".{name}"]
    mode = training and any(parameter.requires_grad for parameter in parameters) if parameters else parent
    recomputes = training and vars(module).get("gradient_checkpointing", False)
    module.training = any(own.requires_grad for own in module.parameters()) if recomputes else mode
    for child in module.children():
        enter_mode(child, training=training, parent=mode)
    return mode
