"""A small text classifier that trains in a second on one core: logistic regression over weighted word pairs.

Axis legend: B texts, F features, M features present in all B texts together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from ..core import FloatArray, IntArray
from ..task import Completions

STEM = 5  # letters; "boring" and "bored" share a feature, which is worth a point or two of accuracy on a few thousand texts


@dataclass(frozen=True)
class NgramClassifier:
    """P(label = 1) of a text from the words, stems and pairs of neighbours that it holds; a scorer of prompt and continuation together.

    In a dialogue the continuation is what the agent said; answers are left out.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    @classmethod
    def train(cls, texts: Sequence[str], labels: Sequence[int], l2: float = 5e-4, smoothing: float = 1.0, iterations: int = 100) -> NgramClassifier:
        """Return the classifier of `texts` [B] and their `labels` [B] in {0, 1}; the same every time, nothing is drawn.

        The presence of feature f is scaled by the log ratio of its smoothed frequencies among positive and negative texts
        (Wang and Manning 2012, NB-SVM), then the mean log loss plus l2 / 2 |w|^2 is minimised by full-batch Adam.
        A larger `l2` gives milder probabilities.
        """
        targets = _targets(texts, labels)
        present = [_features(text) for text in texts]
        features = tuple(Counter(chain.from_iterable(present)))
        rows, columns = _sparse(present, {name: i for i, name in enumerate(features)})
        scale = _log_ratio(columns, targets[rows], len(features), smoothing)
        weights, bias = _fit(rows, columns, scale, targets, l2, iterations)
        return cls(features, tuple((weights * scale).tolist()), bias)

    def predict(self, texts: Sequence[str]) -> FloatArray:
        """Return P(label = 1) of each text, float64 [B]."""
        known = self._known
        return _sigmoid(np.array([sum(known.get(name, 0.0) for name in _features(text)) for text in texts], dtype=np.float64) + self.bias)

    def accuracy(self, texts: Sequence[str], labels: Sequence[int]) -> float:
        """Return the share of texts whose more probable label is the right one."""
        return float(np.mean((self.predict(texts) > 0.5) == _targets(texts, labels)))

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return P(label = 1) of prompt and continuation together, float64 [B]."""
        return self.predict(completions.own.full_texts)

    def save(self, path: str | Path) -> None:
        """Write the classifier as JSON; numbers keep every bit."""
        document = {"kind": "ngram_classifier", "bias": self.bias, "features": self.features, "weights": self.weights}
        Path(path).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NgramClassifier:
        """Return the classifier that `save` wrote."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is not a file; write one with NgramClassifier.train(texts, labels).save(path).")
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["kind"] == "ngram_classifier":
                return cls(tuple(document["features"]), tuple(document["weights"]), document["bias"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a saved NgramClassifier ({type(error).__name__}: {error}); write it with its save(path).") from error
        raise ValueError(f"{path} holds a {document['kind']!r}, not an ngram_classifier.")

    @cached_property
    def _known(self) -> dict[str, float]:
        return dict(zip(self.features, self.weights, strict=True))


def _features(text: str) -> dict[str, None]:
    """Return the distinct features of a text in order of appearance: words, pairs of neighbours, and stems of long words."""
    words = text.lower().split()
    pairs = (f"{first} {second}" for first, second in pairwise(["<s>", *words, "</s>"])) if words else ()
    stems = (f"{word[:STEM]}*" for word in words if len(word) > STEM)
    return dict.fromkeys(chain(words, pairs, stems))


def _sparse(present: Iterable[Iterable[str]], places: dict[str, int]) -> tuple[IntArray, IntArray]:
    """Return the text [M] and the place [M] of each feature present: the coordinates of a binary matrix [B, F]."""
    columns = [[places[name] for name in names] for names in present]
    return np.repeat(np.arange(len(columns)), [len(row) for row in columns]), np.array(list(chain.from_iterable(columns)), dtype=np.int64)


def _log_ratio(columns: IntArray, positive: FloatArray, num_features: int, smoothing: float) -> FloatArray:
    """Return log P(f | positive) - log P(f | negative) of each feature, smoothed, float64 [F]."""
    positives = smoothing + np.bincount(columns, weights=positive, minlength=num_features)
    negatives = smoothing + np.bincount(columns, weights=1 - positive, minlength=num_features)
    return np.asarray(np.log(positives / positives.sum()) - np.log(negatives / negatives.sum()), dtype=np.float64)


def _fit(rows: IntArray, columns: IntArray, scale: FloatArray, targets: FloatArray, l2: float, iterations: int) -> tuple[FloatArray, float]:
    """Return weights [F] (of the scaled features) and bias after `iterations` steps of Adam with step size 0.05."""
    B, F = len(targets), len(scale)
    theta, mean, square = np.zeros(F + 1), np.zeros(F + 1), np.zeros(F + 1)
    for t in range(1, iterations + 1):
        logits = np.bincount(rows, weights=(theta[:F] * scale)[columns], minlength=B) + theta[F]
        errors = (_sigmoid(logits) - targets) / B
        gradient = np.append(np.bincount(columns, weights=errors[rows], minlength=F) * scale + l2 * theta[:F], errors.sum())
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        theta = theta - 0.05 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.99**t)) + 1e-8)
    return theta[:F], float(theta[F])


def _sigmoid(logits: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))  # overflows nowhere


def _targets(texts: Sequence[str], labels: Sequence[int]) -> FloatArray:
    targets = np.asarray(labels)
    if len(texts) != len(targets) or not len(targets):
        raise ValueError(f"{len(texts)} texts and {len(targets)} labels: give one label a text, and at least one text.")
    if bad := sorted(set(targets.tolist()) - {0, 1}, key=str):
        raise ValueError(f"The labels must be 0 or 1, but {bad[0]!r} is among them; map them first.")
    return targets.astype(np.float64)
