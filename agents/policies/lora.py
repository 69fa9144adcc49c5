"""Low-rank adapters on a language model (Hu et al. 2021, "LoRA"), through `peft`; the bare model below them is the KL reference.

    policy = with_lora(small_gpt2(...), rank=8)
    ppo.train(env, policy, config, reference=BareBase(policy))

There is one copy of the base weights: nobody trains them, and with the adapters switched off they are the reference.
Axis legend: T steps, N environments, B rows, L observation columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .causal_lm import VALUE_HEAD, CausalLMPolicy
from .common import Acted, Evaluated, Memory, greedy
from .seeding import seeded
from .seq2seq import Seq2SeqPolicy
from .steady import steady_weights

LanguagePolicy = TypeVar("LanguagePolicy", CausalLMPolicy, Seq2SeqPolicy)


def with_lora(
    policy: LanguagePolicy, *, rank: int = 8, alpha: float = 16.0, target_modules: str | Sequence[str] = "all-linear", seed: int = 0
) -> LanguagePolicy:
    """Freeze the model of `policy` in place and put trainable adapters beside its layers; return the same policy, which says what it said before.

    A layer's W becomes W + alpha / rank B A, where A [rank, in] is drawn from `seed` and B [out, rank] is 0. The value head goes on learning.

    Args:
        policy: whose model gets adapters; only they and the value head can be trained from now on.
        rank: of B A.
        alpha: how much of B A counts.
        target_modules: which layers: all linear ones but the output layer (Dettmers et al. 2023, "QLoRA", figure 2), or names such as ("q_proj", "v_proj").
        seed: of the adapters.

    Raises:
        ValueError: if the model has adapters already, or none of its layers is called so.
        ImportError: if peft is not installed.
    """
    peft = _peft()
    if isinstance(policy.model, peft.PeftModel):
        raise ValueError("The model has adapters already; merged(policy) is a plain policy again, which may get new ones.")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        task_type="SEQ_2_SEQ_LM" if isinstance(policy, Seq2SeqPolicy) else "CAUSAL_LM",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in policy.model.modules()),  # GPT-2's layers store W transposed
    )
    with seeded(seed):
        policy.model = peft.get_peft_model(policy.model, config).eval()
    return policy


class BareBase:
    """A policy with adapters as it was before any training: the same weights with the adapters switched off, and the value head of back then.

    It follows the `Policy` protocol, has nothing to train, and is no copy: it costs a value head. While it works the adapters are off;
    afterwards, also after an exception, all is as before. It must not work at the same moment as the policy (in two threads).
    """

    sequential = True

    def __init__(self, policy: CausalLMPolicy | Seq2SeqPolicy) -> None:
        _adapted(policy)
        self.policy, self.vocab_size, self.chunk = policy, policy.vocab_size, getattr(policy, "chunk", 1)
        self._head = copy.deepcopy(policy.value_head).requires_grad_(False)

    def initial_state(self, num_envs: int) -> Any:
        """Return nothing yet, as the policy does."""
        return self.policy.initial_state(num_envs)

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return sampled next tokens [N], their log-probabilities and values [N] under the base.

        The policy takes a state of play that the base comes from as stale, and the base one of the policy's.
        """
        with self._bare():
            return self.policy.act(observations, state, starts, generator, action_masks, temperature)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B] under the base, of which nothing has a gradient."""
        with self._bare():
            return self.policy.evaluate(observations, actions, action_masks, temperature, memory)

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, V] of all tokens under the base, of which nothing has a gradient."""
        with self._bare():
            return self.policy.distributions(observations, action_masks, temperature, memory)

    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B] of the base."""
        with self._bare():
            return self.policy.value(observations)

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the base's most likely token of each row, as other libraries' evaluators ask for it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=1)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return nothing: there is nothing to change."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the weights are the policy's."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the weights are the policy's."""

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """Switch the adapters off, and put the value head of back then in its place."""
        policy = self.policy
        trainable = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        policy.value_head, present = self._head, policy.value_head
        try:
            with policy.model.disable_adapter(), torch.no_grad(), steady_weights():  # type: ignore[operator]  # a promise of before is of other weights
                yield
        finally:
            policy.value_head = present
            for parameter in policy.model.parameters():  # peft would switch on all adapters, also those that were frozen
                parameter.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)


def save_adapter(policy: CausalLMPolicy | Seq2SeqPolicy, folder: Path | str) -> None:
    """Write the adapters, in peft's own layout, and the value head beside them: no base weights, so a small folder."""
    _adapted(policy)
    policy.model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
    metadata = {"vocab_size": str(policy.vocab_size)}
    save_file({name: t.contiguous() for name, t in policy.value_head.state_dict().items()}, str(Path(folder) / VALUE_HEAD), metadata)


def load_adapter(policy: LanguagePolicy, folder: Path | str) -> LanguagePolicy:
    """Put the adapters and the value head that `save_adapter` wrote onto `policy`, in place, whose base must be the same; return the same policy.

    Raises `FileNotFoundError` if the folder holds none, `ValueError` if the model has adapters already.
    """
    peft = _peft()
    if not (Path(folder) / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no adapter_config.json: give a folder that save_adapter wrote (nothing is fetched from a hub).")
    if isinstance(policy.model, peft.PeftModel):
        raise ValueError("The model has adapters already: load onto the bare base.")
    with seeded(0):
        policy.model = peft.PeftModel.from_pretrained(policy.model, str(folder), is_trainable=True).eval()
    if (Path(folder) / VALUE_HEAD).is_file():
        policy.value_head.load_state_dict(load_file(str(Path(folder) / VALUE_HEAD)))
    return policy


def merged(policy: LanguagePolicy) -> LanguagePolicy:
    """Return a plain, trainable copy of the policy with its adapters added into the weights: `merged(policy).save(folder)` is for everybody.

    It agrees with the policy up to rounding.
    """
    _adapted(policy)
    plain = copy.deepcopy(policy)
    plain.model = plain.model.merge_and_unload()  # type: ignore[operator]
    return plain.requires_grad_(True)


def _adapted(policy: CausalLMPolicy | Seq2SeqPolicy) -> None:
    if not isinstance(policy.model, _peft().PeftModel):
        raise TypeError(f"The model of this policy, {type(policy.model).__name__}, has no adapters: call with_lora(policy) first.")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError('Adapters need peft: pip install "textgym[lora]".') from error
    return peft
