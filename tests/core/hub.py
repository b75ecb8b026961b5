"""A hub on this machine: what `core.folders` asks of huggingface_hub, served from a folder OWNER/NAME/... of files."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace


def stand_in(root: Path, on_download: Callable[[str], None] = lambda _: None) -> ModuleType:
    """Return a module to put in the place of huggingface_hub."""

    def list_repo_files(repository: str) -> list[str]:
        folder = root / repository
        if not folder.is_dir():
            raise OSError(f"404 Client Error.\n\nRepository Not Found: {repository}")
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def hf_hub_download(repository: str, name: str) -> str:
        on_download(name)
        return str(root / repository / name)

    def parse_safetensors_file_metadata(repository: str, name: str) -> SimpleNamespace:
        with (root / repository / name).open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        metadata = head.pop("__metadata__", {})
        return SimpleNamespace(tensors={k: SimpleNamespace(**v) for k, v in head.items()}, metadata=metadata)

    module = ModuleType("huggingface_hub")
    for function in (list_repo_files, hf_hub_download, parse_safetensors_file_metadata):
        setattr(module, function.__name__, function)
    return module
