#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.23.0 and torch 2.13.0.
#
# Good guess: gradient checkpointing without re-entrance, of a language model that alone has LoRA, leaves the frozen vision
# tower beside it without a graph: what it says of an image needs no gradient, as without checkpointing, and the memory
# of a step can only become less.
# Behaviour: get_peft_model asks a model that recomputes for gradients of its inputs, whatever `use_reentrant` says, and
# transformers does so with a hook on every embedding of it: that of the image's patches is one. The tower's answer needs
# a gradient, so that all of its blocks keep what they computed, and backward goes through them to pixels that nobody
# trains. No loss, and no gradient of LoRA, tells. `disable_input_require_grads()` on the model inside undoes it, and the
# language model is recomputed as before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
export HOME=$folder CUDA_VISIBLE_DEVICES= TRANSFORMERS_VERBOSITY=error
cat >graph.py <<'PYTHON'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

warnings.simplefilter("ignore")


def built():
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        image_token_id=9, video_token_id=10, vision_start_token_id=8,
        text_config={
            "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "bos_token_id": 0,
            "eos_token_id": 0, "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
        },
    )
    return Qwen2_5_VLForConditionalGeneration(config).train()


def step(how):
    model = built()
    if how != "plain":
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    torch.manual_seed(1)
    adapted = get_peft_model(model, lora)
    if how == "asked not to":
        model.disable_input_require_grads()
    says, calls = [], []
    model.model.visual.register_forward_hook(lambda *given: says.append(given[2].pooler_output.requires_grad))
    model.model.language_model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.tensor([[8, 9, 1, 2]])
    torch.manual_seed(2)
    pixels = torch.randn(4, 3 * 2 * 14 * 14)
    kinds = (ids == 9).long()
    out = adapted(input_ids=ids, pixel_values=pixels, image_grid_thw=torch.tensor([[1, 2, 2]]), mm_token_type_ids=kinds)
    out.logits.square().sum().backward()
    norm = sum(p.grad.norm() for p in adapted.parameters() if p.grad is not None)
    return says[0], len(calls), f"{norm:.4f}"


found = {how: step(how) for how in ("plain", "checkpointed", "asked not to")}
for how, (graph, calls, _) in found.items():
    print(f"{how}: the tower's answer needs a gradient: {graph}, a block of the language model ran {calls} times")
print("the gradients of LoRA:", "the same" if len({norm for *_, norm in found.values()}) == 1 else found)
PYTHON
found=$(venv/bin/python graph.py)
echo "$found"
expected="plain: the tower's answer needs a gradient: False, a block of the language model ran 1 times
checkpointed: the tower's answer needs a gradient: True, a block of the language model ran 2 times
asked not to: the tower's answer needs a gradient: False, a block of the language model ran 2 times
the gradients of LoRA: the same"
[ "$found" = "$expected" ] || { echo "these versions behave otherwise than written here" >&2; exit 1; }
