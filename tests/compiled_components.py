"""Write kfp_components/compiled/NAME.yaml, for pipelines that load a component from a file: ``make components``.

The files are made, never edited: ``tests/unit/kfp/test_kfp_compiled.py`` fails when they are behind the components.
"""

import tempfile
from pathlib import Path

import kfp_components

FOLDER = Path(kfp_components.__file__).parent / "compiled"


def compiled() -> dict[str, str]:
    """File name to the component's YAML."""
    from kfp import compiler

    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in kfp_components.__all__:
            file = Path(folder) / f"{name}.yaml"
            compiler.Compiler().compile(getattr(kfp_components, name), str(file))
            texts[file.name] = file.read_text(encoding="utf-8")
    return texts


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in compiled().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{FOLDER.name}/{name}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
