"""All models: whoever imports this module has every table in `Base.metadata`.

They are found by the name of their module, `app/<domain>/models.py`, so that none can be forgotten; and
without what else is in their packages, which nobody may need.
"""

from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent

for file in sorted([*HERE.glob("*/**/models.py"), *HERE.glob("*/**/models/__init__.py")]):
    module = file.parent if file.stem == "__init__" else file.with_suffix("")
    import_module(".".join(("app", *module.relative_to(HERE).parts)))
