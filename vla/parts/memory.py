"""What a vision tower said of the frames of the last call, so that a frame that has not changed is not looked at again.

Frames count as the same where every byte is. Nothing else is taken for the same that could decide the features: neither
another device or precision, nor weights that were written to, replaced, folded or adapted otherwise since.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla.adapters.layer import Blend
from vla.frames import Frame

Features = Float[Tensor, "_ D"]
"""Of an image, a row a token."""
Decisive = tuple[object, ...]
"""What decides features beside the frame, to be compared."""


@dataclass
class Memory:
    """Of one call alone, by the place of an image in it: the camera and the row of the batch."""

    frames: tuple[Frame, ...] = ()
    features: tuple[Features, ...] = ()
    decided: Decisive | None = None
    """By what these features were; None: there are none."""

    def forget(self) -> None:
        """Look at everything anew."""
        self.frames, self.features, self.decided = (), (), None

    def recall(
        self, frames: Sequence[Frame], decisive: Decisive, see: Callable[[Sequence[int]], Sequence[Features]]
    ) -> list[Features]:
        """The features of some frames, of which `see` is asked for those, by place, that have changed.

        The tower's arithmetic may round otherwise where it is shown fewer images at once.
        """
        changed = self.changed(frames, decisive)
        seen = {place: own.clone() for place, own in zip(changed, see(changed) if changed else (), strict=True)}
        found = [seen[place] if place in seen else self.features[place] for place in range(len(frames))]
        # Copies: a camera may write its next frame into the same place, and one image's features would keep those of a
        # whole call.
        kept = [frame.clone() if place in seen else self.frames[place] for place, frame in enumerate(frames)]
        self.frames, self.features, self.decided = tuple(kept), tuple(found), decisive
        return found

    def changed(self, frames: Sequence[Frame], decisive: Decisive) -> list[int]:
        """The places of frames that are not what they were; one wait for the device that they are on."""
        if self.decided != decisive:
            return list(range(len(frames)))
        pairs = dict(enumerate(zip(frames, self.frames, strict=False)))
        alike = [place for place, (new, old) in pairs.items() if (new.shape, new.device) == (old.shape, old.device)]
        equal = [(pairs[place][0] == pairs[place][1]).all() for place in alike]
        same = dict(zip(alike, torch.stack(equal).tolist() if equal else (), strict=True))
        return [place for place in range(len(frames)) if not same.get(place, False)]


def decisive_of(tower: nn.Module, blend: Blend, device: torch.device) -> Decisive:
    """What decides a tower's features: where its numbers lie, how often they were written to, adapters and precision.

    Never equal to another where torch counts no writing, of tensors that were made in inference mode.
    """
    tensors = [*tower.parameters(), *tower.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return (object(),)
    kind = device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    written = tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)
    return written, tuple(blend.weights.items()), blend.folded, precision, device
