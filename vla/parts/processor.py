"""From conversations and frames to what Qwen2.5-VL is fed: ids, masks, token types, positions and patches.

Equal bit for bit to Qwen2_5_VLProcessor of transformers with torchvision, which is not needed here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from vla.batch import Observation
from vla.frames import Frame, features_of, resize
from vla.instruction import check_instruction
from vla.packed import Packing
from vla.parts.images import Grid, ImageProcessor

Conversation = Sequence[Mapping[str, str | Sequence[Mapping[str, str]]]]
"""Messages with `role` and `content`: a string, or parts of type image or text."""

RopeIndex = Callable[..., tuple[Tensor, Tensor]]
"""`Qwen2_5_VLModel.get_rope_index`."""

PLACE_OF_IMAGE = "<|image_pad|>"
CACHED_PROMPTS = 1024
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One padded batch. Images and patches have no batch axis: they follow each other in the order of the prompts.

    All but frames and patches stays on the host, which decides by it: a number read from a device waits for all work
    there.
    """

    input_ids: Int64[Tensor, "B L"]
    attention_mask: Int64[Tensor, "B L"]
    """1 token, 0 padding."""
    image_index: Int64[Tensor, "B L"]
    """Which image of its row a token shows or encloses; -1 text."""
    position_ids: Int64[Tensor, "3 B L"]
    """Time, row and column of the rotary positions; 0 at padding."""
    image_grid_thw: Int64[Tensor, "_ 3"]
    frames: tuple[Frame, ...]
    """The images, resized, where they were; none where what the vision tower says of them is known."""
    pixel_values: Float32[Tensor, "_ _"] | None
    """Their patches, in the same place."""
    features: UInt8[Tensor, "_ _"] | None = None
    """What the vision tower says, packed rows, where that is known."""
    packing: Packing | None = None
    """Of the features."""
    device: torch.device = CPU
    """Where the backbone reads them."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Of each image."""
        return tuple(map(tuple, self.image_grid_thw.tolist()))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tokenised prompt."""

    input_ids: Int64[Tensor, " L"]
    image_index: Int64[Tensor, " L"]
    positions: Int64[Tensor, "L 3"]


class Processor:
    """Tokenizer, chat template and image processor of a checkpoint folder."""

    def __init__(self, folder: Path, images: ImageProcessor, config: PretrainedConfig, rope_index: RopeIndex) -> None:
        self.images = images
        self.tokenizer = read_tokenizer(folder)
        self.chat_template = read_chat_template(folder, self.tokenizer)
        self._rope_index = rope_index
        self._image = int(config.image_token_id)
        self._brackets = (int(config.vision_start_token_id), int(config.vision_end_token_id))
        # A robot's instructions and frame sizes repeat at every step.
        self.instruct = lru_cache(CACHED_PROMPTS)(self.write_prompt)
        self.row = lru_cache(CACHED_PROMPTS)(self.tokenize)
        if (found := self.tokenizer.convert_tokens_to_ids(PLACE_OF_IMAGE)) != self._image:
            raise ValueError(
                f"backbone {folder}: config.json says image_token_id {self._image}, the tokenizer gives "
                f"{PLACE_OF_IMAGE} id {found}; take both files from one checkpoint"
            )

    def __call__(
        self,
        conversations: Sequence[Conversation],
        images: Sequence[Frame],
        *,
        add_generation_prompt: bool = False,
        padding_side: Literal["left", "right"] = "right",
    ) -> Inputs:
        """The inputs of a batch of conversations; `images` are whole, in the order of their placeholders.

        Raises:
            ValueError: a text contains a special token, or there are more or fewer images than placeholders.
        """
        prompts = [self.render(conversation, add_generation_prompt) for conversation in conversations]
        return self.batch(prompts, [resize(image, self.images.size) for image in images], padding_side)

    def observe(self, observation: Observation) -> tuple[Inputs, Bool[Tensor, "B L"]]:
        """The inputs of a batch of observations, and which tokens may be looked at.

        A prompt is one user message: every camera in order, then the instruction. A camera that is not valid keeps its
        place, but its tokens and the brackets round them are hidden.

        Raises:
            ValueError: an instruction is empty, too long, or contains a special token.
        """
        num_cameras = observation.image_valid.shape[1]
        prompts = [self.instruct(instruction, num_cameras) for instruction in observation.instructions]
        inputs = replace(self.place(prompts, observation), device=observation.state.device)
        shown = torch.nn.functional.pad(observation.image_valid, (0, 1), value=True)  # index -1 is text
        index = inputs.image_index.where(inputs.image_index >= 0, num_cameras)
        return inputs, shown.gather(1, index) & inputs.attention_mask.bool()

    def place(self, prompts: Sequence[str], observation: Observation) -> Inputs:
        """The inputs of some prompts with an observation's frames, or with their features."""
        kept = [found for row in observation.images for image in row if (found := features_of(image)) is not None]
        if not kept:
            frames = [frame for row in observation.frames(self.images.size) for frame in row]
            return self.batch(prompts, frames, "right")
        looks, rows = zip(*kept, strict=True)
        assert len({look.packing for look in looks}) == 1, "features of one batch are packed alike"
        grids = [self.images.grid(look.height, look.width) for look in looks]
        inputs = self.pad(prompts, grids, "right")
        return replace(inputs, features=torch.cat(rows), packing=looks[0].packing)

    def write_prompt(self, instruction: str, num_cameras: int) -> str:
        """One user message: the cameras, then the instruction."""
        check_instruction(instruction, "an observation", "the observation")
        parts = [{"type": "image"}] * num_cameras + [{"type": "text", "text": instruction}]
        return self.render([{"role": "user", "content": parts}], add_generation_prompt=False)

    def render(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        """The conversation as the chat template writes it."""
        for message in conversation:
            content = message["content"]
            for text in (content,) if isinstance(content, str) else [part.get("text", "") for part in content]:
                assert isinstance(text, str)
                self.refuse_special_tokens(text)
        rendered = self.tokenizer.apply_chat_template(
            list(conversation),
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return str(rendered)

    def refuse_special_tokens(self, text: str) -> None:
        """Raise ValueError when the text contains a token that would steer the model instead of being read."""
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                raise ValueError(
                    f"the text {text[:80]!r} contains the special token {token}, which the backbone would not read as "
                    "text; remove it"
                )

    def batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Frame],
        padding_side: Literal["left", "right"],
    ) -> Inputs:
        """Tokenise, place the resized images, and pad."""
        grids = [self.images.grid(*image.shape[1:]) for image in images]
        inputs = self.pad(prompts, grids, padding_side)
        return replace(inputs, frames=tuple(images), pixel_values=self.images(images))

    def pad(self, prompts: Sequence[str], grids: Sequence[Grid], padding_side: Literal["left", "right"]) -> Inputs:
        """Tokenise, leave room for images with these grids, and pad."""
        counts = [prompt.count(PLACE_OF_IMAGE) for prompt in prompts]
        if sum(counts) != len(grids):
            raise ValueError(f"the prompts have room for {sum(counts)} images, but {len(grids)} were given")
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        rows = [
            self.row(prompt, tuple(grids[end - count : end]))
            for prompt, count, end in zip(prompts, counts, ends, strict=True)
        ]

        def pad(tensors: list[Tensor], value: int) -> Tensor:
            return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=padding_side)

        return Inputs(
            input_ids=pad([row.input_ids for row in rows], int(self.tokenizer.pad_token_id)),
            attention_mask=pad([torch.ones_like(row.input_ids) for row in rows], 0),
            image_index=pad([row.image_index for row in rows], -1),
            position_ids=pad([row.positions for row in rows], 0).permute(2, 0, 1).contiguous(),
            image_grid_thw=torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
            frames=(),
            pixel_values=None,
        )

    def tokenize(self, prompt: str, grids: tuple[Grid, ...]) -> Row:
        """Ids of a prompt with each placeholder repeated for its image's tokens, and what follows from them."""
        tokens = self.tokenizer(prompt)["input_ids"]
        repeats = torch.ones(len(tokens), dtype=torch.int64)
        image_index = torch.full_like(repeats, -1)
        places = [place for place, token in enumerate(tokens) if token == self._image]
        for index, (place, grid) in enumerate(zip(places, grids, strict=True)):
            repeats[place] = self.images.tokens(grid)
            image_index[place] = index
            for beside, bracket in ((place - 1, self._brackets[0]), (place + 1, self._brackets[1])):
                if tokens[beside] == bracket:
                    image_index[beside] = index
        input_ids = torch.tensor(tokens, dtype=torch.int64).repeat_interleave(repeats)
        positions, _ = self._rope_index(
            input_ids[None],
            mm_token_type_ids=(input_ids == self._image).long()[None],
            image_grid_thw=torch.tensor(grids, dtype=torch.int64) if grids else None,
        )
        return Row(
            input_ids=input_ids,
            image_index=image_index.repeat_interleave(repeats),
            positions=positions[:, 0].T.contiguous(),
        )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ValueError(
            f"backbone {folder} has no tokenizer.json; copy the tokenizer files of the original checkpoint"
        )
    # Left out, trust_remote_code asks on the terminal whether to run the code that a folder names.
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def read_chat_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template: the folder's own file, else the tokenizer's, in the order the real processor looks.

    Raises:
        ValueError: there is none.
    """
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return str(json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"])
    if tokenizer.chat_template is None:
        raise ValueError(f"backbone {folder} has no chat template; copy chat_template.json of the original checkpoint")
    return str(tokenizer.chat_template)
