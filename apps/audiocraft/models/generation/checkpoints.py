"""Checkpoints of the package audiocraft, such as AudioGen's, as models of transformers.

The package itself pins torch 2.1. Its language model is the one that transformers' MusicGen classes implement, so the
parameters are renamed, as transformers' own conversion of MusicGen does. A checkpoint is two files, each with the
settings of its training: ``state_dict.bin``, the language model with the projection of the text, and
``compression_state_dict.bin``, the codec. They name the text encoder, whose parameters are elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from transformers import EncodecConfig, MusicgenConfig, MusicgenDecoderConfig, T5Config

from generation.errors import CannotLoad

LANGUAGE_MODEL: Final = "state_dict.bin"
CODEC: Final = "compression_state_dict.bin"
_REFERENCE: Final = re.compile(r"\$\{([\w.]+)\}")
_PROJECTION: Final = "condition_provider.conditioners.description.output_proj."
_DECODER: Final = (  # of the language model, in this order
    (re.compile(r"^emb\."), "model.decoder.embed_tokens."),
    (re.compile(r"^transformer\."), "model.decoder."),
    (re.compile(r"^out_norm\."), "model.decoder.layer_norm."),
    (re.compile(r"^linears\."), "lm_heads."),
    (re.compile(r"\.cross_attention\."), ".encoder_attn."),
    (re.compile(r"\.linear([12])\."), r".fc\1."),
    (re.compile(r"\.norm1\."), ".self_attn_layer_norm."),
    (re.compile(r"\.norm2\."), ".final_layer_norm."),
    (re.compile(r"\.norm_cross\."), ".encoder_attn_layer_norm."),
)
_CODEC: Final = (
    (re.compile(r"^(encoder|decoder)\.model\."), r"\1.layers."),
    (re.compile(r"\.(?:conv\.conv|convtr\.convtr)\."), ".conv."),
    (re.compile(r"^quantizer\.vq\.layers\.(\d+)\._codebook\."), r"quantizer.layers.\1.codebook."),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)


class Checkpoint:
    """A checkpoint in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises CannotLoad."""
        self._folder = folder
        self._language = _load(folder / LANGUAGE_MODEL)
        self._codec = _load(folder / CODEC)
        if "pretrained" in self._codec:
            raise CannotLoad(
                f"{folder}: its codec is another checkpoint, {self._codec['pretrained']}; "
                "use the same model's weights for transformers"
            )
        self._settings = _settings(self._language)
        self._codec_settings = _settings(self._codec)

    @property
    def text_encoder(self) -> str:
        """The name of the text encoder's weights."""
        return str(self._setting("conditioners.description.t5.name"))

    @property
    def window_seconds(self) -> float:
        """The length of the sounds on which it was trained."""
        return float(self._setting("dataset.segment_duration"))

    def config(self, text_encoder: T5Config) -> MusicgenConfig:
        """Return the configuration of the same model in transformers."""
        return MusicgenConfig(
            text_encoder=text_encoder.to_dict(),
            audio_encoder=self._codec_config().to_dict(),
            decoder=self._decoder_config().to_dict(),
        )

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters by their names in ``MusicgenForConditionalGeneration``, without the text encoder's."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self._language["best_state"].items():
            if name.startswith(_PROJECTION):
                found[f"enc_to_dec_proj.{name.removeprefix(_PROJECTION)}"] = value
                continue
            renamed = f"decoder.{_renamed(name, _DECODER)}"
            if renamed.endswith(".in_proj_weight"):  # the three projections of attention in one matrix
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    found[renamed.replace("in_proj_weight", f"{letter}_proj.weight")] = part
            else:
                found[renamed] = value
        for name, value in self._codec["best_state"].items():
            found[f"audio_encoder.{_renamed(name, _CODEC)}"] = value
        return found

    def _setting(self, path: str) -> Any:
        return _resolved(self._settings, path, self._folder / LANGUAGE_MODEL)

    def _codec_setting(self, path: str) -> Any:
        return _resolved(self._codec_settings, path, self._folder / CODEC)

    def _decoder_config(self) -> MusicgenDecoderConfig:
        stated = self._setting
        codes = int(stated("transformer_lm.card"))
        return MusicgenDecoderConfig(
            vocab_size=codes,
            hidden_size=int(stated("transformer_lm.dim")),
            ffn_dim=int(stated("transformer_lm.hidden_scale") * stated("transformer_lm.dim")),
            num_hidden_layers=int(stated("transformer_lm.num_layers")),
            num_attention_heads=int(stated("transformer_lm.num_heads")),
            activation_function=str(stated("transformer_lm.activation")),
            num_codebooks=int(stated("transformer_lm.n_q")),
            audio_channels=int(self._codec_setting("encodec.channels")),
            bos_token_id=codes,
            pad_token_id=codes,
            tie_word_embeddings=False,
        )

    def _codec_config(self) -> EncodecConfig:
        stated = self._codec_setting
        rate, ratios = int(stated("encodec.sample_rate")), [int(ratio) for ratio in stated("seanet.ratios")]
        books, size = int(stated("rvq.n_q")), int(stated("rvq.bins"))
        frames = math.ceil(rate / math.prod(ratios))  # a second
        return EncodecConfig(
            sampling_rate=rate,
            audio_channels=int(stated("encodec.channels")),
            normalize=bool(stated("encodec.renormalize")),
            use_causal_conv=bool(stated("encodec.causal")),
            target_bandwidths=[books * frames * math.ceil(math.log2(size)) / 1000],  # kilobits a second
            codebook_size=size,
            codebook_dim=int(stated("seanet.dimension")),
            hidden_size=int(stated("seanet.dimension")),
            num_filters=int(stated("seanet.n_filters")),
            num_residual_layers=int(stated("seanet.n_residual_layers")),
            upsampling_ratios=ratios,
            norm_type=str(stated("seanet.norm")),
            kernel_size=int(stated("seanet.kernel_size")),
            last_kernel_size=int(stated("seanet.last_kernel_size")),
            residual_kernel_size=int(stated("seanet.residual_kernel_size")),
            dilation_growth_rate=int(stated("seanet.dilation_base")),
            pad_mode=str(stated("seanet.pad_mode")),
            compress=int(stated("seanet.compress")),
            num_lstm_layers=int(stated("seanet.lstm")),
            trim_right_ratio=float(stated("seanet.decoder.trim_right_ratio")),
            use_conv_shortcut=not stated("seanet.true_skip"),
        )


def _load(path: Path) -> dict[str, Any]:
    """Read a file of torch: tensors and plain values, never code."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CannotLoad(f"{path.parent} has no {path.name}") from None
    except Exception as error:
        raise CannotLoad(f"{path} cannot be read: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(found, dict) or not ({"best_state", "xp.cfg"} <= found.keys() or "pretrained" in found):
        raise CannotLoad(f"{path} is not a checkpoint of audiocraft: it has no best_state and xp.cfg")
    return found


def _settings(checkpoint: Mapping[str, Any]) -> Any:
    return yaml.safe_load(checkpoint["xp.cfg"])


def _resolved(settings: Any, path: str, file: Path) -> Any:
    """Return a setting. A text may refer to another setting: ``${sample_rate}``."""
    for _step in range(8):  # references to references
        value = settings
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise CannotLoad(f"{file}: its settings have no {path}")
            value = value[part]
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None:
            return value
        path = reference[1]
    raise CannotLoad(f"{file}: the setting {path} refers to itself")


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name
