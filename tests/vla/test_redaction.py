"""What counts as a secret, what does not, and that trees keep their shape."""

import json
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from training import recipes
from training.config import to_json
from vla import redaction
from vla.redaction import HIDDEN, hide, hide_tree

CANARY = "canary7f3a9c51"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """An environment without secrets; call it to add one."""
    for name in [name for name in os.environ if redaction.is_secret_variable(name)]:
        monkeypatch.delenv(name)
    return monkeypatch.setenv


Put = Callable[[str, str], None]

NAMES = [
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "RUNPOD_API_KEY", "MY_SECRET_TOKEN", "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "GITHUB_PAT", "OPENAI_APIKEY", "DB_PASSWORD", "MYSQL_PWD", "TOKENS",
    "PGPASSWD", "SSH_PASSPHRASE", "GCP_CREDENTIALS", "hf_token", "TOKEN_2", "GITHUBTOKEN", "NPM_AUTH",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_values_of_variables_named_like_a_secret(environment: Put, name: str) -> None:
    environment(name, CANARY)
    assert hide(f"--key={CANARY} x{CANARY}y") == f"--key={HIDDEN} x{HIDDEN}y"


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "PATH", "PWD", "OLDPWD", "AWS_REGION", "HOME", "COMPATIBLE"],
)
def test_values_of_other_variables_stay(environment: Put, name: str) -> None:
    environment(name, CANARY)
    assert hide(f"it is {CANARY}") == f"it is {CANARY}"


@pytest.mark.parametrize(
    "value",
    ["1", "true", "12345", "disabled", "Offline", "/root/.ssh/id_rsa", "/tmp", "~/.config/token", "./key.pem"],
)
def test_values_that_are_no_secret_damage_nothing(environment: Put, value: str) -> None:
    environment("MY_TOKEN", value)
    text = f"saved {value} to {value}/checkpoints"
    assert hide(text) == text


def test_a_secret_may_start_with_a_slash(environment: Put) -> None:
    environment("AWS_SECRET_ACCESS_KEY", "/k9Fz0/wJalrXUtnFEMI")
    assert hide("key /k9Fz0/wJalrXUtnFEMI.") == f"key {HIDDEN}."


def test_a_short_number_or_word_is_hidden_where_it_stands_alone(environment: Put) -> None:
    environment("MAX_TOKENS", "100000")
    environment("USER_PASSWORD", "hunter")
    text = "samples 1000000, loss 0.1000001, hunters, checkpoint step-00100000"
    assert hide(text) == text
    assert hide("100000 tokens for hunter") == f"{HIDDEN} tokens for {HIDDEN}"


def test_every_spelling_of_a_value_and_every_line_of_a_long_one(environment: Put) -> None:
    odd = 'p&ss "wörd"\\x/7'
    environment("DB_PASSWORD", odd + "\n")
    for text in (odd, json.dumps(odd), repr(odd), urllib.parse.quote(odd, safe="")):
        assert HIDDEN in hide(text)
        assert "rd" not in hide(text)
    lines = [os.urandom(24).hex() for _ in range(4)]
    pem = "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----"])
    environment("DEPLOY_KEY", pem)
    for text in (pem, json.dumps({"key": pem}), repr(pem), *lines):
        assert not [line for line in lines if line in hide(text)]


def test_the_longest_value_wins(environment: Put) -> None:
    environment("A_TOKEN", CANARY)
    environment("WANDB_API_KEY", CANARY + "-and-more")
    assert hide(f"{CANARY}-and-more {CANARY}") == f"{HIDDEN} {HIDDEN}"


LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6"
SHAPES = {
    f"hf_{LETTERS}": HIDDEN,
    f"token hf_{LETTERS}.": f"token {HIDDEN}.",
    f"rpa_{LETTERS}": HIDDEN,
    f"sk-proj-{LETTERS}": HIDDEN,
    f"ghp_{LETTERS}": HIDDEN,
    f"github_pat_{LETTERS}": HIDDEN,
    f"glpat-{LETTERS}": HIDDEN,
    "xoxb-123456789-abc": HIDDEN,
    "AKIAIOSFODNN7EXAMPLE": HIDDEN,
    f"wandb_v1_{LETTERS}": HIDDEN,
    f"Authorization: Bearer {LETTERS}": f"Authorization: Bearer {HIDDEN}",
    f"b'Bearer {LETTERS}\\n'": f"b'Bearer {HIDDEN}'",
    "https://user:pa55@host/path": f"https://user:{HIDDEN}@host/path",
    str(Path("https://user:pa55@host/path")): f"https:/user:{HIDDEN}@host/path",
    "s3://user:pass,w&rd@host/x": f"s3://user:{HIDDEN}@host/x",
    f"https://{LETTERS}@github.com/x": f"https://{HIDDEN}@github.com/x",
    "https://h/x?api_key=abcdef12&n=3": f"https://h/x?api_key={HIDDEN}&n=3",
    "https://h/x?X-Amz-Signature=abcdef12": f"https://h/x?X-Amz-Signature={HIDDEN}",
    "unknown flag --hf-token=abcdef12; did you mean --out?": f"unknown flag --hf-token={HIDDEN}; did you mean --out?",
    "WANDB_API_KEY=abcdef12 vla": f"WANDB_API_KEY={HIDDEN} vla",
    "{'password': 'abcdef12', 'n': 1}": f"{{'password': '{HIDDEN}', 'n': 1}}",
    '{"hf_token": "abcdef12"}': f'{{"hf_token": "{HIDDEN}"}}',
}


@pytest.mark.parametrize("text", SHAPES)
def test_shapes_that_only_secrets_have(text: str) -> None:
    assert hide(text) == SHAPES[text]


def test_private_keys() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"
    assert hide(f"a {pem} b") == f"a {HIDDEN} b"
    assert hide("a -----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc") == f"a {HIDDEN}", "it may be cut off"


HARMLESS = [
    "b3f1c2d4e5f60718293a4b5c6d7e8f9012345678 and 64 of them: " + "0f" * 32,  # digests look like Weights & Biases keys
    "runs/hf_cache/sk-learn/task-0123456789-0123456789-0123456789.txt",
    "step 12: loss 0.1234, lr 1e-4, max_tokens=100000, --sensor.max-tokens=16",
    "tcp://127.0.0.1:29500 https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct ssh://git@github.com/x",
    '{"image_token": "<|image_pad|>", "pad_token": "<|endoftext|>"}',
    "mail someone@example.org, the token is missing, a bearer of bad news, Bearer authentication",
    "layers.0.self_attn.q_proj.lora_A.weight model-00001-of-00002.safetensors step-00000500",
    "\r 12%|███       | 3/25 [00:01<00:09,  2.30step/s]",
    "RUN/checkpoints/.staging-step-00000500-1a2b3c4d",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(environment: Put, text: str) -> None:
    environment("HF_TOKEN", f"hf_{LETTERS}")
    assert hide(text) == text


def test_trees_keep_their_shape(environment: Put) -> None:
    environment("HF_TOKEN", CANARY)
    plain = {"n": 3, "f": 0.5, "none": None, "b": True}
    tree = {"out": f"/runs/{CANARY}", "roots": ("a", f"https://u:{CANARY}@h"), **plain}
    assert hide_tree(tree) == {"out": f"/runs/{HIDDEN}", "roots": ["a", f"https://u:{HIDDEN}@h"], **plain}


def test_values_under_names_of_secrets(environment: Put) -> None:
    secret = {"api_key": "abcdef12", "wandb.api-key": "abcdef12", "apiKey": "abcdef12", "hf_token": "abcdef12"}
    secret |= {"password": "abcdef12", "credentials": {"user": "somebody", "list": ["abcdef12", 5]}}
    hidden = hide_tree(secret)
    assert "abcdef12" not in json.dumps(hidden)
    assert hidden["credentials"] == {"user": HIDDEN, "list": [HIDDEN, 5]}
    harmless = {"image_token": "<|image_pad|>", "pad_token": "[PADDING]", "max_tokens": 16, "image_token_id": 151655}
    harmless |= {"key": "observation.force", "keys": ["observation.force"], "token": None, "secret": "/root/secret"}
    harmless |= {"output": "tokens", "prompt_tokens": 12, "keyboard": "azerty-layout"}
    assert hide_tree(harmless) == harmless


@pytest.mark.parametrize("recipe", [recipes.stage1, recipes.stage2, recipes.two_stage])
def test_our_own_configuration_stays_as_it_is(environment: Put, recipe: Callable[[], object]) -> None:
    environment("HF_TOKEN", CANARY)
    tree = to_json(recipe())
    assert hide_tree(tree) == tree


def test_the_entry_point_of_pods_knows_the_same_names(repository: Path) -> None:
    """Each name the shell hides is hidden here."""
    script = (repository / "runpod" / "entrypoint.sh").read_text()
    assert redaction.NAMED.pattern in script
