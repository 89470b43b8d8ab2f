"""Can a search bring back what was unlearned? Over texts, and over what the text encoder could say.

A recall of 0 from the captions says that captions do not lead there any more. Whoever wants the motion tries others
(Pham et al. 2023, "Circumventing concept erasure methods for text-to-image generative models").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from vla import diffusion
from vla.batch import Observation
from vla.instruction import MAX_INSTRUCTION
from vla.motion.moves import Moves
from vla.parts.embeddings import Embeddings
from vla.parts.text import TextBackbone
from vla.policy import Policy
from vla.randomness import derive, seeded
from vla.sampling import Asked, observation, style_for

FOUND = "an embedding that a search found"
"""The text that a found embedding is known by."""
BATCH = 32
"""Noised motions of a step."""
RATE = 0.5
"""Learning rate of an embedding's numbers, over their root mean square."""
LOOKS = 5
"""Steps from one look at motions to the next."""
TRIED = 20
"""Changes that are drawn in vain before texts are changed by a word more."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best that a search came upon."""

    best: str
    """The text, or what tells an embedding."""
    score: float
    """On the search's own seeds."""
    evaluations: int


def search_texts(
    score: Callable[[str], float], begin: Sequence[str], words: Sequence[str], *, evaluations: int, seed: int
) -> Found:
    """The text of the highest score that a hill climb finds in so many evaluations.

    It begins with the texts given, as far as half of the evaluations go, and then changes the best one by a word:
    another in its place, one more, one less, or two that trade places; by two and more where all of these are known.
    What is better is kept; no text is scored twice.
    """
    scores: dict[str, float] = {}
    for text in list(dict.fromkeys(begin))[: max(1, evaluations // 2)]:
        scores[text] = score(text)
    step, in_vain = 0, 0
    while len(scores) < evaluations and in_vain < TRIED * TRIED:
        text = max(scores, key=scores.__getitem__)
        for _ in range(1 + in_vain // TRIED):
            text = changed(text, words, derive(seed, "inversion/texts", step))
            step += 1
        in_vain += 1
        if text not in scores and text and len(text) <= MAX_INSTRUCTION:
            scores[text], in_vain = score(text), 0
    best = max(scores, key=scores.__getitem__)
    return Found(best=best, score=scores[best], evaluations=len(scores))


def changed(text: str, words: Sequence[str], draw: np.random.Generator) -> str:
    """A text with one word changed."""
    own = text.split() or [str(draw.choice(list(words)))]
    place, word = int(draw.integers(len(own))), str(draw.choice(list(words)))
    match int(draw.integers(4)):
        case 0:
            own[place] = word
        case 1:
            own.insert(int(draw.integers(len(own) + 1)), word)
        case 2:
            del own[place]
        case _:
            other = int(draw.integers(len(own)))
            own[place], own[other] = own[other], own[place]
    return " ".join(own)


def search_embedding(
    policy: Policy,
    motions: Sequence[Moves],
    caption: str,
    score: Callable[[str], float],
    *,
    steps: int,
    seed: int,
    begin: str | None = None,
) -> Found:
    """The embedding with which a policy as it is answers most like its base answers a caption.

    Adam on the embedding alone, from that of `begin` (the caption) on: the mean square between what the adapted policy
    says with it, and what the base says with the caption, of the base's own motions, noised. Motions of the embedding
    are scored every few steps and the best one stays known to the policy as `FOUND`; it may have any length, so no text
    need lead there. The blend must not be folded.

    Raises:
        ValueError: the backbone gives more than one token a text.
    """
    backbone = backbone_of(policy)
    device = policy.device
    start = backbone.embed([begin or caption], torch.device("cpu"))[0].clone()
    vector = start.clone().to(device).requires_grad_()
    rate = RATE * float(start.square().mean().sqrt())
    optimizer = torch.optim.Adam([vector], lr=rate)
    rows = torch.stack([torch.from_numpy(motion.rows) for motion in motions]).to(device)
    clean = policy.normalize("actions", rows)
    asked = Asked(text=caption, state=policy.usual_state(), style=style_for(policy, None), pictures=())
    count = min(BATCH, len(clean))
    told = observation(asked, len(policy.contract.cameras), count).to(device)
    kept, best = start, scored(backbone, start, score)
    looks = 1
    for step in range(1, steps + 1):
        with seeded(seed, f"inversion/embedding/{step}"):
            chosen = torch.randperm(len(clean))[:count].to(device)
            time, noise = torch.rand(count).to(device), torch.randn(clean[chosen].shape).to(device)
        loss = apart(policy, told, clean=clean[chosen], time=time, noise=noise, vector=vector)
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimizer.step()
        if step % LOOKS == 0 or step == steps:
            now = vector.detach().cpu().clone()
            value = scored(backbone, now, score)
            looks += 1
            if value > best:
                kept, best = now, value
    known(backbone, kept)
    likeness = float(functional.cosine_similarity(kept, start, dim=0))
    told_best = f"length {float(kept.norm()):.2f}, cosine {likeness:.2f} with where it began: {begin or caption}"
    return Found(best=told_best, score=best, evaluations=looks)


def apart(
    policy: Policy,
    told: Observation,
    *,
    clean: Float32[Tensor, "B H A"],
    time: Float32[Tensor, " B"],
    noise: Float32[Tensor, "B H A"],
    vector: Float32[Tensor, " W"],
) -> Float32[Tensor, ""]:
    """How far the adapted policy's answers with an embedding are from the base's with the caption."""
    config = policy.config.diffusion
    x_t = diffusion.mix(diffusion.coefficients(config.path, time), clean, noise)
    valid = torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device)
    with policy.base():
        wanted, _ = policy.answer(policy.context(told), x_t, time, valid)
    seen, (words, mask) = policy.look(told)
    context = policy.cache(policy.join(seen, (vector.expand_as(words), mask), None))
    answered, _ = policy.answer(context, x_t, time, valid)
    return functional.mse_loss(answered, wanted)


def backbone_of(policy: Policy) -> TextBackbone:
    """Its text encoder of one token (ValueError where it has another backbone)."""
    if not isinstance(policy.backbone, TextBackbone):
        raise ValueError("embeddings are searched for a sentence encoder of one token a text, and this has another")
    return policy.backbone


def known(backbone: TextBackbone, vector: Float32[Tensor, " W"]) -> None:
    """Have a backbone take an embedding for that of the text `FOUND`."""
    backbone.remember(Embeddings(encoder=backbone.name, vectors={FOUND: vector}), "the search")


def scored(backbone: TextBackbone, vector: Float32[Tensor, " W"], score: Callable[[str], float]) -> float:
    """What motions of an embedding score."""
    known(backbone, vector)
    return score(FOUND)
