"""A small Unigram tokenizer with XLM-R's layout, trained in the test process."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = (
    "the quick brown fox jumps over the lazy dog near a river bank in the old town where Paris and Berlin met",
    "who met whom in 1931 and why did the fox jump over the dog what is the name of the river",
    "Der schnelle braune Fuchs springt über den faulen Hund am Fluss in der alten Stadt",
    "на берегу реки сидит лиса и смотрит на собаку 敏捷的棕色狐狸 跳过懒狗 الثعلب البني السريع",
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Unigram pieces with '▁' for a space, NFKC, <s> = 0, <pad> = 1, </s> = 2, <unk> = 3, as in XLM-R."""
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    unigram.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=specials, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(TEXT * 3, trainer)
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
    )
