"""One speaker's sentences through espeak-ng, as a program of its own: `synthetic_voices.py` starts it.

espeak-ng keeps its voice, its oscillator's phase and its random numbers in process-wide C variables that neither
`espeak_Terminate` nor a new seed resets. In a process of its own it can disturb nobody, no thread can come between, and
what a speaker says depends on nothing but this speaker's settings and sentences.

In (one JSON document on stdin): library, data, voice, seed, rate, pitch, sentences. Out (stdout): the sample rate as
8 bytes, then for each sentence its number of bytes as 8 bytes and its samples as int16, in the machine's byte order.
It takes the standard library only, so that it starts in hundredths of a second.
"""

import ctypes
import json
import struct
import sys

__all__ = ["speak"]

SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, no audio device is touched
UTF8 = 1
RATE, VOLUME, PITCH = 1, 2, 3
QUIETER = 40  # per cent; at the default of 100 the loudest voices reach full scale and are limited


def speak(job: dict) -> tuple[int, list[bytes]]:
    """The sample rate in Hz and the int16 samples of each sentence; RuntimeError if espeak-ng refuses."""
    library = ctypes.CDLL(job["library"])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, job["data"].encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak-ng does not start with the voices in {job['data']}")
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples: int | None, count: int, _events: object) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
    if library.espeak_SetVoiceByName(job["voice"].encode()):
        raise RuntimeError(f"espeak-ng has no voice {job['voice']}")
    for parameter, value in ((RATE, job["rate"]), (VOLUME, QUIETER), (PITCH, job["pitch"])):
        library.espeak_SetParameter(parameter, value, 0)
    spoken = []
    for sentence in job["sentences"]:
        chunks.clear()
        text = sentence.encode()
        if library.espeak_Synth(text, len(text) + 1, 0, 0, 0, UTF8, None, None):
            raise RuntimeError(f"espeak-ng could not say {sentence!r}")
        spoken.append(b"".join(chunks))
    return rate, spoken


if __name__ == "__main__":
    rate, spoken = speak(json.load(sys.stdin))
    sys.stdout.buffer.write(struct.pack("=q", rate))
    for samples in spoken:
        sys.stdout.buffer.write(struct.pack("=q", len(samples)) + samples)
