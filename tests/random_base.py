"""A PaliGemma 2 with random weights and its own small tokenizer, saved as a plain transformers folder."""
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_vqa.schema import EventSchema


def make_tokenizer() -> PreTrainedTokenizerFast:
    schema = EventSchema()
    texts = [schema.question()] + [schema.render({event: phase}) for event in schema.events for phase in schema.phases] + [schema.render({})]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=340, special_tokens=['<pad>', '<eos>', '<bos>', '<unk>', '<image>'],
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='<pad>', eos_token='<eos>', bos_token='<bos>', unk_token='<unk>',
                                   extra_special_tokens={'image_token': '<image>'})


def make_base(folder:Path, seed:int=0, image_size:int=28, layers:int=2, vocab_size:int|None=None, soft_capping:bool=True,
              sliding_window:int=4096, hidden_size:int=64, dtype=torch.float32) -> Path:
    "`vocab_size` may be larger than the tokenizer's, as the true 257,216"
    image_processor = SiglipImageProcessorPil(size=dict(height=image_size, width=image_size))
    image_processor.image_seq_length = (image_size // 14) ** 2
    processor = PaliGemmaProcessor(image_processor, make_tokenizer())
    text = Gemma2Config(vocab_size=vocab_size or len(processor.tokenizer), hidden_size=hidden_size, num_hidden_layers=layers,
                        num_attention_heads=4, num_key_value_heads=2, head_dim=hidden_size // 4, intermediate_size=2 * hidden_size,
                        query_pre_attn_scalar=hidden_size // 4, sliding_window=sliding_window, pad_token_id=0, eos_token_id=1, bos_token_id=2,
                        attn_logit_softcapping=50.0 if soft_capping else None, final_logit_softcapping=30.0 if soft_capping else None)
    vision = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=image_size,
                                patch_size=14, vision_use_head=False, projection_dim=hidden_size)
    config = PaliGemmaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=hidden_size,
                             hidden_size=hidden_size, image_token_index=processor.image_token_id, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    torch.manual_seed(seed)
    model = PaliGemmaForConditionalGeneration._from_config(config).to(dtype)
    with torch.no_grad():  # the usual 0.02 leaves attention and head flat, and a wrong mask unseen
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2: parameter.mul_(6 if 'proj' in name or 'fc' in name else 10)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
