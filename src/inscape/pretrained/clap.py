"""The tokens of CLAP's audio tower before they are pooled (Wu et al. 2023; the tower is HTSAT, Chen et al. 2022).

CLAP's own audio embedding is one vector for 10 seconds. The tower's last layer is an image of 8 x 8 tokens: the mel
spectrogram of 10 s was cut into 4 pieces of 2.5 s, which lie under each other, so that each piece has 8 columns in time
and 2 rows in frequency. Averaging the rows and setting the pieces one after another gives 32 frames of 768 numbers in
10 s: **3.2 frames per second**. The mean of these frames is the vector that CLAP itself pools and then projects.

48 kHz. A recording is cut into windows of 10 s that know nothing of each other; inside a window every frame sees the
whole of it. A shorter one is repeated to fill the window, as in CLAP's training, and only the frames of the sound
itself are kept. The tower stretches 10.01 s of spectrogram over its image, so that a frame's sound is up to 10 ms
beside its block. The fused model's second look at recordings over 10 s never applies, since no window is longer.

Legend: B windows, S samples, T frames, M mel bands, F frames of the spectrogram, D width of the states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inscape.pretrained.codec import check_samples, load_pretrained
from inscape.user_paths import user_path

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DEFAULT", "ClapEncoder", "open_clap", "tiny_clap"]

DEFAULT = "laion/clap-htsat-fused"  # laion/clap-htsat-unfused is read as well
WINDOWS_AT_ONCE = 8


class ClapEncoder:
    """The audio tower of a transformers ClapModel as an `AudioCodec`."""

    can_decode = False

    def __init__(self, model: Any, features: Any, name: str, *, device: str = "cpu") -> None:
        """model: a ClapAudioModel. features: its ClapFeatureExtractor. ValueError if the two do not fit."""
        config, tower = model.config, model.audio_encoder
        self._model, self._features, self._device = model.to(device), features, torch.device(device)
        self._window = int(features.max_length_s * features.sampling_rate)
        pieces = config.spec_size // config.num_mel_bins
        frames = config.spec_size // (tower.patch_stride[1] * 2 ** (len(config.depths) - 1)) * pieces
        spectrogram = self._window // features.hop_length + 1
        if (
            features.feature_size != config.num_mel_bins
            or features.padding != "repeatpad"
            or spectrogram > config.spec_size * pieces
            or self._window % frames
        ):
            raise ValueError(
                f"{name}: preprocessor_config.json does not fit config.json: {features.feature_size} mel bands of "
                f"{spectrogram} frames, padding {features.padding!r}; the model reads {config.num_mel_bins} bands of "
                f"at most {config.spec_size * pieces} frames, padding 'repeatpad', and makes {frames} frames of them"
            )
        self._block = self._window // frames
        self.name, self.sample_rate, self.dimension = name, int(features.sampling_rate), int(tower.num_features)
        self.rate_hz = self.sample_rate / self._block

    def encode(self, samples: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T D"]]:
        """See `AudioCodec.encode`; windows, all of one length, go through the tower together."""
        check_samples(samples)
        length = self._window
        cut = [[samples_S[at : at + length] for at in range(0, len(samples_S), length)] for samples_S in samples]
        windows = [window for parts in cut for window in parts]
        states: list[np.ndarray] = []
        for at in range(0, len(windows), WINDOWS_AT_ONCE):
            states += self._encode(windows[at : at + WINDOWS_AT_ONCE])
        in_order = iter(states)
        return [np.concatenate([next(in_order) for _ in parts]) for parts in cut]

    def decode(self, latent_TD: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " S"]:
        """ValueError: CLAP describes sound, it does not make it."""
        raise ValueError("clap cannot be decoded into sound; use mimi, encodec or lyra")

    @torch.inference_mode()
    def _encode(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        mel_BFM = np.stack([self._log_mel(window) for window in windows])
        found = self._model(
            input_features=torch.as_tensor(mel_BFM, device=self._device)[:, None],
            is_longer=torch.zeros(len(windows), 1, dtype=torch.bool, device=self._device),
        )
        states_BTD = found.last_hidden_state.mean(2).transpose(1, 2).float().cpu().numpy()
        frames = [math.ceil(len(window) / self._block) for window in windows]
        return [np.ascontiguousarray(states_BTD[i, :count]) for i, count in enumerate(frames)]

    def _log_mel(self, window: np.ndarray) -> Float[np.ndarray, "F M"]:
        """What transformers' ClapFeatureExtractor computes of at most 10 s, without its draw of random numbers."""
        from transformers.audio_utils import spectrogram, window_function

        features = self._features
        filled = np.zeros(self._window, dtype=np.float32)
        repeated = np.tile(window, self._window // len(window))
        filled[: len(repeated)] = repeated
        mel_MF = spectrogram(
            filled,
            window_function(features.fft_window_size, "hann"),
            frame_length=features.fft_window_size,
            hop_length=features.hop_length,
            power=2.0,
            mel_filters=features.mel_filters if features.truncation == "fusion" else features.mel_filters_slaney,
            log_mel="dB",
        )
        return mel_MF.T.astype(np.float32)


def open_clap(where: str = DEFAULT, device: str = "cpu") -> ClapEncoder:
    """CLAP by hub name or folder: a ClapModel, or a folder with a ClapAudioModel alone, and its preprocessor.

    ValueError in one line where its files are not to be had.
    """
    from transformers import ClapAudioModel, ClapModel

    where = where or DEFAULT
    alone = _holds_the_tower_alone(where)
    opened: Any = load_pretrained(ClapAudioModel if alone else ClapModel, where, "clap")
    tower = opened if alone else opened.audio_model
    # Named by what was opened, and not by what was asked for: the two are compared.
    return ClapEncoder(tower.float(), _feature_extractor(where), f"clap:{opened.name_or_path}", device=device)


def _holds_the_tower_alone(where: str) -> bool:
    try:
        config = json.loads((user_path(where) / "config.json").read_text())
    except (OSError, ValueError):  # a hub name, or a folder that load_pretrained will have something to say about
        return False
    return isinstance(config, dict) and config.get("model_type") == "clap_audio_model"


def _feature_extractor(where: str) -> Any:
    """How this model's spectrogram is made, which differs between models: from the folder, this machine, the hub."""
    from transformers import ClapFeatureExtractor

    folder = user_path(where)
    here, reason = str(folder) if folder.is_dir() else where, ""
    for local in (True, False):
        if folder.is_dir() and not local:
            break
        try:
            return ClapFeatureExtractor.from_pretrained(here, local_files_only=local)
        except Exception as error:  # the hub, the network and JSON each raise their own
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    raise ValueError(f"clap: no preprocessor_config.json from {where} ({reason})")


def tiny_clap(seed: int = 0) -> ClapEncoder:
    """Random weights, 16 numbers a frame, with CLAP's own rates: for tests, no knowledge in it."""
    from transformers import ClapAudioConfig, ClapAudioModel, ClapFeatureExtractor

    config = ClapAudioConfig(
        spec_size=64,
        num_mel_bins=16,
        window_size=4,
        patch_size=4,
        patch_stride=[4, 4],
        patch_embeds_hidden_size=8,
        depths=[2, 2],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        hidden_size=16,
        projection_dim=8,
        drop_path_rate=0.0,
    )
    features = ClapFeatureExtractor(feature_size=16, hop_length=1920, frequency_min=50, truncation="rand_trunc")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ClapAudioModel(config).eval().requires_grad_(False)
    return ClapEncoder(model, features, f"tiny-clap:{seed}")
