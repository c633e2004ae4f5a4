"""Write tiny models with random weights: a program for the environment of the models.

    python make_weights.py FOLDER

``musicgen`` and ``melody`` are checkpoints of transformers; ``audiogen`` is one of the package audiocraft, whose
parameters and settings are written here by the names that it gives them, and ``t5-tiny`` is the text encoder that it
names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

CODES = 64
BOOKS = 4
WIDTH = 32
LAYERS = 2
TEXT_WIDTH = 16
FILTERS = 4
CODEC_WIDTH = 16
RATIOS = [8, 5, 4, 2]  # of AudioGen's codec: 16000 Hz and 50 moments a second
TEXT = T5Config(
    vocab_size=200, d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1
)
CODEC = EncodecConfig(
    sampling_rate=32000,
    audio_channels=1,
    num_filters=FILTERS,
    num_residual_layers=1,
    upsampling_ratios=[8, 5, 4, 4],
    codebook_size=CODES,
    codebook_dim=CODEC_WIDTH,
    hidden_size=CODEC_WIDTH,
    target_bandwidths=[1.2],  # 4 codebooks of 6 bits, 50 times a second
    use_causal_conv=False,
    num_lstm_layers=1,
)
DECODER = {
    "vocab_size": CODES,
    "hidden_size": WIDTH,
    "ffn_dim": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_codebooks": BOOKS,
    "pad_token_id": CODES,
    "bos_token_id": CODES,
}


def main(folder: Path) -> None:
    torch.manual_seed(1)
    parts = {"text_encoder": TEXT.to_dict(), "audio_encoder": CODEC.to_dict()}
    music = MusicgenConfig(**parts, decoder=MusicgenDecoderConfig(**DECODER).to_dict())
    _save(MusicgenForConditionalGeneration(music), folder / "musicgen")
    melody = MusicgenMelodyConfig(
        **parts, decoder=MusicgenMelodyDecoderConfig(**DECODER).to_dict(), num_chroma=12, chroma_length=235
    )
    _save(MusicgenMelodyForConditionalGeneration(melody), folder / "melody")
    T5EncoderModel(TEXT).save_pretrained(folder / "t5-tiny")
    _tokenizer().save_pretrained(folder / "t5-tiny")
    write_audiogen(folder / "audiogen")


def _save(model: Any, folder: Path) -> None:
    model.generation_config.decoder_start_token_id = CODES
    model.generation_config.pad_token_id = CODES
    model.generation_config.bos_token_id = CODES
    with torch.no_grad():  # larger than what training begins with, so that text and melody matter
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and (name.startswith("decoder.") or "_proj." in name):
                parameter.mul_(10)
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()  # zeros until they are trained, and then all sounds are the same
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of T5's kind that knows single letters."""
    letters = "▁abcdefghijklmnopqrstuvwxyz0123456789,.'-"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def write_audiogen(folder: Path) -> None:
    torch.manual_seed(2)
    folder.mkdir()
    torch.save({"best_state": language_model(), "xp.cfg": yaml.safe_dump(SETTINGS)}, folder / "state_dict.bin")
    torch.save({"best_state": codec(), "xp.cfg": yaml.safe_dump(CODEC_SETTINGS)}, folder / "compression_state_dict.bin")


SETTINGS = {
    "sample_rate": 16000,
    "dataset": {"segment_duration": 2},
    "transformer_lm": {
        "dim": WIDTH, "num_heads": 4, "num_layers": LAYERS, "hidden_scale": 4, "n_q": BOOKS, "card": CODES,
        "activation": "gelu", "norm_first": True, "bias_proj": False, "bias_ff": False, "bias_attn": False,
    },
    "conditioners": {"description": {"model": "t5", "t5": {"name": "t5-tiny", "finetune": False}}},
}  # fmt: skip
CODEC_SETTINGS = {
    "sample_rate": 16000,
    "channels": 1,
    "encodec": {
        "sample_rate": "${sample_rate}", "channels": "${channels}", "causal": False, "renormalize": False,
        "autoencoder": "seanet", "quantizer": "rvq",
    },
    "seanet": {
        "dimension": CODEC_WIDTH, "channels": "${channels}", "causal": "${encodec.causal}", "n_filters": FILTERS,
        "n_residual_layers": 1, "ratios": RATIOS, "norm": "weight_norm", "kernel_size": 7, "residual_kernel_size": 3,
        "last_kernel_size": 7, "dilation_base": 2, "pad_mode": "constant", "true_skip": True, "compress": 2, "lstm": 1,
        "decoder": {"trim_right_ratio": 1.0}, "encoder": {},
    },
    "rvq": {"n_q": BOOKS, "bins": CODES},
}  # fmt: skip


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * 0.2


def language_model() -> dict[str, torch.Tensor]:
    found = {f"emb.{book}.weight": _random(CODES + 1, WIDTH) for book in range(BOOKS)}
    for number in range(LAYERS):
        layer = f"transformer.layers.{number}"
        for attention in ("self_attn", "cross_attention"):
            found[f"{layer}.{attention}.in_proj_weight"] = _random(3 * WIDTH, WIDTH)
            found[f"{layer}.{attention}.out_proj.weight"] = _random(WIDTH, WIDTH)
        found[f"{layer}.linear1.weight"] = _random(4 * WIDTH, WIDTH)
        found[f"{layer}.linear2.weight"] = _random(WIDTH, 4 * WIDTH)
        for norm in ("norm1", "norm2", "norm_cross"):
            found |= _norm(f"{layer}.{norm}")
    found |= _norm("out_norm")
    found |= {f"linears.{book}.weight": _random(CODES, WIDTH) for book in range(BOOKS)}
    projection = "condition_provider.conditioners.description.output_proj"
    return found | {f"{projection}.weight": _random(WIDTH, TEXT_WIDTH), f"{projection}.bias": _random(WIDTH)}


def _norm(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + _random(WIDTH), f"{name}.bias": _random(WIDTH)}


def codec() -> dict[str, torch.Tensor]:
    wide = FILTERS * 2 ** len(RATIOS)
    found = _convolution("encoder.model.0.conv.conv", 1, FILTERS, 7)
    channels, place = FILTERS, 1
    for ratio in reversed(RATIOS):
        found |= _block(f"encoder.model.{place}", channels)
        found |= _convolution(f"encoder.model.{place + 2}.conv.conv", channels, 2 * channels, 2 * ratio)
        channels, place = 2 * channels, place + 3
    found |= _lstm(f"encoder.model.{place}", wide)
    found |= _convolution(f"encoder.model.{place + 2}.conv.conv", wide, CODEC_WIDTH, 7)
    found |= _convolution("decoder.model.0.conv.conv", CODEC_WIDTH, wide, 7)
    found |= _lstm("decoder.model.1", wide)
    place = 3
    for ratio in RATIOS:
        found |= _convolution(
            f"decoder.model.{place}.convtr.convtr", channels, channels // 2, 2 * ratio, transposed=True
        )
        channels //= 2
        found |= _block(f"decoder.model.{place + 1}", channels)
        place += 3
    found |= _convolution(f"decoder.model.{place}.conv.conv", FILTERS, 1, 7)
    for book in range(BOOKS):
        name = f"quantizer.vq.layers.{book}._codebook"
        found[f"{name}.inited"] = torch.ones(1)
        found[f"{name}.cluster_size"] = torch.ones(CODES)
        found[f"{name}.embed"] = torch.randn(CODES, CODEC_WIDTH)
        found[f"{name}.embed_avg"] = torch.randn(CODES, CODEC_WIDTH)
    return found


def _convolution(
    name: str, before: int, after: int, kernel: int, *, transposed: bool = False
) -> dict[str, torch.Tensor]:
    shape = (before, after) if transposed else (after, before)
    return {
        f"{name}.weight_g": 1 + _random(shape[0], 1, 1).abs(),
        f"{name}.weight_v": _random(*shape, kernel),
        f"{name}.bias": _random(after),
    }


def _block(name: str, channels: int) -> dict[str, torch.Tensor]:
    first = _convolution(f"{name}.block.1.conv.conv", channels, channels // 2, 3)
    return first | _convolution(f"{name}.block.3.conv.conv", channels // 2, channels, 1)


def _lstm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lstm.weight_ih_l0": _random(4 * width, width),
        f"{name}.lstm.weight_hh_l0": _random(4 * width, width),
        f"{name}.lstm.bias_ih_l0": _random(4 * width),
        f"{name}.lstm.bias_hh_l0": _random(4 * width),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
