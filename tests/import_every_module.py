"""Import every module of the installed package; run by CI in an environment without any extra."""

from __future__ import annotations

import importlib
import pkgutil

import tellapart

if __name__ == "__main__":
    names = [module.name for module in pkgutil.walk_packages(tellapart.__path__, "tellapart.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    print(f"{len(names)} modules import with the core dependencies alone")
