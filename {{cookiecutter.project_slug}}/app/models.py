"""All models: whoever imports this module has every table in `Base.metadata`.

They are found by the name of their module, `app/<domain>/models.py`, so that none can be forgotten.
"""

from importlib import import_module
from pkgutil import walk_packages

import app

for module in walk_packages(app.__path__, "app."):
    if module.name.endswith(".models") and module.name != __name__:
        import_module(module.name)
