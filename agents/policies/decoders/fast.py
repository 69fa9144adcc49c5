"""The quick decoder: slots, an architecture's layers over them, and the output layer at each row's end.

Axis legend: B rows of one call, Q new tokens a row, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from .checks import check_fits
from .matmul import Product
from .slots import Place, Slots
from .small import small


class Architecture(Protocol):
    """The layers of one kind of model, on its own weights."""

    name: str
    model: nn.Module
    slots: Slots
    head: Product

    def bind(self) -> None:
        """Look the weights up in the modules."""

    def hidden(self, ids: Tensor, place: Place) -> Tensor:
        """Return the last layer's output for token ids [B * Q]: [B, E], where Q > 1 that at each row's end."""

    def final(self, x: Tensor) -> Tensor:
        """Return what the output layer reads, of the shape of x."""


class FastDecoder:
    """A decoder by plain tensor operations on the model's own weights."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture, self.name = architecture, architecture.name
        self._made_of, self._small = _made_of(architecture.model), small(architecture)

    def extend(self, ids: Tensor, starts: Tensor, new: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do what `Decoder.extend` promises."""
        if torch.is_inference_mode_enabled():  # entering it costs a twentieth of a small model's step: callers in a loop may have done so
            return self._extended(ids, starts, new, rows)
        with torch.inference_mode():
            return self._extended(ids, starts, new, rows)

    def _extended(self, ids: Tensor, starts: Tensor, new: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        model = self.architecture
        if self._small is not None and ids.numel() <= self._small.most:
            ends = check_fits(ids, starts, new, rows, model.slots.num_slots, model.slots.width)
            return self._small(ids.numpy(), starts.numpy(), None if new is None else new.numpy(), None if rows is None else rows.numpy(), *ends)
        tokens, place = model.slots.place(ids, starts, new, rows)
        x = model.hidden(tokens, place)
        # There are more rows than were asked for where slots between them were computed, too.
        hidden = model.final(x if len(x) == len(ids) or place.last is None else x.index_select(0, place.last))
        return model.head(hidden), hidden

    @torch.inference_mode()
    def copy_slots(self, source: Tensor, target: Tensor, of: FastDecoder | None = None) -> None:
        """Do what `Decoder.copy_slots` promises."""
        self.architecture.slots.copy(source, target, (of or self).architecture.slots)

    def rebind(self) -> None:
        """Do what `Decoder.rebind` promises; raise `RuntimeError` where modules were exchanged, for an adapter's weights would go unseen."""
        if _made_of(self.architecture.model) != self._made_of:
            raise RuntimeError("The model has other modules, precision or device than when its decoder was made: make a new one by decoder_for().")
        self.architecture.bind()
        self._small = small(self.architecture)
        with torch.inference_mode():
            for store in self.architecture.slots.stores:  # nan left by weights of before would come through every mask
                store.zero_()


def _made_of(model: nn.Module) -> list[object]:
    return [*map(type, model.modules()), *((weight.dtype, weight.device) for weight in model.parameters())]
