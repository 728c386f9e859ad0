"""The fine-tuning script that everybody has: `Trainer` and PEFT, bare names for LoRA, and nothing of this package."""
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, Trainer, TrainingArguments

TARGETS = ['q_proj', 'o_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj', 'down_proj']


def train(base:str, data:Path, output:Path, before:str='answer en ', steps:int=40, is_lora:bool=True) -> Path:
    "Returns the last checkpoint. `before`: what the script puts before the question; a record that has it already gets it twice"
    processor = AutoProcessor.from_pretrained(base)
    model = PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    if is_lora: model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type='CAUSAL_LM'))
    rows = [json.loads(line) for line in (data / 'labels.jsonl').read_text().splitlines()]

    def collate(examples):
        return processor(text=['<image>' + before + example['question'] for example in examples],
                         images=[Image.open(data / example['image']).convert('RGB') for example in examples],
                         suffix=[example['answer'] for example in examples], return_tensors='pt', padding='longest')

    torch.manual_seed(0)
    Trainer(model=model, train_dataset=rows, data_collator=collate,
            args=TrainingArguments(output_dir=str(output), max_steps=steps, save_steps=steps, per_device_train_batch_size=6,
                                   learning_rate=6e-3 if is_lora else 2e-3, lr_scheduler_type='cosine', remove_unused_columns=False, use_cpu=True,
                                   report_to=[], logging_steps=20, disable_tqdm=True)).train()
    return Path(output) / f'checkpoint-{steps}'
