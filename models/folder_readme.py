"""Write the ``README.md`` of a model folder, with the YAML header that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

README_NAME = "README.md"
_TAGS = ("astronomy", "time-domain", "continuous-readout", "transient-detection")
SEARCH_USE = "```sh\nshutterless search night/*.fits.fz --model FOLDER --out found\n```\n"
NETWORK_USE = """
```python
import shutterless  # makes the family known to AutoModel
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")
```
"""


def write_readme(folder: str | Path, family: str, size: str, facts: Mapping[str, Any], use: str) -> None:
    """Write the ``README.md`` of a model folder.

    Parameters
    ----------
    folder : path
    family : str
        Such as ``"transformer"``.
    size : str
        Such as ``"408,232 parameters"``.
    facts : mapping
        What its configuration says, by name; empty values are left out.
    use : str
        How it is used, in Markdown.
    """
    header = "\n".join(["library_name: shutterless", "tags:", *(f"- {tag}" for tag in (*_TAGS, family))])
    known = [f"| {name} | {value} |" for name, value in facts.items() if value not in ("", None, {}, [])]
    sections = [
        f"---\n{header}\n---\n\n# {family}, {size}\n",
        "It was made to tell events of milliseconds to seconds from noise in continuous-readout images. Where they "
        "exist, `training.json` says what it learned from, and `rates.json` how many false alarms it raises. Nothing "
        "here is a pickle.\n",
        "## Use\n\n" + use,
        "## Configuration\n\n| | |\n|---|---|\n" + "\n".join(known),
    ]
    (Path(folder) / README_NAME).write_text("\n".join(sections) + "\n", encoding="utf-8")
