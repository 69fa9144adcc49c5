"""The whole jobs of `python -m agents ppo`, a2c and policy_gradient: material, run folder, resume, errors, and the command line itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import a2c, policy_gradient, ppo, sft
from agents.__main__ import main
from agents.advantages import GAE, GRPO, RLOO, MonteCarlo, NStep, Retrace, SelfCritical, Vine
from agents.kl import AdaptiveKL, FixedKL
from agents.policies import CausalLMPolicy, small_gpt2
from agents.prompting import Curriculum, Groups, Priority
from agents.recipes import A2CText, Job, JobError, Model, PolicyGradientText, PPOText, Text, TextJob, train
from agents.recipes.algorithm import prompting_of
from agents.recipes.material import gather
from agents.recipes.measure import distinct_n
from agents.recipes.saved import from_json, to_json
from textgym import tokenizers
from textgym.scorers.classifier import NgramClassifier

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"
ROOT = Path(__file__).parents[1]

SUBJECTS, VERBS, VERDICTS = ("it", "this film", "the plot"), ("is", "was", "seems"), (("good", 1), ("great fun", 1), ("bad", 0), ("no fun", 0))
LABELLED = [f"{subject} {verb} {word} .\t{label}" for subject in SUBJECTS for verb in VERBS for word, label in VERDICTS]


TINY_PPO = ppo.Config(total_timesteps=6 * 8 * 6, num_steps=6, kl=AdaptiveKL(0.05, target=1.0, horizon=20))
TINY: dict[str, Any] = {
    "ppo": TINY_PPO,
    "a2c": a2c.Config(total_timesteps=6 * 8 * 6, num_steps=6, kl=FixedKL(0.1)),
    "policy_gradient": policy_gradient.Config(total_timesteps=6 * 8 * 6, num_steps=6, kl=FixedKL(0.1), supervised_coef=0.5),
}
KINDS: dict[str, Any] = {"ppo": PPOText, "a2c": A2CText, "policy_gradient": PolicyGradientText}


def tiny(folder: Path | None, kind: str = "ppo", algorithm: Any = None, **changes: Any) -> TextJob:
    """Return a job of a few seconds."""
    job = Job(
        text=Text(max_new_tokens=6),
        model=Model(width=16, layers=1, heads=2),
        warmup=sft.Config(num_updates=4, batch_size=8, evaluate_every=2),
        num_envs=8,
        num_eval=16,
        evaluate_every=2,
        save_every=1,
        threads=1,
        quiet=True,
        folder=folder,
    )
    choice: TextJob = KINDS[kind](replace(job, **changes), algorithm or TINY[kind])
    return choice


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(LABELLED + LABELLED[:1] + LABELLED) + "\n")
    return path


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_run_leaves_all_that_was_promised(tmp_path: Path, kind: str) -> None:
    outcome = train(tiny(tmp_path / "run", kind))
    assert outcome is not None
    folder = tmp_path / "run"
    assert outcome.after is not None
    assert {"score", "gold", "kl", "eos", "distinct", "distinct_2", "length"} <= outcome.after.keys()
    assert outcome.before["kl"] == pytest.approx(0.0, abs=1e-5), "the policy begins as the reference"
    assert len(rows_of(folder)) == 6
    logged = {"return", "kl", "kl_price", "entropy", "value_error"} | {f"eval/{name}" for name in ("score", "gold", "kl", "eos", "distinct")}
    assert logged <= rows_of(folder)[-1].keys()
    for name in ("config.json", "evaluation.json", "samples.md", "learning_curve.png", "warmup/learning_curve.png", "tensorboard", "policy/model.safetensors"):
        assert (folder / name).exists(), name
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")], "a temporary file was left behind"
    assert (folder / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert from_json(json.loads((folder / "config.json").read_text())) == tiny(folder, kind)
    assert ("supervised_loss" in rows_of(folder)[0]) == (kind == "policy_gradient")


def test_a_saved_policy_is_a_transformers_folder(tmp_path: Path) -> None:
    outcome = train(tiny(tmp_path / "run"))
    assert outcome is not None
    folder = tmp_path / "run" / "policy"
    ours, tokenizer = CausalLMPolicy.load(folder), tokenizers.load(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    text = "the plot was dull , but"
    ids = torch.tensor([tokenizer.encode(text)])
    assert AutoTokenizer.from_pretrained(folder, local_files_only=True)(text)["input_ids"] == ids[0].tolist()
    torch.testing.assert_close(theirs(ids).logits, ours.next_token_logits(ids))
    observation = np.array([tokenizer.encode(text)])
    assert ours.value(observation) == outcome.policy.value(observation), "the value head was lost"


@pytest.mark.parametrize("kind", list(KINDS))
def test_law_6_killed_after_a_checkpoint_and_resumed(tmp_path: Path, kind: str) -> None:
    """The policy gradient with a mixture and with prompts that are chosen: texts and prompts go on where they were."""
    changes: dict[str, Any] = {"prompting": Priority()} if kind == "policy_gradient" else {}
    whole, killed = train(tiny(tmp_path / "whole", kind, **changes)), train(tiny(tmp_path / "killed", kind, **changes))
    assert whole is not None
    assert killed is not None
    shutil.rmtree(max((tmp_path / "killed" / "checkpoints").iterdir()))  # as if the end had never been reached
    shutil.rmtree(tmp_path / "killed" / "policy")
    saved = from_json(json.loads((tmp_path / "killed" / "config.json").read_text()))
    resumed = train(saved, resume=True)
    assert resumed is not None
    assert resumed.after == whole.after
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_law_6_through_a_real_interrupt(tmp_path: Path) -> None:
    arguments = ["--num-envs", "8", "--num-eval", "16", "--num-steps", "6", "--total-timesteps", str(48 * 60), "--warmup.num-updates", "3"]
    arguments += ["--width", "16", "--layers", "1", "--heads", "2", "--threads", "1", "--save-every", "1", "--evaluate-every", "20"]

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agents", "ppo", *arguments, "--folder", str(folder)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole, stopped = start(tmp_path / "whole"), start(tmp_path / "stopped")
    deadline = time.monotonic() + 120
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.005)
    stopped.send_signal(signal.SIGINT)
    output = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 1, output
    assert whole.wait(timeout=120) == 0
    before = len(rows_of(tmp_path / "stopped"))
    assert before < 60, "it was not stopped"
    again = subprocess.run([sys.executable, "-m", "agents", "resume", str(tmp_path / "stopped")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_a_file_of_labelled_texts(tmp_path: Path, labelled: Path, kind: str) -> None:
    text = Text(data=labelled, heldout=labelled, text_column="0", label_column="1", tokenizer=kind, vocab_size=300, prompt_tokens=2, max_new_tokens=6)
    material = gather(text, seed=0)
    assert material.heldout_prompts[0].text.strip() == LABELLED[0].split("\t")[0][: len(material.heldout_prompts[0].text.strip())]
    assert "accuracy 1.000" in material.notes[1]
    outcome = train(tiny(tmp_path / "run", text=text))
    assert outcome is not None
    assert outcome.after is not None
    assert 0 <= outcome.after["gold"] <= 1
    assert (tmp_path / "run" / "policy" / "tokenizer.json").exists()


def test_a_local_model_and_tokenizer_in_place_of_the_built_ones(tmp_path: Path, labelled: Path) -> None:
    texts = [line.split("\t")[0] for line in LABELLED]
    tokenizer = tokenizers.train_bpe(texts, 280)
    tokenizers.save(tokenizer, tmp_path / "tokenizer")
    small_gpt2(tokenizer.vocab_size, 16, eos_id=tokenizer.eos_id, width=16, layers=1, heads=2).model.save_pretrained(tmp_path / "model")
    text = Text(data=labelled, text_column="0", scorer="length(target=4)", tokenizer=str(tmp_path / "tokenizer"), prompt_tokens=2, max_new_tokens=6)
    outcome = train(tiny(tmp_path / "run", text=text, model=Model(model=tmp_path / "model")))
    assert outcome is not None
    assert outcome.policy.model.config.n_positions == 16
    other = replace(text, tokenizer="bpe", vocab_size=tokenizer.vocab_size + 40)
    (tmp_path / "more.txt").write_text("\n".join(f"many other words {i} zig zag" for i in range(50)))
    with pytest.raises(JobError, match=r"tokenizer has \d+ ids, the model embeds \d+.*resize_token_embeddings"):
        train(tiny(tmp_path / "no", text=replace(other, data=tmp_path / "more.txt", text_column=None), model=Model(model=tmp_path / "model")))
    assert not (tmp_path / "no").exists(), "a run folder was left behind by a job that could not begin"


def test_a_model_in_half_precision_is_trained_in_float32(tmp_path: Path) -> None:
    small_gpt2(200, 32, width=16, layers=1, heads=2).model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    outcome = train(tiny(tmp_path / "run", model=Model(model=tmp_path / "model")))
    assert outcome is not None
    assert {weight.dtype for weight in outcome.policy.parameters()} == {torch.float32}
    assert outcome.run.history[0]["ratio_error"] < 1e-4


def test_choices_go_through_json() -> None:
    job = PPOText(Job(text=Text(scorer="length"), seed=3), ppo.Config(advantage=NStep(gamma=0.9, n=3), kl=FixedKL(0.1)))
    data = json.loads(json.dumps(to_json(job)))
    assert data["ppo"]["advantage"] == {"name": "n_step", "gamma": 0.9, "n": 3}
    assert from_json(data) == job
    data_of_before = {key: value for key, value in data.items() if key != "prompting"}
    assert from_json(data_of_before) == job, "a folder of an earlier version"
    grouped = A2CText(Job(prompting=Groups(4, Priority(temperature=0.5))), a2c.Config(advantage=GRPO(), episodes_per_row=1))
    mixed = PolicyGradientText(Job(prompting=Curriculum(every=3)), policy_gradient.Config(supervised_coef=0.3))
    for one, name in ((grouped, "a2c"), (mixed, "policy_gradient")):
        told = json.loads(json.dumps(to_json(one)))
        assert told["command"] == name
        assert from_json(told) == one
    with pytest.raises(ValueError, match="'sarsa', not of one of ppo, a2c, policy_gradient, sft"):
        from_json({"command": "sarsa"})
    with pytest.raises(ValueError, match="does not fit"):
        from_json({**data, "sed": 1})


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Return how the command line ends, in this process: a new one takes seconds to begin."""
    monkeypatch.setattr(sys, "argv", ["agents", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_groups_from_the_command_line_are_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spelled choice reaches play: GRPO's advantages exist only where rows share a prompt."""
    small = "--num-envs 8 --num-eval 16 --num-steps 6 --total-timesteps 96 --warmup.num-updates 2 --width 16 --layers 1 --heads 2 --max-new-tokens 6 --quiet"
    grouped = ("--advantage", "grpo", "--prompting", "groups(size=4, of='curriculum(every=1)')", "--folder", str(tmp_path / "run"))
    assert command(monkeypatch, "policy_gradient", *small.split(), *grouped) == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["prompting"]["size"] == 4
    assert saved["prompting"]["of"]["name"] == "curriculum"
    assert saved["policy_gradient"]["advantage"]["name"] == "grpo"
    assert len(rows_of(tmp_path / "run")) == 2
    assert command(monkeypatch, "resume", str(tmp_path / "run")) == 0, "there is nothing left to do"


def test_what_the_command_line_says_of_wrong_prompting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "a2c", "--prompting", "gruops(size=8)") == 2
    said = capsys.readouterr()
    assert "Did you mean 'groups'?" in " ".join((said.out + said.err).replace("│", " ").split())
    assert command(monkeypatch, "policy_gradient", "--advantage", "grpo", "--width", "16", "--layers", "1") == 1
    assert "compares episodes of one prompt" in capsys.readouterr().err


def test_a_curriculum_begins_with_short_prompts() -> None:
    material = gather(Text(), seed=0)
    lengths = [len(material.tokenizer.encode(material.train_prompts[i].text)) for i in range(len(material.train_prompts))]
    for given in (Curriculum(first_share=0.1), Groups(2, Curriculum(first_share=0.1))):
        found = prompting_of(PPOText(Job(prompting=given)), material)
        assert found is not None
        chosen = found.choose(found.start(len(lengths)), 64, np.random.default_rng(0))
        assert {lengths[i] for i in chosen.prompts} == {min(lengths)}
    own = Curriculum([-float(length) for length in lengths])
    assert prompting_of(PPOText(Job(prompting=own)), material) is own
    assert prompting_of(PPOText(), material) is None


def test_the_profile_says_where_the_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny(tmp_path / "run", profile=True, quiet=False))
    shown = capsys.readouterr().out
    assert "acting: the fast decoder of GPT2LMHeadModel" in shown
    table = shown[shown.index("Where the time of") : shown.index("held-out samples")]
    for name in ("acting", "environment and scorer", "forward", "backward", "optimiser step", "reference", "everything else"):
        assert name in table
    assert sum(float(share) for share in re.findall(r"([0-9.]+)%", table)) == pytest.approx(100, abs=1)


def test_distinct_n_by_hand() -> None:
    assert distinct_n([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4  # 12 21 12 | 12
    assert distinct_n([[1]], 2) == 0.0


class TestErrors:
    @pytest.mark.parametrize("changes", [{"data": Path("nowhere.txt"), "scorer": "length"}, {"scorer": "nowhere:score"}])
    def test_material_that_cannot_be_gathered(self, tmp_path: Path, changes: dict[str, object]) -> None:
        with pytest.raises(JobError, match="nowhere"):
            train(tiny(tmp_path / "run", text=Text(**changes)))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(("changes", "message"), [({"scorer": "sentimen"}, "sentiment"), ({"constraint": ("no_repet(n=2)",)}, "no_repeat")])
    def test_names_that_nobody_registered(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=f"did you mean '{message}'"):
            Text(**changes)

    def test_empty_file_unjudged_file_and_wrong_labels(self, tmp_path: Path, labelled: Path) -> None:
        (tmp_path / "empty.txt").write_text("\n")
        with pytest.raises(JobError, match=r"empty\.txt"):
            train(tiny(tmp_path / "run", text=Text(data=tmp_path / "empty.txt", scorer="length")))
        with pytest.raises(JobError, match="--label-column"):
            train(tiny(tmp_path / "run", text=Text(data=labelled)))
        with pytest.raises(JobError, match="label must be 0 or 1"):
            train(tiny(tmp_path / "run", text=Text(data=labelled, text_column="0", label_column="0")))

    @pytest.mark.parametrize(
        ("advantage", "message"),
        [(RLOO(), "one prompt"), (Vine(), "vine_samples"), (SelfCritical(), "whole episodes"), (Retrace(), "action values")],
    )
    def test_an_estimator_in_the_wrong_company(self, tmp_path: Path, advantage: Any, message: str) -> None:
        """Before the warm-up, and before a folder is made."""
        episodes = 1 if isinstance(advantage, RLOO) else None
        for kind, config in (("ppo", ppo.Config), ("a2c", a2c.Config)):
            with pytest.raises(JobError, match=message):
                train(tiny(tmp_path / "run", kind, config(advantage=advantage, episodes_per_row=episodes)))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("prompting", "episodes", "message"),
        [
            (Groups(3), 1, "8 rows cannot be cut into groups of 3"),
            (Groups(1), 1, "compares episodes of one prompt"),
            (Groups(4), None, "set episodes_per_row=1"),
            (Groups(4), 2, "episodes_per_row=1"),
            (Curriculum([1.0, 2.0]), 1, "a finite difficulty for each"),
        ],
    )
    def test_prompts_that_cannot_be_chosen(self, tmp_path: Path, prompting: Any, episodes: int | None, message: str) -> None:
        config = a2c.Config(advantage=RLOO() if isinstance(prompting, Groups) else GAE(), episodes_per_row=episodes, num_steps=6)
        with pytest.raises(JobError, match=message):
            train(tiny(tmp_path / "run", "a2c", config, prompting=prompting))
        assert not (tmp_path / "run").exists()

    def test_a_folder_that_is_in_use(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "precious").write_text("mine")
        with pytest.raises(JobError, match="run"):
            train(tiny(tmp_path / "run"))
        assert (tmp_path / "run" / "precious").read_text() == "mine"

    def test_the_command_line_says_it_in_a_line(self, tmp_path: Path) -> None:
        environment = {**os.environ, "COLUMNS": "200"}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "agents", *arguments]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)

        missing = run("ppo", "--data", str(tmp_path / "none.txt"), "--scorer", "length")
        assert missing.returncode == 1
        assert missing.stderr.startswith("error:")
        assert "none.txt" in missing.stderr
        assert "Traceback" not in missing.stderr
        unknown = run("ppo", "--advantage", "gea(gamma=1.0)")
        assert unknown.returncode == 2
        assert "gae" in unknown.stdout + unknown.stderr
        assert run("resume", str(tmp_path)).returncode == 2
        helped = run("ppo", "--help")
        assert helped.returncode == 0
        assert "--prompt-tokens" in helped.stdout
        assert GAE.__name__.lower() in helped.stdout


@pytest.mark.slow
def test_the_default_run_in_short_form_learns() -> None:
    from benchmarks.text import Choices, run_seeds

    outcome = run_seeds(Choices(seeds=1, short=True))[0]
    assert outcome.after is not None
    assert outcome.warmup_nats - (outcome.entropy_rate or 0) < 0.1
    assert outcome.after["score"] > outcome.before["score"] + 0.3
    assert outcome.after["kl"] < 6


@pytest.mark.slow
def test_the_default_run_meets_its_bars() -> None:
    from benchmarks.text import FILM_BARS, Choices, run_seeds

    outcome = run_seeds(Choices(seeds=1))[0]
    missed = [bar.name for bar in FILM_BARS if bar.name != "seconds" and not bar.holds(bar.figure(outcome))]
    assert not missed


@pytest.mark.slow
def test_sst2_in_short_form_learns() -> None:
    if not SST2.is_dir():
        pytest.skip("needs SST-2 (../shared/data/sst2), which is not shipped")
    from benchmarks.text import Choices, run_seeds

    outcome = run_seeds(Choices(seeds=1, sst2=SST2, short=True))[0]
    assert outcome.after is not None
    assert outcome.after["score"] > outcome.before["score"] + 0.1
    assert outcome.after["gold"] > outcome.before["gold"] + 0.05


def labelled_by(path: Path, labels: str) -> Text:
    """Return the choice of a file whose texts say what their label is, `labels` over and over."""
    given = [labels[i % len(labels)] for i in range(40)]
    path.write_text("\n".join(f"{'good' if label == '1' else 'bad'} text {i}\t{label}" for i, label in enumerate(given)))
    return Text(data=path, heldout=path, text_column="0", label_column="1", vocab_size=260)


def test_a_classifier_needs_both_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to tell apart.*--label-column"):
        gather(labelled_by(tmp_path / "rows.tsv", "1"), seed=0)


@pytest.mark.parametrize("labels", ["0110", "01"], ids=["mixed", "in turns"])
def test_both_classifiers_see_both_labels(tmp_path: Path, labels: str) -> None:
    material = gather(labelled_by(tmp_path / "rows.tsv", labels), seed=0)
    for classifier in (material.scorer, material.gold):
        assert isinstance(classifier, NgramClassifier)
        assert classifier.accuracy(["good text", "bad text"], [1, 0]) == 1


def test_what_cannot_work_comes_to_light_before_the_warm_up(tmp_path: Path, labelled: Path) -> None:
    short = small_gpt2(300, 4, width=16, layers=1, heads=2)
    short.model.save_pretrained(tmp_path / "short")
    text = Text(data=labelled, heldout=labelled, text_column="0", label_column="1", vocab_size=280, prompt_tokens=2, max_new_tokens=6)
    jobs: dict[str, TextJob] = {
        r"episodes_per_row": tiny(tmp_path / "run", algorithm=ppo.Config(num_steps=5, advantage=MonteCarlo())),
        r"the model knows 4 positions": tiny(tmp_path / "run", text=text, model=Model(model=tmp_path / "short")),
        r"kl_exact_every": tiny(tmp_path / "run", algorithm=ppo.Config(kl_exact_every=-1)),
        r"9 minibatches cannot be cut from the columns of 8 environments": tiny(tmp_path / "run", algorithm=ppo.Config(num_minibatches=9)),
        r"sqrt": tiny(tmp_path / "run", text=Text(scorer="math:sqrt")),
        r"--label-column, --tokenizer means nothing without --data": tiny(tmp_path / "run", text=Text(label_column="1", tokenizer="words")),
    }
    for message, job in jobs.items():
        with pytest.raises(JobError, match=message):
            train(job)
        assert not (tmp_path / "run").exists(), "a run folder was left behind by a job that could not begin"
    with pytest.raises(ValueError, match="heads divides"):
        Model(width=65)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        Job(threads=0)


@pytest.mark.slow
def test_a_grammar_that_cannot_be_left_makes_every_text_grammatical(tmp_path: Path) -> None:
    """Issue 4: PPO with a grammar constraint on the default task. A minute."""
    job = PPOText(Job(text=Text(constraint=("film_grammar",)), folder=tmp_path / "run", quiet=True, num_eval=512))
    outcome = train(job)
    assert outcome is not None
    assert outcome.after is not None
    assert outcome.after["gold"] == 1.0
    assert outcome.after["eos"] == 1.0, "within the budget, too"
    assert outcome.after["forbidden"] == 0.0
    assert outcome.after["score"] > 0.93  # 0.975 on 1,024 samples
