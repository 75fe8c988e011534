"""`--format sbert`: a folder that sentence-transformers loads, without a network."""

from __future__ import annotations

from pathlib import Path

from inscape.core.rundir import write_atomically
from inscape.export.card import model_card
from inscape.export.hub_folder import megabytes
from inscape.export.sentence_transformer import sentence_transformer
from inscape.studies.visual.model import TrainedCodec

__all__ = ["write_sbert"]

USAGE = """
## Use

The package `inscape` must be installed beside sentence-transformers. From version 6 on, sentence-transformers imports
a class that is not its own only with `trust_remote_code=True`; no code is in this folder.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this/folder", trust_remote_code=True)
z = model.encode(["a red ball is on the blue block", "the blue block supports a red ball"])
print(model.similarity(z, z))
```

The same without that word: `inscape.export.sentence_transformer.load("this/folder")`. The whole codec is in the folder:
`inscape.VisualCodec.from_pretrained("this/folder")` reads embeddings' latents back into text.
"""


def write_sbert(codec: TrainedCodec, about: str, folder: Path) -> str:
    """Fill the folder; returns what it is, in words."""
    sentence_transformer(codec, about, device="cpu").save(str(folder), create_model_card=False)
    card = model_card(about, USAGE, library="sentence-transformers", tags=["sentence-transformers"])
    write_atomically(folder / "README.md", card)
    return (
        f"for SentenceTransformer(folder, trust_remote_code=True), {codec.model.config.z} numbers a sentence, "
        f"{megabytes(folder)}"
    )
