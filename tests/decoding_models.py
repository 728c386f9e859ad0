"""Small random models and various tokenizers for the tests of decoding and inference."""
import random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PreTrainedTokenizerFast, SiglipVisionConfig

from paligemma_vqa.inference.automaton import allowed_tokens

SPECIAL = ['<pad>', '<eos>', '<bos>', '<unk>']


def some_answers(schema, answer_format=None, n=300):
    dice = random.Random(0)
    codes = [tuple(dice.randrange(len(schema.phases) + 1) for _ in schema.events) for _ in range(n)]
    return [schema.render(schema.from_codes(c), answer_format) for c in codes]


def _wrap(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='<pad>', eos_token='<eos>', bos_token='<bos>', unk_token='<unk>')


def byte_level_tokenizer(schema, answer_format=None, vocab_size=330):
    bpe = Tokenizer(models.BPE(unk_token='<unk>'))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(some_answers(schema, answer_format), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return _wrap(bpe)


def character_tokenizer(schema, answer_format=None):
    texts = [schema.render(a, f) for f in schema.answer_formats for a in ({}, *({e: p} for e in schema.events for p in schema.phases))]
    letters = sorted(set(''.join(texts + some_answers(schema, answer_format) + [schema.question()])) | {'\n'})
    characters = Tokenizer(models.WordLevel({t: i for i, t in enumerate(SPECIAL + letters)}, unk_token='<unk>'))
    characters.pre_tokenizer, characters.decoder = pre_tokenizers.Split(Regex(r'[\s\S]'), 'isolated'), decoders.Fuse()
    return _wrap(characters)


def metaspace_tokenizer(schema, answer_format=None, vocab_size=200):
    "Like SentencePiece: blanks are part of words, and a text begins with one"
    bpe = Tokenizer(models.BPE(unk_token='<unk>', byte_fallback=False))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    bpe.train_from_iterator(some_answers(schema, answer_format), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False))
    return _wrap(bpe)


def boundless_tokenizer(schema, answer_format=None, vocab_size=150):
    "BPE over the whole text at once: tokens run across items"
    bpe = Tokenizer(models.BPE(unk_token='<unk>'))
    bpe.decoder = decoders.Fuse()
    bpe.train_from_iterator(some_answers(schema, answer_format), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False))
    return _wrap(bpe)


TOKENIZERS = [byte_level_tokenizer, character_tokenizer, metaspace_tokenizer, boundless_tokenizer]


def random_model(vocab_size, attention='eager', image_size=28, seed=0, soft_capping=50., dtype=torch.float32, **text):
    "Sharper than fresh weights are, so that its choices are as decided as a trained model's"
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                                         image_size=image_size, patch_size=14, vision_use_head=False).to_dict(),
        text_config=Gemma2Config(**dict(
            vocab_size=vocab_size + 1, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=128, query_pre_attn_scalar=16, pad_token_id=0, eos_token_id=1, bos_token_id=2,
            attn_logit_softcapping=soft_capping, tie_word_embeddings=False) | text).to_dict(),
        projection_dim=64, hidden_size=64, image_token_index=vocab_size, vocab_size=vocab_size + 1, tie_word_embeddings=False)
    torch.manual_seed(seed)
    implementation = 'eager' if attention == 'sdpa' else attention
    model = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation={'text_config': implementation, 'vision_config': 'sdpa'}).eval()
    if attention == 'sdpa': model.config.text_config._attn_implementation = 'sdpa'
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'layers' in name and weight.ndim == 2: weight.mul_(8)
        model.lm_head.weight.mul_(12)
        model.model.multi_modal_projector.linear.weight.mul_(20)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    return model.to(dtype)


def make_inputs(model, tokenizer, images, seed=0, question='answer en Which?'):
    prefix = ([model.config.image_token_id] * model.config.text_config.num_image_tokens + [2]
              + tokenizer(question + '\n', add_special_tokens=False)['input_ids'])
    size = model.config.vision_config.image_size
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, 1, 1, generator=dice) + torch.randn(images, 3, size, size, generator=dice) / 2
    return dict(input_ids=torch.tensor([prefix] * images), attention_mask=torch.ones(images, len(prefix), dtype=torch.long),
                pixel_values=pixels.to(model.dtype))


def row_of(inputs, row): return {name: values[row:row + 1] for name, values in inputs.items()}


def pad(inputs, before, after):
    def around(values): return torch.nn.functional.pad(values, (before, after))
    return dict(inputs, input_ids=around(inputs['input_ids']), attention_mask=around(inputs['attention_mask']))


@torch.no_grad()
def constrained_generate(model, automaton, inputs):
    "The reference: greedy `generate` that may only write valid answers"
    length = inputs['input_ids'].shape[1]
    out = model.generate(**inputs, token_type_ids=torch.zeros_like(inputs['input_ids']), do_sample=False, max_new_tokens=300,
                         prefix_allowed_tokens_fn=allowed_tokens(automaton, length))
    rows = [row[length:].tolist() for row in out]
    return [tuple(row[:row.index(automaton.tokenizer.eos_token_id) + 1]) for row in rows]


@torch.no_grad()
def brute_force(model, automaton, inputs, row=0):
    "Each answer's log-probability among valid answers and among all texts, from one ordinary forward pass per answer (all in a batch)"
    one, result = row_of(inputs, row), {}
    prefix = one['input_ids']
    annotations = list(automaton.schema.annotations())
    sentences = [automaton.tokens(annotation) for annotation in annotations]
    longest = max(map(len, sentences))
    endings = torch.tensor([list(tokens) + [0] * (longest - len(tokens)) for tokens in sentences])   # causal: what comes later does not matter
    ids = torch.cat([prefix.expand(len(sentences), -1), endings], 1)
    kinds = torch.cat([torch.zeros_like(prefix).expand(len(sentences), -1), torch.ones_like(endings)], 1)
    logits = model(input_ids=ids, token_type_ids=kinds, attention_mask=torch.ones_like(ids),
                   pixel_values=one['pixel_values'].expand(len(sentences), -1, -1, -1)).logits[:, prefix.shape[1] - 1:-1].double()
    for annotation, tokens, rows in zip(annotations, sentences, logits):
        state, valid, raw = automaton.start, 0., 0.
        for token, scores in zip(tokens, rows):
            allowed = automaton.next(state)
            valid += float(scores[token] - scores[list(allowed)].logsumexp(0))
            raw += float(scores[token] - scores.logsumexp(0))
            state = allowed[token]
        result[automaton.schema.codes(annotation)] = valid, raw
    return result


class count_forwards:
    "Counts how often the language model runs, and over how many tokens"
    def __init__(self, model): self.language_model, self.n = model.model.language_model, 0

    def _count(self, *_): self.n += 1

    def __enter__(self):
        self.hook = self.language_model.register_forward_hook(self._count)
        return self

    def __exit__(self, *_): self.hook.remove()
