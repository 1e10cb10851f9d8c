"""The heads: from the states of a pack to logits, and to a loss summed over what is counted."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu
from transformers import XLMRobertaConfig
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaClassificationHead, XLMRobertaLMHead

from peft_stilts.data.pack import Pack
from peft_stilts.kernels.padding import pad
from peft_stilts.registry import Registry

IGNORED = -100  # a token label that does not count, as in torch's cross_entropy


class Head(nn.Module):
    """Base of the heads. `config` is the encoder's (copied); `num_labels` the number of classes, or of choices.

    `group`: how many consecutive features make one counted item (more than one for multiple choice only).
    """

    form: str
    group = 1

    def __init__(self, config: XLMRobertaConfig, num_labels: int):
        super().__init__()
        self.num_labels = num_labels
        self.config = copy.deepcopy(config)
        self.config.num_labels = num_labels

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        """`states` (T, H) of `pack` -> the logits."""
        raise NotImplementedError

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Sum of the losses over the counted items: a scalar, in float32 at least."""
        raise NotImplementedError

    def count(self, pack: Pack) -> int:
        """How many items of `pack` the loss counts."""
        return len(pack.features) // self.group

    def loss(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Sum of the losses over the counted items, straight from `states` (T, H)."""
        return self.loss_sum(self.logits(states, pack), pack)


def first_states(states: torch.Tensor, pack: Pack) -> torch.Tensor:
    """(T, H) -> (B, 1, H): the states of each feature's <s>."""
    return states[pack.cu_seqlens[:-1].long()][:, None]


def summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over labels other than -100, in float32 (float64 where the logits are)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return cross_entropy(wide, labels, ignore_index=IGNORED, reduction="sum")


class SpanHead(Head):
    """Start and end of an answer: logits (T, 2), as XLMRobertaForQuestionAnswering; labels `start`, `end` (B,)."""

    form = "span"

    def __init__(self, config: XLMRobertaConfig, num_labels: int = 2):
        super().__init__(config, 2)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        return self.qa_outputs(states)

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Per feature the mean of the start's and the end's cross-entropy over the feature's own tokens."""
        padded = pad(logits, pack.cu_seqlens, pack.max_seqlen, float("-inf"))
        return sum(summed(padded[:, :, i], pack.labels[name]) for i, name in enumerate(("start", "end"))) / 2


class ClassificationHead(Head):
    """One class a feature, from <s>: logits (B, num_labels), as XLMRobertaForSequenceClassification; labels `class`."""

    form = "classification"

    def __init__(self, config: XLMRobertaConfig, num_labels: int):
        super().__init__(config, num_labels)
        self.classifier = XLMRobertaClassificationHead(self.config)

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        return self.classifier(first_states(states, pack))

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        return summed(logits, pack.labels["class"])


class TaggingHead(Head):
    """One class a token: logits (T, num_labels), as XLMRobertaForTokenClassification; labels `tags` (T,)."""

    form = "tagging"

    def __init__(self, config: XLMRobertaConfig, num_labels: int):
        super().__init__(config, num_labels)
        given = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if given is None else given)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        return self.classifier(self.dropout(states))

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        return summed(logits, pack.labels["tags"])

    def count(self, pack: Pack) -> int:
        return int((pack.labels["tags"] != IGNORED).sum())


class ChoiceHead(Head):
    """One of `num_labels` choices: consecutive features are the choices of an item; logits (B / choices, choices).

    The classification head with one output, on <s> (transformers' XLMRobertaForMultipleChoice uses the pooler: the
    same function but for a dropout before the dense layer). Label `choice` (B,): the item's answer on each feature.
    """

    form = "choice"

    def __init__(self, config: XLMRobertaConfig, num_labels: int):
        super().__init__(config, num_labels)
        self.group = num_labels
        self.config.num_labels = 1
        self.classifier = XLMRobertaClassificationHead(self.config)

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        return self.classifier(first_states(states, pack)).view(-1, self.group)

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        return summed(logits, pack.labels["choice"][:: self.group])


class MaskedLanguageHead(Head):
    """The masked word: logits (T, vocabulary), as XLMRobertaForMaskedLM; labels `words` (T,), -100 ignored.

    `tie(embeddings)` makes the decoder's weight the encoder's word embeddings, as in the pretrained model.
    """

    form = "mlm"
    ops = None  # kernels that kernels/choose.py may put in

    def __init__(self, config: XLMRobertaConfig, num_labels: int | None = None):
        super().__init__(config, config.vocab_size)
        self.lm_head = XLMRobertaLMHead(self.config)
        self.lm_head.decoder.bias = self.lm_head.bias

    def tie(self, embeddings: nn.Embedding) -> None:
        self.lm_head.decoder.weight = embeddings.weight

    def logits(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        return self.lm_head(states)

    def loss_sum(self, logits: torch.Tensor, pack: Pack) -> torch.Tensor:
        return summed(logits, pack.labels["words"])

    def loss(self, states: torch.Tensor, pack: Pack) -> torch.Tensor:
        """As the base's, with logits made for the counted tokens only (the vocabulary is the widest matrix)."""
        counted = pack.labels["words"] != IGNORED
        states, words, head = states[counted], pack.labels["words"][counted], self.lm_head
        if self.ops is None or self.ops.linear_cross_entropy is None:
            return summed(head(states), words)
        states = head.layer_norm(gelu(head.dense(states)))
        return self.ops.linear_cross_entropy(states, head.decoder.weight, head.decoder.bias, words)

    def count(self, pack: Pack) -> int:
        return int((pack.labels["words"] != IGNORED).sum())


HEADS: Registry[type[Head]] = Registry("head")
for _head in (SpanHead, ClassificationHead, TaggingHead, ChoiceHead, MaskedLanguageHead):
    HEADS.add(_head.form, _head)


def new_head(form: str, config: XLMRobertaConfig, num_labels: int, seed: int) -> Head:
    """A head with fresh weights as transformers makes them (normal with `initializer_range`, biases 0), from `seed`.

    The random state of the caller is left as it was. Raises UsageError for an unknown `form`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = HEADS[form](config, num_labels)
        for module in head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, config.initializer_range)
                nn.init.zeros_(module.bias)
    return head
