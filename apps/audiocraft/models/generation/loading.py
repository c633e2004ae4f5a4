"""Load models: checkpoints of transformers, and those of audiocraft."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from generation import checkpoints, weights
from generation.devices import check_device, check_memory, precision
from generation.errors import CannotLoad
from generation.melody import MelodyFormat
from generation.variables import Variables

MUSIC_WINDOW: Final = 30.0  # seconds of the sounds on which MusicGen was trained
_NEEDED: Final = ("*.safetensors", "pytorch_model*.bin", checkpoints.LANGUAGE_MODEL)


_IN_FLOAT32: Final = frozenset(
    {"audio_encoder"}
)  # the codec decodes once for each sample: half precision would be heard


class _MusicGen(MusicgenForConditionalGeneration):
    _keep_in_fp32_modules_strict = _IN_FLOAT32


class _MusicGenMelody(MusicgenMelodyForConditionalGeneration):
    _keep_in_fp32_modules_strict = _IN_FLOAT32


_CLASSES: Final[dict[str, type[PreTrainedModel]]] = {"musicgen": _MusicGen, "musicgen_melody": _MusicGenMelody}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: float  # seconds that it can generate at once
    melody: MelodyFormat | None  # None: it takes no melody


def load(
    name: str, variable: str, variables: Variables, device_name: str, *, dtype: torch.dtype | None = None
) -> Loaded:
    """Load the weights that ``variable`` names, with the precision of the device unless ``dtype`` is stated.

    Raises CannotLoad.
    """
    device = check_device(device_name)
    dtype = dtype or precision(device)
    folder = weights.find([name], variable, variables, _NEEDED)
    if (folder / checkpoints.LANGUAGE_MODEL).is_file() and _kind(folder) is None:
        return _of_audiocraft(folder, variable, variables, device, dtype)
    return _of_transformers(folder, variable, device, dtype)


def _kind(folder: Path) -> str | None:
    """Return the type of the model that transformers' configuration states."""
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{folder}/config.json cannot be read: {error}") from error
    return str(stated.get("model_type")) if isinstance(stated, dict) else None


def _of_transformers(folder: Path, variable: str, device: torch.device, dtype: torch.dtype) -> Loaded:
    kind = _kind(folder)
    if kind not in _CLASSES:
        raise CannotLoad(f"{variable}: {folder} has a model of type {kind}, not one of {', '.join(_CLASSES)}")
    made = _CLASSES[kind]
    config = _read(folder, variable, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))
    _check(config, made, dtype, device, variable)
    model = _read(folder, variable, lambda: made.from_pretrained(folder, local_files_only=True, dtype=dtype))
    return Loaded(
        model=model.to(device).eval(),
        tokenizer=_tokenizer(folder, variable),
        window=MUSIC_WINDOW,
        melody=MelodyFormat.of_folder(folder) if kind == "musicgen_melody" else None,
    )


def _of_audiocraft(
    folder: Path, variable: str, variables: Variables, device: torch.device, dtype: torch.dtype
) -> Loaded:
    checkpoint = checkpoints.Checkpoint(folder)
    name = checkpoint.text_encoder
    text = weights.find([f"google-t5/{name}", name], f"{variable} (its text encoder)", variables, _NEEDED)
    text_config = _read(text, variable, lambda: T5Config.from_pretrained(text, local_files_only=True))
    config = checkpoint.config(text_config)
    _check(config, _MusicGen, dtype, device, variable)
    encoder = _read(text, variable, lambda: T5EncoderModel.from_pretrained(text, local_files_only=True, dtype=dtype))
    parameters = checkpoint.parameters()
    parameters |= {f"text_encoder.{name}": value for name, value in encoder.state_dict().items()}
    return Loaded(
        model=_made(config, parameters, folder, dtype).to(device).eval(),
        tokenizer=_tokenizer(text, variable),
        window=checkpoint.window_seconds,
        melody=None,
    )


def _made(config: Any, parameters: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model with these parameters. Raises CannotLoad unless they are exactly those that it has."""

    def make() -> Any:
        return _MusicGen.from_pretrained(
            None, config=config, state_dict=parameters, dtype=dtype, output_loading_info=True
        )

    model, report = _read(folder, "AUDIO_GEN_MODEL", make)
    wrong = {name: found for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if (found := report[name])}
    if wrong:
        shown = "; ".join(
            f"{name.partition('_')[0]}: {', '.join(map(str, sorted(found)[:3]))}" for name, found in wrong.items()
        )
        raise CannotLoad(f"{folder}: its parameters are not those of AudioGen: {shown}")
    codes = config.decoder.vocab_size
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, name, codes)
    return model


def _read(folder: Path, variable: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # transformers raises errors of many kinds for files that are wrong
        raise CannotLoad(f"{variable}: {folder} cannot be loaded: {str(error).splitlines()[0][:300]}") from error


def _tokenizer(folder: Path, variable: str) -> PreTrainedTokenizerBase:
    return _read(folder, variable, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))


def _check(config: Any, made: type[PreTrainedModel], dtype: torch.dtype, device: torch.device, variable: str) -> None:
    """Raise CannotLoad for stereo models, and for those that do not fit into the memory."""
    if config.decoder.audio_channels != 1:
        raise CannotLoad(f"{variable}: stereo models are not supported; name one without stereo")
    with torch.device("meta"):
        count = sum(one.numel() for one in made(config).parameters())
    check_memory(count, dtype, device, variable)
