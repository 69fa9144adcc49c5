"""What a trained policy fits into: plain transformers load it and write what it writes, and its card runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import ppo, sft
from agents.play import evaluate
from agents.policies import CausalLMPolicy
from agents.policies.causal_lm import small_gpt2
from agents.recipes import Job, Model, PPOText, SFTJob, SFTText, Text, supervise, train
from agents.recipes.fitting import fit
from agents.recipes.material import Material, gather
from agents.recipes.measure import continuations
from textgym import tokenizers

TEXTS = [f"{subject} {verb} {word} .\t{label}" for subject in ("it", "the plot", "this") for verb in ("is", "was") for word, label in (("good", 1), ("bad", 0))]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(TEXTS * 3) + "\n")
    return path


def fitted(material: Material, folder: Path, spare_rows: int = 0) -> CausalLMPolicy:
    """An untrained policy whose texts end by EOS now and then, in a folder."""
    vocab_size, eos_id = material.tokenizer.vocab_size, material.tokenizer.eos_id
    larger = small_gpt2(vocab_size + spare_rows, material.num_positions, eos_id=eos_id, width=32, layers=1, heads=2, seed=4)
    with torch.no_grad():
        larger.model.transformer.wte.weight[eos_id] *= 1.8
        larger.model.transformer.wte.weight[vocab_size:] *= 3.0  # what is no token would be written most of all
    policy = CausalLMPolicy(larger.model, vocab_size)
    folder.mkdir()
    fit(policy, material, folder)
    return policy


def ours(policy: CausalLMPolicy, material: Material, num: int) -> list[list[int]]:
    options = {"prompt": np.arange(num) % len(material.heldout_prompts)}
    played = evaluate(material.environment(num, heldout=True), policy, np.random.default_rng(0), temperature=0.0, seed=0, options=options)
    return continuations(played.rollout)


def theirs(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What `generate` writes without being told anything, EOS included."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].tolist()
    eos = tokenizer.eos_token_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in written]


@pytest.mark.parametrize(("kind", "spare_rows"), [("film", 0), ("words", 3), ("byte", 0), ("bpe", 2)])
def test_generate_writes_what_the_policy_writes_greedily(kind: str, spare_rows: int, texts: Path, tmp_path: Path) -> None:
    text = Text() if kind == "film" else Text(texts, texts, "0", "1", tokenizer=kind, vocab_size=280, prompt_tokens=3, max_new_tokens=12)
    material = gather(text, seed=0)
    policy = fitted(material, tmp_path / "policy", spare_rows)
    num = min(48, len(material.heldout_prompts))
    prompts = [material.heldout_prompts[i] for i in range(num)]
    ids = [list(prompt.ids) if prompt.ids is not None else material.tokenizer.encode(prompt.text) for prompt in prompts]
    wanted = ours(policy, material, num)
    assert theirs(tmp_path / "policy", ids) == wanted, "a batch, padded on the left"
    assert [theirs(tmp_path / "policy", [one])[0] for one in ids[:4]] == wanted[:4], "one by one"
    if kind == "film":
        assert len({len(one) for one in ids}) > 1, "nothing was padded"
        ended = [row[-1] == material.tokenizer.eos_id for row in wanted]
        assert any(ended)
        assert not all(ended)
    assert max(map(len, wanted)) <= material.max_new_tokens


@pytest.mark.parametrize("kind", ["film", "words", "byte", "bpe"])
def test_the_tokenizer_loads_in_plain_transformers(kind: str, texts: Path, tmp_path: Path) -> None:
    text = Text() if kind == "film" else Text(texts, texts, "0", "1", tokenizer=kind, vocab_size=280, prompt_tokens=3, max_new_tokens=12)
    material = gather(text, seed=0)
    fitted(material, tmp_path / "policy")
    theirs, own = AutoTokenizer.from_pretrained(tmp_path / "policy"), tokenizers.load(tmp_path / "policy")
    assert own == material.tokenizer
    lines = ["the style feels quite warm ."] if kind == "film" else ["the plot was good .", "it is bad ."]
    for line in [*lines, *(["gr\u00fc\u00dfe,\n\t caf\u00e9 \u65e5\u672c"] if kind in ("byte", "bpe") else [])]:
        ids = own.encode(line)
        assert theirs(line, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == own.decode(ids) == line
    assert (theirs.eos_token_id, theirs.padding_side) == (own.eos_id, "left")
    assert theirs.pad_token_id is not None
    assert "token_type_ids" not in theirs("the plot"), "GPT-2 would add them to its embeddings"


def test_characters_load_in_plain_transformers() -> None:
    own = tokenizers.CharTokenizer("abc d\n\u00e4<>")
    theirs = tokenizers.to_transformers(own)
    ids = own.encode("a<b>\n\u00e4  d")
    assert theirs("a<b>\n\u00e4  d", add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == own.decode(ids)
    assert theirs.eos_token_id == own.eos_id


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a card, and what the snippet in it prints where it stands."""
    told = (folder / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "card", "exec"), {})
    return told, printed.getvalue()


MODEL = Model(width=16, layers=1, heads=2)


def test_the_card_of_a_rewarded_policy_tells_its_numbers_and_runs(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text(texts, texts, "0", "1", tokenizer="bpe", vocab_size=280, prompt_tokens=3, max_new_tokens=6)
    warmup = sft.Config(num_updates=3, batch_size=8)
    job = Job(text, MODEL, warmup, num_envs=8, num_eval=16, seed=3, folder=tmp_path / "run", quiet=True)
    outcome = train(PPOText(job, ppo.Config(total_timesteps=96, num_steps=6)))
    assert outcome is not None
    assert outcome.after is not None
    told, printed = run_card(tmp_path / "run" / "policy", monkeypatch)
    front, body = told.removeprefix("---\n").split("\n---\n", 1)
    assert "library_name: transformers" in front.splitlines()
    assert {"- textgym", "- ppo", "- reinforcement-learning"} <= set(front.splitlines())
    assert not any(line.startswith("license:") for line in front.splitlines()), "that is the user's to choose"
    for name, before, after in (("score", outcome.before["score"], outcome.after["score"]), ("KL", 0.0, outcome.after["kl"])):
        (row,) = [line for line in body.splitlines() if line.startswith(f"| {name}")]
        assert [cell.split()[0] for cell in row.split("|")[2:4]] in ([f"{before:.3f}", f"{after:.3f}"], [f"-{before:.3f}", f"{after:.3f}"])
    assert f"{outcome.warmup_nats:.3f} nats" in body
    assert "seed 3" in body
    assert "python -m agents ppo --config config.json" in body
    assert str(tmp_path) not in told, "a card is published, the author's folders are not"
    assert printed.startswith("[")


def test_the_card_of_a_supervised_model_runs_and_nobody_need_judge_it(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text(texts, texts, "0", tokenizer="byte", prompt_tokens=3, max_new_tokens=6)
    outcome = supervise(SFTText(SFTJob(text, MODEL, num_eval=8, folder=tmp_path / "run", quiet=True), sft.Config(num_updates=3, batch_size=8)))
    assert outcome.after is not None
    assert "score" not in outcome.after
    told, printed = run_card(tmp_path / "run" / "policy", monkeypatch)
    assert "- sft" in told.splitlines()
    assert "reinforcement-learning" not in told
    assert f"{outcome.after['nats']:.3f}" in told
    assert printed.startswith("[")
    for name in ("learning_curve.png", "samples.md", "evaluation.json", "metrics.jsonl", "checkpoints", "policy/generation_config.json"):
        assert (tmp_path / "run" / name).exists(), name
